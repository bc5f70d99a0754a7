"""Whole safetensors files that safetensors.torch loads, or does not: `check` and `shapes` say the same."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file

from convinspect import diff
from convinspect.checking.scan import check
from convinspect.checkpoint import open_checkpoint
from convinspect.diffing.differences import Verdict
from convinspect.errors import BrokenFile
from convinspect.formats import read_contents
from support.in_process import run


def written(path: Path, header: dict[str, Any] | str, nbytes: int) -> Path:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\1" * nbytes)
    return path


def one(dtype: str, shape: list[int], nbytes: int) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, nbytes]}}


def with_empty(at: int, end: int = 8) -> dict[str, Any]:
    return one("F32", [end // 4], end) | {"e": {"dtype": "F32", "shape": [0], "data_offsets": [at, at]}}


_SURROGATE = '{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
_PAIR = '{"\\ud83d\\ude00":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
_NAMED = '{"größe":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'

CASES: dict[str, tuple[dict[str, Any] | str, int]] = {
    "F6_E2M3": (one("F6_E2M3", [2, 4], 6), 6),
    "F6_E3M2": (one("F6_E3M2", [4, 2], 6), 6),
    "F6 empty": (one("F6_E3M2", [4, 0], 0), 0),
    "F4": (one("F4", [2, 4], 4), 4),
    "F4, odd last dimension": (one("F4", [4, 3], 6), 6),
    "F4, empty and odd": (one("F4", [0, 3], 0), 0),
    "F8_E8M0": (one("F8_E8M0", [2, 4], 8), 8),
    "C64": (one("C64", [2], 16), 16),
    "an empty tensor within another": (with_empty(4), 8),
    "one at its start": (with_empty(0), 8),
    "one at its end": (with_empty(8), 8),
    "one beyond the end": (with_empty(80), 8),
    "an empty tensor alone": (one("F32", [0, 3], 0), 0),
    "one alone, elsewhere": ({"e": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}}, 0),
    "half of a pair": (_SURROGATE, 8),
    "a pair": (_PAIR, 8),
    "a name beyond ASCII": (_NAMED, 8),
    "not aligned": (one("U8", [1], 1) | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}}, 9),
}


def is_loaded(path: Path) -> bool:
    """Whether the safetensors library itself loads a file."""
    try:
        load_file(path)
    except SafetensorError:
        return False
    return True


@pytest.mark.parametrize("name", CASES)
def test_check_and_shapes_say_what_safetensors_does(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.safetensors", *CASES[name])
    loads = is_loaded(path)
    codes = [found.code for found in check(path).findings]
    noted = [note for note in open_checkpoint(path).notes if "does not load" in note]
    assert (codes, bool(noted)) == (([], False) if loads else (["not-loaded"], True))


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"), [("F4", [3], 2), ("F4", [], 1), ("F6_E2M3", [3], 3), ("F6_E3M2", [1, 1], 1)]
)
def test_what_ends_within_a_byte_is_no_safetensors(tmp_path: Path, dtype: str, shape: list[int], nbytes: int) -> None:
    path = written(tmp_path / "a.safetensors", one(dtype, shape, nbytes), nbytes)
    with pytest.raises(SafetensorError):
        load_file(path)
    with pytest.raises(BrokenFile, match="ends within a byte"):
        read_contents(path)
    assert run("check", path).returncode == 2


def test_one_line_for_many(tmp_path: Path) -> None:
    header = {f"w{i}": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [3 * i, 3 * i + 3]} for i in range(3)}
    done = run("shapes", written(tmp_path / "a.safetensors", header, 9))
    line = "does not load this file: 'w0': PyTorch has no dtype for F6_E2M3, and 2 more"
    assert line in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", CASES)
def test_diff_promises_no_loading_that_safetensors_refuses(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.safetensors", *CASES[name])
    loads = is_loaded(path)
    checkpoint = open_checkpoint(path)
    report = diff(checkpoint, checkpoint)
    assert (report.verdict == Verdict.LOADS) == loads
    assert any("does not load this file" in line for line in report.obstacles) != loads
