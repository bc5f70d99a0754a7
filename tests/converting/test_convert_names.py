"""`convert --rename` and `--drop-optimizer`: keys and items change in the pickle, nothing else does; held by torch."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.rename import renaming, together
from convinspect.errors import CannotConvert, CannotWrite, ConvInspectError, NotThere
from convinspect.writing.same_format import save_edits
from support.conversions import load
from support.in_process import run
from support.paths import FIXTURES
from support.program import assert_one_line, without_wrote
from support.sampling import times


def renamed(source: Path, target: Path, *rules: str, root: str | None = None) -> None:
    """Carry out renames alone, as the command does."""
    checkpoint = open_checkpoint(source, root)
    found = renaming(checkpoint, rules)
    save_edits(checkpoint, together((), (*found.edits, *found.copies)), target, lambda done: None, others=found.others)


def reload(path: Path) -> Any:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=False)


def same(one: Any, other: Any) -> bool:
    """Equal bit by bit, types and attributes included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride()) and bool(
            (one == other).all()
        )
    if isinstance(one, dict):
        return (
            list(one) == list(other)
            and all(same(one[key], other[key]) for key in one)
            and same(vars(one) if hasattr(one, "__dict__") else 0, vars(other) if hasattr(other, "__dict__") else 0)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv1d(6, 4, 1),
            bn1=nn.BatchNorm1d(4),
            act=nn.ReLU(),
            block=nn.Sequential(nn.Conv1d(4, 4, 1), nn.ReLU()),
        )
    )


WAYS: dict[str, Callable[[Any, Path], None]] = {
    "zip": lambda thing, path: torch.save(thing, path),
    "legacy": lambda thing, path: torch.save(thing, path, _use_new_zipfile_serialization=False),
    "zip4": lambda thing, path: torch.save(thing, path, pickle_protocol=4),
    "legacy4": lambda thing, path: torch.save(thing, path, pickle_protocol=4, _use_new_zipfile_serialization=False),
    "zip5": lambda thing, path: torch.save(thing, path, pickle_protocol=5),
}


@pytest.mark.parametrize("way", WAYS)
def test_modules_get_other_names_and_back_gives_the_same_bytes(tmp_path: Path, way: str) -> None:
    source, new, back = (tmp_path / f"{name}.pt" for name in "abc")
    state: Any = net().state_dict()
    WAYS[way](state, source)
    renamed(source, new, "conv1=lin", "block.*=part.inner.*")
    expected: Any = OrderedDict()
    for key, value in state.items():
        expected[key.replace("conv1.", "lin.").replace("block.", "part.inner.")] = value
    # What a model of these names would write, but for the level that it has more.
    expected._metadata = OrderedDict(
        (key.replace("conv1", "lin").replace("block", "part.inner"), value) for key, value in state._metadata.items()
    )
    assert same(reload(new), expected)
    renamed(new, back, "lin=conv1", "part.inner=block")
    assert back.read_bytes() == source.read_bytes()


def test_a_strict_load_into_the_model_of_these_names(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--rename", "conv1=lin1")
    assert done.returncode == 0, done.stderr
    model: Any = net()
    model.lin1 = nn.Linear(6, 4)
    model.block[0] = nn.Linear(4, 4)
    del model.conv1
    model.load_state_dict(load(tmp_path / "b.pt"), strict=True)
    assert "renamed lin1" in done.stdout


class Stateful(nn.Module):
    """A module whose state_dict has a key that is no tensor, as those of Transformer Engine have."""

    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.value, self.pw = value, nn.Conv1d(3, 4, 1)

    def get_extra_state(self) -> Any:
        return self.value

    def set_extra_state(self, state: Any) -> None:
        self.value = state


VALUES = [None, {"scale": 2, "history": [1.5]}, io.BytesIO(b"abc" * 200), 7, {"amax": torch.ones(2)}]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", VALUES, ids=["none", "dict", "bytes", "int", "tensor in a dict"])
def test_keys_without_tensors_follow_with_their_metadata(tmp_path: Path, way: str, value: Any) -> None:
    source, new, back = (tmp_path / f"{name}.pt" for name in "abc")
    old = nn.Sequential(OrderedDict(conv=Stateful(value), last=nn.Linear(4, 2)))
    WAYS[way](old.state_dict(), source)
    model: Any = nn.Sequential(OrderedDict(other=Stateful(), last=nn.Linear(4, 2)))
    renamed(source, new, "conv.*=other.*")
    state = torch.load(new, weights_only=False)
    model.load_state_dict(state, strict=True)
    assert list(state._metadata) == list(model.state_dict()._metadata)
    if isinstance(value, io.BytesIO):
        assert model.other.value.getvalue() == value.getvalue()
    else:
        assert same(model.other.value, value)
    renamed(new, back, "other.*=conv.*")
    assert back.read_bytes() == source.read_bytes()


def test_a_key_without_a_tensor_is_renamed_alone_and_said(tmp_path: Path) -> None:
    class Flag(nn.Module):
        def get_extra_state(self) -> Any:
            return 3

        def set_extra_state(self, state: Any) -> None: ...

    model = nn.Sequential(OrderedDict(flag=Flag(), pw=nn.Conv1d(3, 4, 1)))
    torch.save({"model": model.state_dict(), "model_ema": model.state_dict()}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--rename", "flag.*=sign.*", "--root", "model")
    assert done.returncode == 0, done.stderr
    assert "1 key without a tensor renamed" in done.stdout
    new = torch.load(tmp_path / "b.pt", weights_only=False)
    for state in new.values():
        assert "sign._extra_state" in state
        assert set(state._metadata) == {"", "sign", "pw"}
    done = run("convert", tmp_path / "a.pt", "-n", "--rename", "flag=sign", "--format", "json")
    assert {"from": "flag._extra_state", "to": "sign._extra_state"} in json.loads(done.stdout)["renamed"]
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--rename", "flag._extra_state=pw.weight")
    assert done.returncode == 2
    assert "would both be named" in done.stderr


def test_lazy_and_nested_parameters_and_shards_follow(tmp_path: Path) -> None:
    lazy = nn.Sequential(OrderedDict(a=nn.Linear(3, 4), b=nn.LazyLinear(2)))
    torch.save(lazy.state_dict(), tmp_path / "a.pt")
    renamed(tmp_path / "a.pt", tmp_path / "b.pt", "b=c", "a=d")
    other = nn.Sequential(OrderedDict(d=nn.Linear(3, 4), c=nn.LazyLinear(2)))
    other.load_state_dict(torch.load(tmp_path / "b.pt", weights_only=False), strict=True)
    nested = {"x.n": torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]), "x.w": torch.ones(2, 3)}
    torch.save(nested, tmp_path / "c.pt")
    renamed(tmp_path / "c.pt", tmp_path / "d.pt", "x=y")
    assert list(torch.load(tmp_path / "d.pt", weights_only=False)) == ["y.n", "y.w"]
    (tmp_path / "shards").mkdir()
    parts = [{"a.weight": torch.ones(2, 3)}, {"b.weight": torch.ones(3), "b._extra_state": {"x": 1}}]
    for at, part in enumerate(parts):
        torch.save(part, tmp_path / "shards" / f"m-0000{at + 1}-of-00002.bin")
    renamed(tmp_path / "shards", tmp_path / "new", "b=z")
    assert list(torch.load(tmp_path / "new" / "m-00002-of-00002.bin")) == ["z.weight", "z._extra_state"]


def strings() -> st.SearchStrategy[str]:
    return st.sampled_from(["a", "b.weight", "conv.weight", "x" * 300, "ü.bias", "weight", "n"])


@settings(max_examples=times(40, 80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(strings(), unique=True, min_size=1),
    others=st.lists(strings(), max_size=6),
    place=st.integers(0, 2),
    way=st.sampled_from(sorted(WAYS)),
    data=st.data(),
)
def test_a_string_that_is_used_elsewhere_stays_there(
    tmp_path: Path, keys: list[str], others: list[str], place: int, way: str, data: st.DataObject
) -> None:
    """The pickler writes an equal object once and fetches it everywhere else: before, after and among the keys."""
    state = {key: torch.full((2, 3), float(index)) for index, key in enumerate(keys)}
    parts: list[tuple[str, Any]] = [("list", others), ("dict", dict.fromkeys(others, 1)), ("same", dict(state))]
    parts.insert(place, ("model", state))
    chosen = data.draw(st.lists(st.sampled_from(keys), unique=True, min_size=1))
    names = {key: f"new.{key}" for key in chosen}
    source, new, back = (tmp_path / f"{name}.pt" for name in "abc")
    WAYS[way](dict(parts), source)
    renamed(source, new, *(f"{key}=new.{key}" for key in sorted(chosen, key=len, reverse=True)), root="model")
    found = reload(new)
    expected = dict(parts)
    expected["model"] = {names.get(key, key): value for key, value in state.items()}
    # Tensors that are one object there are one object here, so that their names go together.
    expected["same"] = expected["model"]
    assert same(found, expected)
    renamed(new, back, *(f"new.{key}={key}" for key in sorted(chosen, key=len, reverse=True)), root="model")
    assert back.read_bytes() == source.read_bytes()


def test_copies_of_an_ema_get_the_same_names(tmp_path: Path) -> None:
    state = net().state_dict()
    ema = {key: value.clone() for key, value in state.items()}
    torch.save({"model": state, "ema": ema, "other": dict.fromkeys(state, 1)}, tmp_path / "a.pt")
    renamed(tmp_path / "a.pt", tmp_path / "b.pt", "conv1=lin")
    found = reload(tmp_path / "b.pt")
    assert list(found["model"]) == list(found["ema"]) == [key.replace("conv1", "lin") for key in state]
    assert list(found["other"]) == list(state)


def test_safetensors_and_shards(tmp_path: Path) -> None:
    source = FIXTURES / "pointnet_stnkd.safetensors"
    renamed(source, tmp_path / "b.safetensors", "conv*=lin*")
    renamed(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "lin*=conv*")
    before, after = load_file(source), load_file(tmp_path / "b.safetensors")
    assert set(after) == {key.replace("conv", "lin") for key in before}
    assert (tmp_path / "c.safetensors").read_bytes() == source.read_bytes()
    for folder in ("sharded", "sharded_bin"):
        whole = open_checkpoint(FIXTURES / folder)
        first = next(iter(whole.tensors))
        renamed(FIXTURES / folder, tmp_path / folder, f"{first}=other.name")
        found = open_checkpoint(tmp_path / folder)
        assert not found.problems
        assert list(found.tensors) == ["other.name", *list(whole.tensors)[1:]]
        renamed(tmp_path / folder, tmp_path / f"{folder}_back", f"other.name={first}")
        for entry in (FIXTURES / folder).iterdir():
            assert (tmp_path / f"{folder}_back" / entry.name).read_bytes() == entry.read_bytes()


def test_prefixes_are_kept_unless_they_are_named(tmp_path: Path) -> None:
    state = {"module.conv.weight": torch.ones(2, 3, 1), "module.fc.weight": torch.ones(2, 3)}
    torch.save(state, tmp_path / "a.pt")
    renamed(tmp_path / "a.pt", tmp_path / "b.pt", "conv=lin")
    assert list(reload(tmp_path / "b.pt")) == ["module.lin.weight", "module.fc.weight"]
    renamed(tmp_path / "a.pt", tmp_path / "c.pt", "module.*=*")
    assert list(reload(tmp_path / "c.pt")) == ["conv.weight", "fc.weight"]
    renamed(tmp_path / "a.pt", tmp_path / "d.pt", "conv=fc", "fc=conv")
    assert list(reload(tmp_path / "d.pt")) == ["module.fc.weight", "module.conv.weight"]


@pytest.mark.parametrize(
    ("rules", "kind"),
    [(["a.*=b.*"], NotThere), (["conv1=bn1"], CannotConvert), (["conv1"], CannotConvert), (["*=x"], CannotConvert),
     (["=x"], CannotConvert), (["conv*=lin"], CannotConvert), (["conv1.weight=conv1.bias"], CannotConvert)],
)  # fmt: skip
def test_rules_that_cannot_be_meant_are_refused(tmp_path: Path, rules: Sequence[str], kind: type[Exception]) -> None:
    torch.save(net().state_dict(), tmp_path / "a.pt")
    with pytest.raises(kind):
        renamed(tmp_path / "a.pt", tmp_path / "b.pt", *rules)
    assert not (tmp_path / "b.pt").exists()


def test_keys_that_are_no_strings_of_their_own_are_refused(tmp_path: Path) -> None:
    torch.save({"sd": {1: torch.ones(2, 3)}}, tmp_path / "a.pt")
    torch.save({"conv1": {"weight": torch.ones(2, 3, 1)}, "conv2": {"weight": torch.ones(2, 3, 1)}}, tmp_path / "b.pt")
    for name, rule in (("a.pt", "1=x"), ("b.pt", "conv1=lin1")):
        with pytest.raises(CannotWrite, match="one key"):
            renamed(tmp_path / name, tmp_path / "c.pt", rule)


def test_the_wanted_shapes_are_those_of_the_new_names(tmp_path: Path) -> None:
    torch.save({"model": net().state_dict(), "ema": net().state_dict()}, tmp_path / "a.pt")
    torch.save({"lin1.weight": torch.zeros(4, 6), "conv1.weight": torch.zeros(9, 9)}, tmp_path / "b.pt")
    command = ("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--like", tmp_path / "b.pt")
    done = run(*command, "--rename", "conv1=lin1")
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "c.pt")["ema"]["lin1.weight"].shape == (4, 6)
    assert "changed with them: ema" in done.stdout
    assert "a real difference" not in done.stdout


def test_another_format_takes_the_names_too(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.safetensors", "--rename", "conv1=lin1")
    assert done.returncode == 0, done.stderr
    assert {"lin1.weight", "lin1.bias"} <= set(load(tmp_path / "b.safetensors"))


def test_the_plan_and_the_json_name_them(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "a.pt")
    command = ("convert", tmp_path / "a.pt", "--dry-run", "--rename", "conv1=lin1")
    assert "lin1" in run(*command).stdout
    payload = json.loads(run(*command, "--format", "json").stdout)
    assert payload["renamed"] == [
        {"from": "conv1.weight", "to": "lin1.weight"},
        {"from": "conv1.bias", "to": "lin1.bias"},
    ]
    assert_one_line(run(*command, "--rename", "bn1=lin1"), "would both be")


# ------------------------------------------------------------------------------------------- without the optimizer


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(2, 6, 5)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def size_of_record(path: Path, name: str) -> int:
    """Bytes from the record's header to the next one's, and of its entry in the directory, which has the name alone."""
    with zipfile.ZipFile(path) as archive:
        starts = [info.header_offset for info in archive.infolist()]
        index = next(at for at, whole in enumerate(archive.namelist()) if whole.endswith(f"/{name}"))
        return starts[index + 1] - starts[index] + 46 + len(archive.namelist()[index])


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_dropped_optimizer_starts_anew_and_its_numbers_are_gone(tmp_path: Path, way: str, first: bool) -> None:
    model, optimizer = trained()
    parts: list[tuple[str, Any]] = [("model", model.state_dict()), ("optimizer", optimizer.state_dict()), ("step", 7)]
    thing: dict[str, Any] = dict([parts[1], parts[0], parts[2]] if first else parts)
    WAYS[way](thing, tmp_path / "a.pt")
    WAYS[way]({**thing, "optimizer": {**thing["optimizer"], "state": {}}}, tmp_path / "expected.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--drop-optimizer")
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stdout
    found = reload(tmp_path / "b.pt")
    expected = copy.copy(thing) | {"optimizer": {**thing["optimizer"], "state": {}}}
    assert same(found, expected)
    size = (tmp_path / "expected.pt").stat().st_size
    if first and way.startswith("zip"):
        size -= size_of_record(tmp_path / "expected.pt", ".format_version")
    assert abs((tmp_path / "b.pt").stat().st_size - size) < 300
    resumed = torch.optim.AdamW(model.parameters())
    resumed.load_state_dict(found["optimizer"])
    assert resumed.param_groups[0]["lr"] == 0.1
    if way.startswith("zip"):
        assert zipfile.ZipFile(tmp_path / "b.pt").testzip() is None
        torch.load(tmp_path / "b.pt", mmap=True, weights_only=False)
        data = (tmp_path / "b.pt").read_bytes()
        for info in zipfile.ZipFile(io.BytesIO(data)).infolist():
            lengths = [int.from_bytes(data[info.header_offset + at :][:2], "little") for at in (26, 28)]
            assert (info.header_offset + 30 + sum(lengths)) % 64 == 0 or "/data/" not in info.filename


def test_the_optimizer_is_dropped_with_a_conversion_that_doubts_it(tmp_path: Path) -> None:
    state = {"c.weight": torch.randn(4, 6, 1)}
    optimizer: Any = {"state": {0: {"step": 1, "exp_avg_sq_row": torch.randn(4)}}, "param_groups": [{"params": [0]}]}
    torch.save({"model": state, "optimizers": [optimizer, copy.deepcopy(optimizer)]}, tmp_path / "a.pt")
    command = ("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear")
    assert_one_line(run(*command), "--drop-optimizer")
    assert run(*command, "--drop-optimizer").returncode == 0
    found = reload(tmp_path / "b.pt")
    assert [one["state"] for one in found["optimizers"]] == [{}, {}]
    assert found["model"]["c.weight"].shape == (4, 6)
    assert_one_line(run(*command, "--drop-optimizer", "--keep-optimizer", "--force"), "contradict")


def test_what_a_dropped_state_shares_with_the_model_stays(tmp_path: Path) -> None:
    shared = torch.randn(4, 6, 1)
    thing: Any = {"optimizer": {"state": {0: {"exp_avg": shared}}, "param_groups": []}, "model": {"c.weight": shared}}
    torch.save(thing, tmp_path / "a.pt")
    assert_one_line(run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--drop-optimizer"), "used elsewhere")
    with pytest.raises(ConvInspectError):
        open_checkpoint(tmp_path / "b.pt")
    thing["model"] = {"c.weight": shared.detach()}
    torch.save(thing, tmp_path / "a.pt")
    assert run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--drop-optimizer").returncode == 0
    assert torch.equal(load(tmp_path / "b.pt")["model"]["c.weight"], shared)


def test_nothing_to_drop_is_said(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "a.pt")
    assert_one_line(run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--drop-optimizer"), "no optimizer")


@pytest.mark.parametrize("way", WAYS)
def test_all_at_once(tmp_path: Path, way: str) -> None:
    model, optimizer = trained()
    ema = {key: value.clone() for key, value in model.state_dict().items()}
    thing: Any = {"optimizer": optimizer.state_dict(), "keys": list(model.state_dict()), "ema": ema}
    thing["model"] = model.state_dict()
    WAYS[way](thing, tmp_path / "a.pt")
    command = ("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--drop-optimizer")
    done = run(*command, "--rename", "conv1=lin", "--root", "model")
    assert done.returncode == 0, done.stderr
    found = reload(tmp_path / "b.pt")
    assert found["keys"] == thing["keys"]
    assert (found["optimizer"]["state"], found["optimizer"]["param_groups"][0]["lr"]) == ({}, 0.1)
    for root in ("model", "ema"):
        assert list(found[root]) == [key.replace("conv1", "lin") for key in thing[root]]
        for (new, old), name in zip(
            zip(found[root].values(), thing[root].values(), strict=True), thing[root], strict=True
        ):
            pointwise = name in ("conv1.weight", "block.0.weight")
            assert torch.equal(new, old.squeeze(2) if pointwise else old), name


def test_like_turns_square_matrices_over_under_new_names_too(tmp_path: Path) -> None:
    a = {"h.c_attn.weight": torch.rand(8, 24), "h.c_attn.bias": torch.rand(24),
         "h.c_proj.weight": torch.rand(8, 8), "h.c_proj.bias": torch.rand(8)}  # fmt: skip
    wanted = {f"model.{key}": value.T.contiguous() if value.dim() == 2 else value for key, value in a.items()}
    torch.save(a, tmp_path / "a.pt")
    torch.save(wanted, tmp_path / "b.pt")
    command = ("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--like", tmp_path / "b.pt")
    assert run(*command, "--rename", "*=model.*").returncode == 0
    made = load(tmp_path / "c.pt")
    assert all(torch.equal(made[key], value) for key, value in wanted.items())


# --------------------------------------------------------------------------------- names that an optimizer keeps


def named_optimizer(model: nn.Module, groups: int) -> torch.optim.Optimizer:
    named = list(model.named_parameters())
    split: Any = named if groups == 1 else [{"params": named[:3]}, {"params": named[3:], "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(split)
    model(torch.randn(2, 6, 5)).square().mean().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(("optimizer_first", "shared"), [(True, False), (False, False), (True, True), (False, True)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_names_that_an_optimizer_keeps_change_too(
    tmp_path: Path, way: str, groups: int, optimizer_first: bool, shared: bool
) -> None:
    source, target, back = (tmp_path / f"{name}.pt" for name in "abc")
    model = net()
    state, optimizer = model.state_dict(), named_optimizer(model, groups).state_dict()
    if shared:
        # The very strings that are the keys, which a pickler writes once.
        own = {key: key for key in state}
        for group in optimizer["param_groups"]:
            group["param_names"] = [own[name] for name in group["param_names"]]
    parts: list[tuple[str, Any]] = [("model", state), ("optimizer", optimizer), ("keys", list(state))]
    WAYS[way](dict(parts[::-1] if optimizer_first else parts), source)
    rules = ("--rename", "conv1=lin", "--rename", "block.*=part.inner.*", "--root", "model")
    done = run("convert", source, "-o", target, "--to", "linear", *rules)
    assert (done.returncode, without_wrote(done.stderr)) == (0, "")
    before, after = reload(source), reload(target)
    new = {key: key.replace("conv1.", "lin.").replace("block.", "part.inner.") for key in before["model"]}
    for old_group, group in zip(before["optimizer"]["param_groups"], after["optimizer"]["param_groups"], strict=True):
        assert group["param_names"] == [new[name] for name in old_group["param_names"]]
        assert {**group, "param_names": 0} == {**old_group, "param_names": 0}
    assert list(after["model"]) == list(new.values())
    assert after["keys"] == before["keys"]
    undone = ("--rename", "lin=conv1", "--rename", "part.inner=block", "--from", "linear", "--root", "model")
    assert run("convert", target, "-o", back, "--to", "conv1d", *undone).returncode == 0
    assert back.read_bytes() == source.read_bytes()


def test_names_that_may_be_another_models_are_said_to_stay(tmp_path: Path) -> None:
    """A generator and a discriminator whose layers are called alike, each with an optimizer of its own."""
    content: dict[str, Any] = {}
    for name in ("generator", "discriminator"):
        model = nn.Sequential(nn.Conv1d(6, 4, 1))
        content |= {name: model.state_dict(), f"{name}_optimizer": named_optimizer(model, 1).state_dict()}
    torch.save(content, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--rename", "0=conv", "--root", "generator")
    assert done.returncode == 0, done.stderr
    said = "note: the optimizer keeps the old names: 0.bias, 0.weight"
    assert done.stderr == f"{said}\nwrote {tmp_path / 'b.pt'}\n"
    after = reload(tmp_path / "b.pt")
    assert list(after["generator"]) == ["conv.weight", "conv.bias"]
    assert same(after["generator_optimizer"], content["generator_optimizer"])


def test_names_of_parameters_without_names_are_no_matter(tmp_path: Path) -> None:
    model, optimizer = trained()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--rename", "conv1=lin", "--root", "model")
    assert (done.returncode, without_wrote(done.stderr)) == (0, "")
