"""A pickle's keys changed and items left out: Python loads what was meant, or the edit is refused."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convinspect.errors import BrokenFile, CannotWrite
from convinspect.formats.pickle.machine import reader, walk
from convinspect.formats.pickle.values import Dict
from convinspect.records import Span
from convinspect.writing.pickle import edited
from support import hostile


def keys_at(data: bytes) -> dict[str, int]:
    """Where each key of the dictionary at the top is pushed."""
    top = walk(reader(data), 0, len(data)).value
    assert isinstance(top, Dict)
    starts = [start for _, _, places in top.places for start in places[::2]]
    return {key: start for start, (key, _) in zip(starts, top.pairs, strict=True)}


def renamed(data: bytes, names: Mapping[str, str], cuts: Iterable[Span] = ()) -> bytes:
    places = keys_at(data)
    return edited(data, (), {places[old]: new for old, new in names.items()}, cuts)


def picklers() -> list[Callable[[Any, int], bytes]]:
    """The two that Python has; the one in C puts each string into the memo, the other too but in frames of its own."""

    def in_python(value: Any, protocol: int) -> bytes:
        out = io.BytesIO()
        pickle._Pickler(out, protocol).dump(value)
        return out.getvalue()

    return [pickle.dumps, in_python]


STRINGS = st.sampled_from(["a", "b", "weight", "ü", "x" * 300, "\n'\\", "\ud800"])


@settings(max_examples=100, deadline=None)
@given(
    keys=st.lists(STRINGS, min_size=1, unique=True),
    values=st.lists(st.one_of(STRINGS, st.integers(0, 300)), min_size=7, max_size=7),
    protocol=st.integers(2, 5),
    new=st.sampled_from(["new", "n" * 300, "é", ""]),
    pickler=st.sampled_from(picklers()),
    data=st.data(),
)
def test_python_loads_the_new_names_and_nothing_else_changed(
    keys: list[str], values: list[Any], protocol: int, new: str, pickler: Any, data: st.DataObject
) -> None:
    before = dict(zip(keys, values, strict=False))
    chosen = data.draw(st.lists(st.sampled_from(keys), unique=True))
    names = {old: new + old for old in chosen}
    stream = renamed(pickler(before, protocol), names)
    after = {names.get(key, key): value for key, value in before.items()}
    assert [*pickle.loads(stream).items()] == [*after.items()]
    back = renamed(stream, {new: old for old, new in names.items()})
    assert [*pickle.loads(back).items()] == [*before.items()]


@pytest.mark.parametrize("count", [10, 300])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_slots_of_the_memo_beyond_a_byte(protocol: int, count: int) -> None:
    """Each key is used again as a value, so that each is fetched from its slot."""
    before: dict[str, Any] = {f"key{n}": n for n in range(count)}
    before["all"] = list(before)
    stream = renamed(pickle.dumps(before, protocol), {f"key{n}": f"new{n}" for n in range(count)})
    after = {f"new{n}": n for n in range(count)} | {"all": before["all"]}
    assert pickle.loads(stream) == after


def pushed(*instructions: bytes) -> bytes:
    return b"\x80\x02" + b"".join(instructions) + b"."


A, B, ONE = hostile.text("a"), hostile.text("b"), hostile.integer(1)


@pytest.mark.parametrize("short", [True, False])
def test_strings_of_python_2_stay_of_that_kind(short: bool) -> None:
    old = "a" if short else "a" * 300
    raw = b"U" + bytes([1]) + b"a" if short else b"T" + struct.pack("<i", 300) + b"a" * 300
    stream = renamed(pushed(b"}", raw, ONE, b"s"), {old: "b" * 300})
    assert b"T" + struct.pack("<i", 300) + b"b" * 300 in stream
    assert pickle.loads(renamed(stream, {"b" * 300: "c"})) == {"c": 1}
    assert pickle.loads(renamed(stream, {"b" * 300: "ü"})) == {"ü": 1}, "what has no byte each is Unicode"


def test_a_key_that_is_no_string_of_its_own_is_refused() -> None:
    """A key that a call gives, one that is no string in the memo, and one that is also a class's name."""
    number = pushed(b"}", ONE, hostile.put(0), ONE, b"s", hostile.get(0), B, b"s")
    at = number.index(hostile.get(0))
    with pytest.raises(CannotWrite, match="not written as a string"):
        edited(number, (), {at: "new"})
    with pytest.raises(CannotWrite, match="not written as a string"):
        edited(number, (), {3: "new"})


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_class_of_the_same_name_stays(protocol: int) -> None:
    """From protocol 4 on a class is named by strings, which a key may be pushed with or fetched from."""
    for value in ({"Span": Span, "x": 1}, {"x": Span, "Span": 1}, {"Span": 1, "y": [Span, "Span"], "z": Span}):
        expected = {("new" if key == "Span" else key): one for key, one in value.items()}
        assert pickle.loads(renamed(pickle.dumps(value, protocol), {"Span": "new"})) == expected
    stream = pickle.dumps({"x": Span}, 4)
    with pytest.raises(CannotWrite, match="is a class's too"):
        edited(stream, (), {stream.index(b"\x8c\x04Span"): "new"})


@pytest.mark.parametrize("code", [b"0", b"2"])
def test_a_stream_that_copies_or_drops_values_is_refused(code: bytes) -> None:
    value = hostile.integer(7) + (b"20" if code == b"2" else ONE + b"0")
    stream = pushed(b"}", A, value, b"s")
    assert pickle.loads(stream) == {"a": 7}
    with pytest.raises(CannotWrite, match="copies or drops values"):
        renamed(stream, {"a": "new"})


def test_a_stream_that_fetches_what_it_never_put_is_broken() -> None:
    stream = pushed(b"}", A, hostile.get(9), b"s")
    with pytest.raises(BrokenFile, match="fetches what it never put"):
        edited(stream, (), {3: "new"})


def test_bytes_that_are_no_pickle_are_broken() -> None:
    for stream in (b"\x80\x04}", b"\x80\x02}X\xff"):
        with pytest.raises(BrokenFile, match="malformed"):
            edited(stream, (), {3: "new"})


# ------------------------------------------------------------------------------------------------- left out


def without(data: bytes, *keys: str) -> bytes:
    """The dictionary at the top without these items, each from its key to the next."""
    places = keys_at(data)
    listed = [*places]
    starts = [*places.values(), len(data) - 2]
    spans = [Span(starts[at], starts[at + 1]) for at in map(listed.index, keys)]
    return edited(data, (), {}, spans)


TEXTS = st.sampled_from(["a", "b", "shared"])
# A tuple or list of its own each time: what is one object in two places cannot be left out in one.
ITEMS = st.one_of(st.just(1), TEXTS, TEXTS.map(lambda text: (text, len(text))), TEXTS.map(lambda text: [text, "b"]))


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(ITEMS, min_size=3, max_size=6),
    protocol=st.integers(2, 5),
    pickler=st.sampled_from(picklers()),
    data=st.data(),
)
def test_python_loads_what_is_left(values: list[Any], protocol: int, pickler: Any, data: st.DataObject) -> None:
    """Strings that were first pushed in what is left out are pushed where they are used next."""
    before = {f"key{n}": value for n, value in enumerate(values)}
    before |= {"last": ["a", "b", "shared", *before]}
    gone = data.draw(st.lists(st.sampled_from([f"key{n}" for n in range(len(values))]), unique=True, min_size=1))
    stream = without(pickler(before, protocol), *gone)
    after = {key: value for key, value in before.items() if key not in gone}
    assert [*pickle.loads(stream).items()] == [*after.items()]


def test_what_is_put_again_is_fetched_again() -> None:
    """Python 2's picklers and ours put a string a second time into a slot that holds another by then."""
    twice = pushed(b"}", A, hostile.put(0), ONE, b"s", B, hostile.put(0), hostile.integer(2), b"s", hostile.text("c"),
                   hostile.get(0), b"s")  # fmt: skip
    assert pickle.loads(twice) == {"a": 1, "b": 2, "c": "b"}
    assert pickle.loads(renamed(twice, {"a": "new"})) == {"new": 1, "b": 2, "c": "b"}
    assert pickle.loads(renamed(twice, {"b": "new"})) == {"a": 1, "new": 2, "c": "b"}
    assert pickle.loads(renamed(twice, {"a": "b"} | {"b": "d"})) == {"b": 1, "d": 2, "c": "b"}


@pytest.mark.parametrize("protocol", [2, 4])
def test_an_object_that_is_used_elsewhere_cannot_be_left_out(protocol: int) -> None:
    shared = [1, 2]
    stream = pickle.dumps({"a": shared, "b": shared, "c": 1}, protocol)
    with pytest.raises(CannotWrite, match="used elsewhere in the file too"):
        without(stream, "a")
    assert pickle.loads(without(stream, "b")) == {"a": [1, 2], "c": 1}
