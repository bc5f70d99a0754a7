"""What lies beside the tensors of two files: every difference is told by its place, and nothing else is."""

from __future__ import annotations

import argparse
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from convinspect.formats.torch.objects import Objects, parameter_names, read_objects, versions
from convinspect.verifying import objects as object_differences
from convinspect.verifying.objects import differences
from support import hostile
from support.paths import FIXTURES
from support.sampling import times

BOTH_AGES = pytest.mark.parametrize("zipped", [True, False])
MILLION = 1 << 20
"""Bytes from which a text or bytes stay unread in their stream."""


def tree(path: Path) -> Objects:
    found = read_objects(path)
    assert found is not None
    return found


def saved(path: Path, value: Any, zipped: bool = True, protocol: int = 2) -> Objects:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return tree(path)


def told(folder: Path, a: Any, b: Any, zipped: bool = True) -> dict[str, str]:
    """What differs between two values, by place."""
    found, number, _ = differences(saved(folder / "a", a, zipped), saved(folder / "b", b, zipped), 100)
    assert number == len(found)
    return {one.place: one.what for one in found}


def streams(folder: Path, a: bytes, b: bytes) -> dict[str, str]:
    """The same for two pushed values that no pickler of today writes."""
    found: list[Objects] = []
    for name, value in (("a", a), ("b", b)):
        place = folder / f"{name}_stream"
        place.mkdir(exist_ok=True)
        found.append(tree(hostile.zip_file(place, hostile.pickled(value))))
    return {one.place: one.what for one in differences(found[0], found[1], 100)[0]}


def plain(value: Any) -> Any:
    """What must be equal for two values to be the same: types, NaN as itself, 0 not as -0; order only in sequences."""
    if isinstance(value, dict):
        return "dict", frozenset((repr(key), plain(one)) for key, one in value.items())
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(map(repr, value))
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(plain, value))
    return repr(value)


LEAVES = st.sampled_from([None, True, 1, 0, 0.0, -0.0, 1.0, math.nan, "1", "", "a", b"a", b"", 2**70])
KEYS = st.one_of(st.sampled_from(["a", "b", "1"]), st.integers(0, 2), st.tuples(st.integers(0, 1)), st.booleans())
VALUES = st.recursive(
    st.one_of(LEAVES, st.sets(st.integers(0, 3)), st.frozensets(st.sampled_from("abc"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict),
    ),
    max_leaves=6,
)


@settings(max_examples=times(40, 80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(a=VALUES, b=VALUES, protocol=st.integers(2, 5), same=st.booleans())
def test_two_values_differ_where_python_says_so(tmp_path: Path, a: Any, b: Any, protocol: int, same: bool) -> None:
    b = a if same else b
    one, other = (saved(tmp_path / name, value, True, protocol) for name, value in (("a", a), ("b", b)))
    found, number, _ = differences(one, other, 9)
    assert (number > 0) == (plain(a) != plain(b)), found


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("items", [[], [1], [1, 2]])
def test_a_set_is_no_frozenset(tmp_path: Path, protocol: int, items: list[int]) -> None:
    before = saved(tmp_path / "a", set(items), True, protocol)
    (found,), number, _ = differences(before, saved(tmp_path / "b", frozenset(items), True, protocol), 9)
    assert number == 1
    assert "frozenset" in found.what
    assert "set became" in found.what


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_each_of_many_sets_is_compared(tmp_path: Path, protocol: int) -> None:
    """Protocols 2 and 3 keep a set as a call, whose list becomes a set for the comparison only."""
    for number in range(2, 9):
        before: list[set[int]] = [set() for _ in range(number)]
        sides = (("a", before), ("b", [*before[1:], {0}]))
        a, b = (saved(tmp_path / name, value, True, protocol) for name, value in sides)
        assert [difference.place.partition(".")[0] for difference in differences(a, b, 9)[0]] == [str(number - 1)]


@BOTH_AGES
@pytest.mark.parametrize(
    ("a", "b", "what"),
    [
        (1, 1.0, "a value of type int became a value of type float"),
        (None, 1, "None became a value of type int"),
        (1, True, "a value of type int became a value of type bool"),
        (argparse.Namespace, OrderedDict, "argparse.Namespace became collections.OrderedDict"),
        ([1], [1, 2], "it has other parts"),
        ((1,), (1, 2), "it has other parts"),
        (torch.device("cpu"), torch.Size([1]), "torch.device became torch.Size"),
        ("x" * 100, "x" * 70 + "y" * 40, "at character 71 of 102, …xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… became …"),
        (b"a" * MILLION, b"a" * (MILLION + 1), "1,048,576 bytes became 1,048,577"),
        (b"a" * MILLION, b"a" * (MILLION - 1) + b"b", "1,048,576 bytes differ"),
        ("a" * MILLION, "a" * (MILLION - 1) + "b", "1,048,576 bytes differ"),
        ("a" * MILLION, "a", "a long text or bytes became a value of type str"),
    ],
)
def test_what_sets_two_values_apart_is_told(tmp_path: Path, zipped: bool, a: Any, b: Any, what: str) -> None:
    protocol = 4
    found = [saved(tmp_path / str(n), {"seen": one}, zipped, protocol) for n, one in enumerate((a, b, a))]
    (one,), number, _ = differences(found[0], found[1], 9)
    assert (number, one.place) == (1, "seen")
    assert one.what.startswith(what)
    assert differences(found[0], found[2], 9)[:2] == ([], 0)


def test_attributes_of_objects_have_places_too(tmp_path: Path) -> None:
    before = argparse.Namespace(lr=0.1, sizes=[3, 6], names={"a": 1})
    after = argparse.Namespace(lr=0.2, sizes=[3, 7], names={"b": 1})
    assert told(tmp_path, {"args": before}, {"args": after}) == {
        "args.state.lr": "0.1 became 0.2",
        "args.state.sizes.1": "6 became 7",
        "args.state.names.a": "it is not there any more",
        "args.state.names.b": "it was not there before",
    }


def test_objects_with_other_parts_are_no_error(tmp_path: Path) -> None:
    """What is appended to a list's subclass, and how often a state is set, is counted before it is gone through."""
    key, function = hostile.text("a"), hostile.call(hostile.named("mine", "List"))
    one, two = (function + b"(" + hostile.integer(1) * count + b"e" for count in (1, 2))
    assert streams(tmp_path, hostile.dict_of((key, one)), hostile.dict_of((key, two))) == {"a": "it has other parts"}
    stated = function + hostile.dict_of((key, hostile.integer(1))) + b"b"
    found = streams(tmp_path, hostile.dict_of((key, function)), hostile.dict_of((key, stated)))
    assert found == {"a": "it has other parts"}


def test_a_class_that_became_another_is_told_once(tmp_path: Path) -> None:
    before, after = {"args": argparse.Namespace(lr=0.1)}, {"args": torch.nn.ReLU()}
    assert told(tmp_path, before, after) == {"args": "argparse.Namespace became torch.nn.modules.activation.ReLU"}


def test_keys_that_read_alike_are_held_apart(tmp_path: Path) -> None:
    """An object is no key that can be written out; the first of a kind is the first of the other file."""
    keys = [torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)]
    assert told(tmp_path, dict.fromkeys(keys, 1), dict.fromkeys(keys, 1)) == {}
    changed = told(tmp_path, dict.fromkeys(keys, 1), {**dict.fromkeys(keys, 1), keys[2]: 2})
    assert list(changed.values()) == ["1 became 2"]
    assert "torch.device" in next(iter(changed))
    deep: Any = ((((((1,),),),),),)
    assert told(tmp_path, {deep: 1}, {deep: 2}) == {"((((<a value of type tuple>))))": "1 became 2"}


def test_a_tensor_that_is_there_alone_is_passed_over_and_a_malformed_one_is_not(tmp_path: Path) -> None:
    assert told(tmp_path, {"a": torch.zeros(2)}, {"b": torch.zeros(3)}) == {}
    wrong = hostile.tensor(size=hostile.text("wide"))
    key = hostile.text("a")
    assert streams(tmp_path, hostile.dict_of((key, wrong)), hostile.dict_of((key, wrong))) == {}
    found = streams(tmp_path, hostile.dict_of((key, wrong)), hostile.dict_of((key, hostile.tensor(size=key))))
    assert list(found.values()) == ["'wide' became 'a'"]


def test_references_and_what_has_no_value_are_held_too(tmp_path: Path) -> None:
    key = hostile.text("a")
    for a, b, what in (
        (hostile.storage(), hostile.storage(device=hostile.text("cuda:0")), "'cpu' became 'cuda:0'"),
        (b"\x82\x01", b"\x82\x02", "extension 1 became extension 2"),
        (b"\x82\x01", hostile.integer(1), "what has no value in the file became a value of type int"),
        (hostile.call(b"N"), b"N", "a call became None"),
        (hostile.call(b"N"), hostile.named("builtins", "len"), "a call became a class or function"),
        (hostile.storage(), b"N", "a persistent id became None"),
    ):
        found = streams(tmp_path, hostile.dict_of((key, a)), hostile.dict_of((key, b)))
        assert [*found.values()] == [what]
        assert next(iter(found)).startswith("a")
        assert streams(tmp_path, hostile.dict_of((key, a)), hostile.dict_of((key, a))) == {}


def test_an_ordered_dict_of_python_2_is_looked_into(tmp_path: Path) -> None:
    """It pickled the items as an argument of the call."""

    def ordered(value: int) -> bytes:
        pair = b"](" + hostile.text("lr") + hostile.integer(value) + b"e"
        return hostile.call(hostile.named("collections", "OrderedDict"), b"](" + pair + b"e")

    key = hostile.text("a")
    assert streams(tmp_path, hostile.dict_of((key, ordered(1))), hostile.dict_of((key, ordered(1)))) == {}
    found = streams(tmp_path, hostile.dict_of((key, ordered(1))), hostile.dict_of((key, ordered(2))))
    assert found == {"a.lr": "1 became 2"}


def test_containers_inside_themselves_end(tmp_path: Path) -> None:
    before: list[Any] = [1]
    before.append(before)
    after: list[Any] = [2]
    after.append(after)
    assert told(tmp_path, before, before) == {}
    assert told(tmp_path, before, after) == {"0": "1 became 2"}


def test_no_more_is_looked_through_than_a_file_can_honestly_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_differences, "_MOST", 20)
    assert told(tmp_path, list(range(10)), list(range(10))) == {}
    assert told(tmp_path, list(range(30)), list(range(30))) == {"the top": "it holds too much to be looked through"}


def test_only_so_many_are_named_and_all_are_counted(tmp_path: Path) -> None:
    found, number, _ = differences(saved(tmp_path / "a", [0] * 30), saved(tmp_path / "b", [1] * 30), 5)
    assert ([one.place for one in found], number) == (["0", "1", "2", "3", "4"], 30)


@BOTH_AGES
def test_versions_of_modules_are_told_by_the_dictionary_that_keeps_them(tmp_path: Path, zipped: bool) -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4))
    old = model.state_dict()
    old._metadata["1"]["version"] = 1  # type: ignore[attr-defined]
    a, b = (saved(tmp_path / name, {"model": one}, zipped) for name, one in (("a", model.state_dict()), ("b", old)))
    c = saved(tmp_path / "c", {"model": dict(old)}, zipped)
    assert differences(a, a, 9) == ([], 0, None)
    assert differences(a, b, 9) == ([], 0, "model")
    assert differences(a, c, 9) == ([], 0, "model")
    assert versions(a, "model") == {"": {"version": 1}, "0": {"version": 1}, "1": {"version": 2}}
    assert versions(b, "model") == {"": {"version": 1}, "0": {"version": 1}, "1": {"version": 1}}
    assert versions(c, "model") is None
    assert versions(a, "ema") is None


def test_versions_of_a_file_of_python_2_are_read(tmp_path: Path) -> None:
    ordered = hostile.named("collections", "OrderedDict")

    def made(key: str, value: bytes) -> bytes:
        return hostile.call(ordered, b"](" + b"](" + hostile.text(key) + value + b"ee")

    facts = hostile.dict_of((hostile.text("version"), hostile.integer(1)))
    attributes = hostile.dict_of((hostile.text("_metadata"), made("conv", facts)))
    stream = hostile.pickled(made("conv.weight", hostile.tensor()) + attributes + b"b")
    found = tree(hostile.zip_file(tmp_path, stream))
    loaded = torch.load(hostile.zip_file(tmp_path, stream), weights_only=False)
    assert versions(found, "") == loaded._metadata == {"conv": {"version": 1}}


def test_versions_that_are_no_plain_values_are_not_taken(tmp_path: Path) -> None:
    state = nn.Linear(3, 4).state_dict()
    metadata: Any = state._metadata  # type: ignore[attr-defined]
    metadata[""]["assign"] = torch.Size([1])
    assert versions(saved(tmp_path / "a", state), "") is None
    del metadata[""]["assign"]
    metadata[1] = {"version": 1}
    assert versions(saved(tmp_path / "a", state), "") is None


def test_names_that_optimizers_keep_are_found_wherever_they_stand(tmp_path: Path) -> None:
    model = nn.Linear(3, 4)
    optimizers = [torch.optim.SGD([*model.named_parameters()], lr=0.1).state_dict() for _ in range(2)]
    assert optimizers[0]["param_groups"][0]["param_names"] == ["weight", "bias"]
    value = {"optimizers": optimizers, "again": optimizers[0], "param_names": "none"}
    assert parameter_names(saved(tmp_path / "a", value)) == {"weight", "bias"}


@pytest.mark.parametrize("name", ["sharded", "pointnet_stnkd.safetensors", "pointnet_stnkd_script.pt"])
def test_containers_that_keep_no_objects(name: str) -> None:
    assert read_objects(FIXTURES / name) is None or name.endswith("script.pt")
