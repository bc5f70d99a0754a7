"""Checkpoints beyond 4 GB, with very many tensors, and with very many shards. torch is the oracle.

CI converts smaller ones; `CONVINSPECT_LARGE=1 pytest -n 0 tests/end_to_end/test_large.py` takes the full sizes, 12 GB
of disk and a few minutes.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from convinspect.checkpoint import open_checkpoint
from convinspect.writing import pieces as writing
from support.conversions import converted, load

LARGE = bool(os.environ.get("CONVINSPECT_LARGE"))
TENSORS = 100_000 if LARGE else 5_000
SHARDS = 1_000 if LARGE else 300
BIG = (40_000, 32_000, 1)
"""5.12 GB of float32, of which nothing is ever written: the file has a hole there."""
_SEEN = 1 << 16

sparse = pytest.mark.skipif(sys.platform != "linux", reason="other systems fill the hole")


@pytest.fixture
def holes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of long ranges only the ends are copied, where the numbers of these files lie; the rest is a hole again."""
    original = writing._copy

    def skipping(between: writing._Between, piece: writing.Range) -> None:
        if piece.end - piece.start > 2 * _SEEN and not LARGE:
            original(between, writing.Range(piece.start, piece.start + _SEEN))
            os.lseek(between.writer, piece.end - piece.start - 2 * _SEEN, os.SEEK_CUR)
            piece = writing.Range(piece.end - _SEEN, piece.end)
        original(between, piece)

    monkeypatch.setattr(writing, "_copy", skipping)


@sparse
def test_a_zip_beyond_4_gb(tmp_path: Path, holes_stay: None) -> None:
    """With zip64 fields, and a tensor that begins behind the first 4 GB. There and back gives the same bytes."""
    source, target, back = (tmp_path / name for name in ("a.pt", "b.pt", "c.pt"))
    last = torch.randn(4, 6, 1)
    with torch.serialization.skip_data():
        torch.save({"big.weight": torch.empty(BIG), "last.weight": last}, source)
    storage = open_checkpoint(source).tensors["last.weight"].storage
    assert storage is not None
    assert storage.start is not None
    with open(source, "r+b") as file:
        file.seek(_payload(source, storage.start))
        assert file.tell() > 1 << 32
        file.write(last.numpy().tobytes())
    converted(source, target)
    found = torch.load(target, weights_only=True, mmap=True)
    assert found["big.weight"].shape == BIG[:2]
    assert torch.equal(found["last.weight"], last[:, :, 0])
    converted(target, back, "Conv1d", names=("big", "last"))
    assert _ends(back) == _ends(source)
    _assert_no_more_disk(source, target)


def _payload(path: Path, header: int) -> int:
    """Where the bytes of a record begin, behind its local header."""
    with open(path, "rb") as file:
        file.seek(header)
        lengths: tuple[int, int] = struct.unpack("<HH", file.read(30)[26:])
    return header + 30 + sum(lengths)


@sparse
def test_a_safetensors_beyond_4_gb(tmp_path: Path, holes_stay: None) -> None:
    source, target, back = (tmp_path / f"{name}.safetensors" for name in "abc")
    last, nbytes = torch.randn(4, 6, 1), 4 * torch.Size(BIG).numel()
    ends = {"big.weight": (BIG, 0, nbytes), "last.weight": ((4, 6, 1), nbytes, nbytes + 96)}
    header = json.dumps(
        {key: {"dtype": "F32", "shape": shape, "data_offsets": [*at]} for key, (shape, *at) in ends.items()},
        separators=(",", ":"),
    )
    header += " " * (-len(header) % 8)
    with open(source, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header.encode())
        file.seek(nbytes, os.SEEK_CUR)
        file.write(last.numpy().tobytes())
    converted(source, target)
    with safe_open(target, "pt") as found:
        assert found.get_slice("big.weight").get_shape() == [*BIG[:2]]
        assert torch.equal(found.get_tensor("last.weight"), last[:, :, 0])
    converted(target, back, "Conv1d", names=("big", "last"))
    assert _ends(back) == _ends(source)
    _assert_no_more_disk(source, target)


def _ends(path: Path) -> tuple[int, bytes, bytes]:
    """Size, first and last bytes."""
    with open(path, "rb") as file:
        first = file.read(4096)
        file.seek(-4096, os.SEEK_END)
        return path.stat().st_size, first, file.read()


def _assert_no_more_disk(*paths: Path) -> None:
    if not LARGE:
        assert sum(path.stat().st_blocks for path in paths) * 512 < 16 << 20


@pytest.mark.parametrize("container", ["zip.pt", "legacy.pt", "one.safetensors"] if LARGE else ["zip.pt"])
def test_very_many_tensors(tmp_path: Path, container: str) -> None:
    source, target = tmp_path / container, tmp_path / f"new_{container}"
    numbers = torch.randn(TENSORS, 6, 8, 1)
    state = {f"h.{i // 10}.c{i % 10}.weight": numbers[i].clone() for i in range(TENSORS)}
    if container == "one.safetensors":
        save_file(state, source)
    else:
        torch.save(state, source, _use_new_zipfile_serialization=container == "zip.pt")
    assert len(converted(source, target).conversions) == TENSORS
    after = load(target)
    assert set(after) == set(state)
    assert torch.equal(torch.stack([after[key] for key in state]), numbers[..., 0])


def test_very_many_shards(tmp_path: Path) -> None:
    source, target = tmp_path / "shards", tmp_path / "new"
    source.mkdir()
    where: dict[str, str] = {}
    numbers = torch.randn(SHARDS, 20, 8, 1)
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        part = {f"h.{shard}.conv.weight": numbers[shard], f"h.{shard}.norm.weight": torch.ones(5)}
        save_file(part, source / name)
        where |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": SHARDS * (160 + 5) * 4}, "weight_map": where}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    assert len(converted(source, target).conversions) == SHARDS
    listed = open_checkpoint(target)
    assert not listed.problems
    assert not listed.notes
    assert len(list(target.iterdir())) == SHARDS + 1
    for shard in (0, 1, SHARDS // 2, SHARDS - 1):
        key = f"h.{shard}.conv.weight"
        assert torch.equal(load(target / where[key])[key], numbers[shard, :, :, 0])
