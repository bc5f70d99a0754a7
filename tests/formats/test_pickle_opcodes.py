"""The decoder of pickle instructions against the standard library's, instruction for instruction."""

from __future__ import annotations

import io
import pickle
import pickletools
import sys
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convinspect.formats.pickle import opcodes
from convinspect.formats.pickle.opcodes import Undecodable, instructions
from support.paths import TESTS

sys.path.insert(0, str(TESTS / "fuzz"))
from pickle_mutations import mutated

from support.sampling import times

MANY = settings(deadline=None, max_examples=times(50, 100))

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**2100), 2**2100)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=300)
    | st.binary(max_size=300)
    | st.binary(max_size=9).map(bytearray)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, max_size=6).map(tuple)
        | st.dictionaries(st.text(max_size=9), inner, max_size=6)
        | st.frozensets(st.integers(), max_size=6)
    ),
    max_leaves=40,
)
PICKLES = st.builds(pickle.dumps, VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
INSTRUCTIONS = st.builds(
    lambda opcode, rest: opcode.code.encode("latin-1") + rest,
    st.sampled_from(pickletools.opcodes),
    st.binary(max_size=12)
    | st.sampled_from(
        [b"\x03\0\0\0abc", b"\xff" * 8, b"a\nb\n", b"'x'\n", b"-7L\n", b"01\n", "é\nü\n".encode(), b"\xe9\n\xfc\n"]
    ),
)


def told(data: bytes, decode: Callable[[bytes], Iterable[Any]]) -> tuple[list[tuple[str, str, int]], bool]:
    """Instructions as text, which tells 1 from True and NaN from NaN, and whether they come to an end."""
    listed: list[tuple[str, str, int]] = []
    try:
        for opcode, argument, position in decode(data):
            code = opcode if isinstance(opcode, str) else opcode.code
            listed.append((code, f"{type(argument).__name__} {argument!r}", position))
    except ValueError:
        return listed, False
    return listed, True


@pytest.fixture(autouse=True)
def names_of_any_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 3.13.1 the standard library's decoder, unlike its unpickler, takes no letters beyond ASCII in names."""

    def two_lines(stream: Any) -> str:
        lines = [pickletools.read_stringnl(stream, decode=False, stripquotes=False) for _ in range(2)]
        return " ".join(line if isinstance(line, str) else line.decode() for line in lines)

    monkeypatch.setattr(pickletools.stringnl_noescape_pair, "reader", two_lines)


def check(data: bytes) -> None:
    assert told(data, instructions) == told(data, pickletools.genops)


@given(PICKLES)
@example(pickle.dumps("x" * 70_000, 4))
@example(pickle._dumps([b"b" * 300, "é\ud800\n", 2**70, -1, 0.5], 0))  # type: ignore[attr-defined]
@MANY
def test_pickles_of_every_protocol(data: bytes) -> None:
    check(data)


@given(PICKLES, st.integers(0, 2**32))
@MANY
def test_pickles_with_changed_instructions(data: bytes, seed: int) -> None:
    changed = mutated(Random(seed), data, [data])
    # Behind STOP no one reads on.
    check(changed)


@given(PICKLES.flatmap(lambda data: st.integers(0, len(data)).map(lambda length: data[:length])))
@MANY
def test_pickles_cut_anywhere(data: bytes) -> None:
    check(data)


@given(st.lists(INSTRUCTIONS, max_size=8).map(b"".join))
@MANY
def test_any_instruction_with_any_argument(data: bytes) -> None:
    check(data)


@given(st.binary(max_size=80))
@MANY
def test_any_bytes(data: bytes) -> None:
    check(data)


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_every_instruction_is_known(opcode: pickletools.OpcodeInfo) -> None:
    code = opcode.code.encode("latin-1")
    for rest in (b"", b"\0" * 9, b"\1" * 30, b"1\n2\n", b"'1'\n", b"1\n"):
        check(code + rest + b".")


@pytest.mark.parametrize(
    ("data", "position", "why"),
    [
        (b"\x80\x02N", 3, "short"),
        (b"N\xffN.", 1, "unknown"),
        (b"NX\x05\0\0\0abc", 1, "short"),
        (b"NX\x01\0\0\0\xff.", 1, "malformed"),
        (b"NIseven\n.", 1, "malformed"),
        (b"NIunknown\n.", 1, "malformed"),
        (b"NI7", 1, "short"),
        (b"r\1\0\0", 0, "short"),
        (b"\x8e" + b"\xff" * 8, 0, "short"),
    ],
)
def test_what_is_wrong_is_told(data: bytes, position: int, why: str) -> None:
    with pytest.raises(Undecodable) as raised:
        list(instructions(data))
    assert (raised.value.position, raised.value.why) == (position, why)


def test_it_may_begin_anywhere() -> None:
    data = b"before" + pickle.dumps({"a": 1}, 2) + b"after"
    found = list(instructions(data, 6))
    stream = io.BytesIO(data)
    stream.seek(6)
    assert [(code, at) for code, _, at in found] == [(one.code, at) for one, _, at in pickletools.genops(stream)]


def test_the_table_is_that_of_the_library() -> None:
    numbers = {"uint2": "<H", "int4": "<i", "uint4": "<I", "uint8": "<Q", "float8": ">d"}
    texts = {"unicodestring1": "<B", "unicodestring4": "<I", "unicodestring8": "<Q"}
    known = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
    for code in range(256):
        kind, layout = opcodes._KINDS[code], opcodes._STRUCTS[code].format
        if code not in known:
            assert kind == opcodes._UNKNOWN
            continue
        argument = known[code].arg
        if argument is None:
            assert kind == (opcodes._STOP if chr(code) == "." else opcodes._NOTHING)
        elif argument.name == "uint1":
            assert kind == opcodes._BYTE
        elif argument.name in numbers:
            assert (kind, layout) == (opcodes._NUMBER, numbers[argument.name])
        elif argument.name in texts:
            assert (kind, layout) == (opcodes._TEXT, texts[argument.name])
        else:
            assert kind == opcodes._OTHER
            assert (code in opcodes._WITH_TWO_LINES) == (argument.name == "stringnl_noescape_pair")
            assert (code in opcodes._readers()) != (code in opcodes._WITH_TWO_LINES)
