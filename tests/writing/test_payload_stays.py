"""What a conversion does not change stays where it was in the file, or moves by whole blocks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from convinspect.checkpoint import open_checkpoint
from convinspect.formats.files import File
from convinspect.formats.zip.archive import Archive
from convinspect.writing.pieces import BLOCK
from support.conversions import converted
from support.sampling import times
from support.storage_offsets import load_by_calculation, save_aligned

WITH_FILES = [HealthCheck.function_scoped_fixture]
LAYERS = st.integers(1, 4) | st.just(100)
MANY = 1500
"""Layers whose sizes take more than a block, so that all else moves."""


def state(layers: int, weight: tuple[int, ...], name: str) -> dict[str, torch.Tensor]:
    numbers = torch.arange(layers * 6.0).reshape(layers, *weight)
    return {f"{name}{number}.weight": numbers[number].clone() for number in range(layers)}


def both_ways(source: Path, weights: dict[str, torch.Tensor], to: bool) -> Path:
    """The converted file, once the way back has given the same bytes."""
    target, back = source.with_name(f"b{source.suffix}"), source.with_name(f"c{source.suffix}")
    layers = [key.removesuffix(".weight") for key in weights]
    for old, new, kind in (
        (source, target, "Linear" if to else "Conv1d"),
        (target, back, "Conv1d" if to else "Linear"),
    ):
        converted(old, new, kind, names=layers)
    assert back.read_bytes() == source.read_bytes()
    return target


def places(path: Path) -> dict[str, int]:
    """Where in the file the bytes of each tensor begin."""
    starts = {}
    with File(path) as file:
        archive = None if path.suffix == ".safetensors" else Archive(file)
        for tensor in open_checkpoint(path).root.tensors:
            assert tensor.storage is not None
            starts[tensor.key] = archive.payload(f"data/{tensor.storage.key}") if archive else tensor.storage.start or 0
    return starts


def moved_by(old: Path, new: Path) -> int:
    """How far all tensors were moved; each as far as the others."""
    before, after = places(old), places(new)
    (distance,) = {after[key] - before[key] for key in before}
    return distance


def grown_by(old: Path, new: Path) -> int:
    return new.stat().st_size - old.stat().st_size


@settings(max_examples=times(8, 15), deadline=None, suppress_health_check=WITH_FILES)
@given(layers=LAYERS, name=st.text("ab", max_size=70), blanks=st.integers(0, 2 * BLOCK + 9), to=st.booleans())
@example(layers=MANY, name="layer", blanks=2 * BLOCK - 1, to=True)
@example(layers=MANY, name="", blanks=5, to=False)
def test_tensors_of_a_safetensors_file_stay(tmp_path: Path, layers: int, name: str, blanks: int, to: bool) -> None:
    """Whatever the header's padding: it takes up what becomes shorter, and gives what becomes longer."""
    source = tmp_path / "a.safetensors"
    weights = state(layers, (2, 3, 1) if to else (2, 3), name)
    save_file(weights, source)
    data = source.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    text = data[8:end].rstrip(b" ") + b" " * blanks
    source.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    target = both_ways(source, weights, to)
    distance = moved_by(source, target)
    assert distance % BLOCK == 0
    assert grown_by(source, target) == distance
    # `, 1` of each layer, in an array without blanks.
    least, spare = 2 * layers, blanks % BLOCK
    assert distance == (-((spare + least) // BLOCK) if to else -((spare - least) // BLOCK)) * BLOCK
    assert all(torch.equal(new.reshape(2, 3), weights[key].reshape(2, 3)) for key, new in load_file(target).items())


@settings(max_examples=times(8, 15), deadline=None, suppress_health_check=WITH_FILES)
@given(
    layers=LAYERS, name=st.text("ab", max_size=70), alignment=st.sampled_from([64, 64, 1, 512, 4096]), to=st.booleans()
)
@example(layers=MANY, name="layer", alignment=64, to=True)
@example(layers=MANY, name="", alignment=512, to=False)
def test_storages_of_an_archive_stay(tmp_path: Path, layers: int, name: str, alignment: int, to: bool) -> None:
    """The padding of the record behind the pickle takes up its change."""
    weights = state(layers, (2, 3, 1) if to else (2, 3), name)
    source = save_aligned(weights, tmp_path / "a.pt", alignment)
    target = both_ways(source, weights, to)
    distance = moved_by(source, target)
    assert distance % BLOCK == 0
    assert grown_by(source, target) == distance
    if layers < 5:
        assert distance <= 0 if to else distance <= BLOCK
    loaded = load_by_calculation(target)
    assert all(torch.equal(new.reshape(2, 3), weights[key].reshape(2, 3)) for key, new in loaded.items())


def test_shorter_headers_leave_a_file_as_long_as_it_is(tmp_path: Path) -> None:
    weights = state(3, (2, 3, 1), "conv")
    torch.save(weights, tmp_path / "a.pt")
    save_file(weights, tmp_path / "a.safetensors")
    for suffix in (".pt", ".safetensors"):
        source, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        converted(source, target)
        assert moved_by(source, target) == grown_by(source, target) == 0


@pytest.mark.unlike_windows
@pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="the kernel copies no ranges")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_file_systems_can_share_the_blocks_of_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """They share ranges that begin at a block of the source and of the target (xfs, btrfs: seen by hand)."""
    weights = state(3, (2, 3, 1), "conv") | {"big": torch.randn(50_000)}
    source = tmp_path / f"a{suffix}"
    (torch.save if suffix == ".pt" else save_file)(weights, source)
    copy, seen = os.copy_file_range, []

    def by_kernel(reader: int, writer: int, size: int, at: int) -> int:
        seen.append((size, at, os.lseek(writer, 0, os.SEEK_CUR)))
        return copy(reader, writer, size, at)

    monkeypatch.setattr(os, "copy_file_range", by_kernel)
    converted(source, tmp_path / f"b{suffix}")
    shared = sum(size for size, at, to in seen if at % BLOCK == to % BLOCK == 0)
    assert shared > weights["big"].nbytes - BLOCK
