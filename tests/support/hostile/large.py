"""Files of megabytes, which cost time and memory at most.

LARGE     name → builder
HONEST    names of those that are listed
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from support import sampling
from support.hostile.archives import exported_much_of, exported_weights, frozen_of, script_of
from support.hostile.containers import safetensors_file, zip_file
from support.hostile.opcodes import Builder, beside_a_layer


def much_of(tmp_path: Path, marker: Path, opcodes: bytes, times: int = 5_000_000) -> Path:
    """A sound kernel, and megabytes of instructions of one byte."""
    return zip_file(tmp_path, beside_a_layer(b"(" + opcodes * (times // len(opcodes)) + b"t"))


def marks(tmp_path: Path, marker: Path) -> Path:
    """A tuple in a tuple, a million deep."""
    return zip_file(tmp_path, beside_a_layer(b"(" * 1_000_000 + b"t" * 1_000_000))


def header_of_nothing(tmp_path: Path, marker: Path) -> Path:
    """A safetensors header of 800,000 empty tensors."""
    entry = '"dtype":"F32","shape":[0],"data_offsets":[0,0]'
    header = ",".join(f'"t{index}":{{{entry}}}' for index in range(800_000))
    return safetensors_file(tmp_path, f"{{{header}}}".encode(), b"")


def header_that_repeats(tmp_path: Path, marker: Path) -> Path:
    """A safetensors header whose last of many names occurs twice."""
    entry = '"dtype":"F32","shape":[0],"data_offsets":[0,0]'
    header = ",".join(f'"t{min(index, 59_998)}":{{{entry}}}' for index in range(60_000))
    return safetensors_file(tmp_path, f"{{{header}}}".encode(), b"")


_VARIED = b"".join(b'{"%d":{}},' % number for number in range(1_000))
"""Packs thirtyfold, which is less than gives a record away."""


MUCH = {
    "nones": b"N", "lists": b"]", "dicts": b"}", "empty_tuples": b")", "pushed_and_popped": b"N0",
    "numbers": b"J\1\2\3\4", "nested_tuples": b"N\x85", "floats": b"G" + bytes(8),
}  # fmt: skip
FROZEN_CODE = {
    "brackets": b"((", "commas": b"torch.linear(" + b"," * 80,
    "uses": b"torch.conv1d(x, CONSTANTS.c0, None, [1], [7])\n",
    "different_uses": b"".join(b"torch.linear(x, CONSTANTS.c%d, CONSTANTS.c1)" % number for number in range(1_000)),
}  # fmt: skip


def _code_bytes(name: str) -> int:
    """Of frozen code: megabytes; of uses, which take two seconds each, one."""
    return sampling.times(1_000_000 if "uses" in name else 4_000_000, 4_000_000)


LARGE: dict[str, Builder] = {
    **{f"zip_much_of_{name}": partial(much_of, opcodes=opcodes) for name, opcodes in MUCH.items()},
    **{f"zip_half_much_of_{name}": partial(much_of, opcodes=opcodes, times=490_000) for name, opcodes in MUCH.items()},
    "zip_marks": marks,
    "script_of_many_sources": partial(script_of, line=b" " * 1_000, times=1_000, records=250),
    "script_of_many_names": partial(script_of, line=b"  a\n", times=250_000),
    "script_of_many_statements": partial(script_of, line=b"  a;a;a;a;a\n", times=300_000, method=0),
    "script_of_many_classes": partial(script_of, line=b"class A:\n a\n", times=80_000),
    **{
        f"frozen_script_of_{name}": partial(frozen_of, code=code, times=_code_bytes(name) // len(code))
        for name, code in FROZEN_CODE.items()
    },
    "exported_much_of_dicts": partial(exported_much_of, items=b'{"":0},', times=1_500_000),
    "exported_half_much_of_dicts": partial(exported_much_of, items=b'{"":0},', times=500_000),
    "exported_much_packed": partial(exported_much_of, items=_VARIED, times=1_000, method=8),
    "exported_long_text": partial(
        exported_much_of, items=bytes(range(65, 91)) * 10 + b"%", times=100_000, before=b'{"a": ["', method=8
    ),
    "exported_many_weights": partial(exported_weights, times=30_000),
    "safetensors_header_of_nothing": header_of_nothing,
    "safetensors_header_that_repeats": header_that_repeats,
}
HONEST = {"zip_much_of_numbers", "zip_much_of_floats", *(name for name in LARGE if "half" in name or "script" in name)}
"""Of these, what may as well be a long list that someone keeps beside the weights, or long code: listed, within the
same limits."""
