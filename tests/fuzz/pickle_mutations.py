"""Pickles changed by instruction: what no byte flipper reaches, since one wrong length ends a stream at once."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random

Instructions = list[bytes]

NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 63, 64, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
    *(2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 10**30, -1, -2, -24, -(2**31), -(2**63)),
)
"""Counts, sizes and offsets at which programs differ."""

WORDS = (
    *("", ".", "..", "weight", "conv.weight", "0", "cpu", "cuda:0", "storage", "module", "_metadata", "state", "a\nb"),
    *("torch", "torch._utils", "_rebuild_tensor_v2", "_rebuild_parameter", "FloatStorage", "BFloat16Storage", "Size"),
    *("collections", "OrderedDict", "builtins", "getattr", "os", "system", "os.path", "join", "path.join", "\ud800"),
    *("_parameters", "_modules", "_buffers", "training", "param_groups", "state_dict", "\x1b[31m", "ü名", "x" * 300),
)
_OPCODES = pickletools.opcodes


@lru_cache(maxsize=256)
def instructions(stream: bytes) -> tuple[bytes, ...]:
    """The stream cut before each instruction; what follows STOP is the last piece."""
    places = [place for _, _, place in pickletools.genops(stream) if place is not None]
    ends = [*places[1:], places[-1] + 1]
    pieces = [stream[start:end] for start, end in zip(places, ends, strict=True)]
    return (*pieces, stream[ends[-1] :]) if ends[-1] < len(stream) else tuple(pieces)


def mutated(random: Random, stream: bytes, donors: Sequence[bytes]) -> bytes:
    """The stream with one to six changes; `donors` are other pickles to take instructions from."""
    found = list(instructions(stream))
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 6))):
        random.choice(_CHANGES)(random, found, donors)
        if not found:
            return b""
    return b"".join(found)


def number(random: Random) -> int:
    """One at which programs differ, or one beside it."""
    return random.choice(NUMBERS) + random.choice((0, 0, 0, 1, -1))


def _some(random: Random, found: Sequence[bytes], most: int = 6) -> slice:
    start = random.randrange(len(found))
    return slice(start, start + random.randint(1, most))


def _drop(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    del found[_some(random, found)]


def _double(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    run = _some(random, found)
    found[run.stop : run.stop] = found[run]


def _repeat(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    run = _some(random, found, 3)
    found[run] = found[run] * random.choice((10, 100, 2_000))


def _move(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    run = _some(random, found)
    taken = found[run]
    del found[run]
    at = random.randint(0, len(found))
    found[at:at] = taken


def _swap(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    one, other = random.randrange(len(found)), random.randrange(len(found))
    found[one], found[other] = found[other], found[one]


def _exchange_alike(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    """Two arguments of one opcode change places: memo slots, strings, integers."""
    first = random.randrange(len(found))
    alike = [at for at, piece in enumerate(found) if piece[:1] == found[first][:1]]
    other = random.choice(alike)
    found[first], found[other] = found[other], found[first]


def _graft(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    donor = instructions(random.choice(donors))
    at = random.randrange(len(found))
    found[at : at + random.choice((0, 1))] = donor[_some(random, donor, 12)]


def _insert(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    at = random.randrange(len(found))
    found[at : at + random.choice((0, 1))] = [instruction(random) for _ in range(random.choice((1, 1, 2, 4)))]


def _argument(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    """Another argument for the same opcode."""
    at = random.randrange(len(found))
    opcode = next((one for one in _OPCODES if one.code.encode("latin-1") == found[at][:1]), None)
    if opcode is not None:
        found[at] = _encoded(random, opcode)


def _count(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    """Another value in the bytes behind the opcode: a length, a memo slot, a frame, a protocol."""
    at = random.randrange(len(found))
    piece = found[at]
    width = min(len(piece) - 1, random.choice((1, 2, 4, 8)))
    if width > 0:
        value = number(random) % (1 << 8 * width)
        found[at] = piece[:1] + value.to_bytes(width, "little") + piece[1 + width :]


def _flip(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    at = random.randrange(len(found))
    piece = bytearray(found[at])
    if piece:
        piece[random.randrange(len(piece))] = random.randrange(256)
        found[at] = bytes(piece)


def _truncate(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    at = random.randrange(len(found))
    found[at:] = [found[at][: random.randint(0, len(found[at]))]]


def _protocol(random: Random, found: Instructions, donors: Sequence[bytes]) -> None:
    found.insert(random.choice((0, random.randrange(len(found)))), b"\x80" + bytes([random.choice((0, 1, 5, 6, 255))]))


def instruction(random: Random) -> bytes:
    """Any instruction with an argument of its kind, or nearly."""
    return _encoded(random, random.choice(_OPCODES))


def _encoded(random: Random, opcode: pickletools.OpcodeInfo) -> bytes:
    code, argument = opcode.code.encode("latin-1"), opcode.arg
    if argument is None:
        return code
    if argument.n == pickletools.UP_TO_NEWLINE:
        lines = 2 if argument.name == "stringnl_noescape_pair" else 1
        return code + b"".join(_line(random) + b"\n" for _ in range(lines))
    if argument.n >= 0:
        return code + (number(random) % (1 << 8 * argument.n)).to_bytes(argument.n, "little")
    return code + _counted(random, argument)


def _line(random: Random) -> bytes:
    if random.random() < 0.5:
        return str(number(random)).encode() + random.choice((b"", b"L"))
    word = random.choice(WORDS).encode("utf-8", "surrogatepass")
    return random.choice((word, b"'" + word + b"'"))


def _counted(random: Random, argument: pickletools.ArgumentDescriptor) -> bytes:
    width = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}.get(argument.n, 4)
    content = random.choice(WORDS).encode("utf-8", "surrogatepass")
    length = len(content) if random.random() < 0.8 else number(random)
    return (length % (1 << 8 * width)).to_bytes(width, "little") + content


def text(value: str) -> bytes:
    """BINUNICODE."""
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


Change = Callable[[Random, Instructions, Sequence[bytes]], None]
_CHANGES: tuple[Change, ...] = (
    *(_drop, _double, _repeat, _move, _swap, _exchange_alike, _exchange_alike, _graft, _insert, _argument, _argument),
    *(_count, _flip, _truncate, _protocol),
)
