"""Numbers for the screen. The oracle is PyTorch."""

from __future__ import annotations

from io import FileIO
from pathlib import Path

import numpy as np
import pytest
import torch

from convinspect.browsing import numbers
from convinspect.browsing.numbers import Stopped, read_numbers
from convinspect.checkpoint import open_checkpoint
from convinspect.errors import CannotShow, ChangedMeanwhile
from convinspect.layers.find import find_layers


def saved(folder: Path, **tensors: torch.Tensor) -> Path:
    path = folder / "model.pt"
    torch.save({name.replace("__", "."): tensor for name, tensor in tensors.items()}, path)
    return path


def go_on() -> bool:
    return False


def test_taps_are_sheets_and_means_are_exact(tmp_path: Path) -> None:
    weight = torch.randn(7, 5, 3)
    checkpoint = open_checkpoint(saved(tmp_path, conv__weight=weight, conv__bias=torch.zeros(7)))
    found = read_numbers(checkpoint, find_layers(checkpoint)[0], go_on)
    assert len(found.sheets) == 3
    assert np.array_equal(found.sheets[1].values, weight[:, :, 1].numpy())
    assert found.stats.mean == pytest.approx(weight.double().mean().item())
    means = found.sheets[0].means(2, 3)
    tap = weight[:, :, 0].double().numpy()
    assert means.shape == (2, 3)
    assert means[0, 0] == pytest.approx(tap[:3, :1].mean())
    assert means[1, 2] == pytest.approx(tap[3:, 3:].mean())


@pytest.mark.parametrize("shape", [(40, 30), (30, 4, 3), (1000, 7), (3, 2000), (1200,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_layer_is_averaged_as_one_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    weight = torch.randn(shape).to(dtype)
    checkpoint = open_checkpoint(saved(tmp_path, a=weight))
    layer = find_layers(checkpoint)[0]
    monkeypatch.setattr(numbers, "MOST_IN_MEMORY", 10)
    monkeypatch.setattr(numbers, "_BAND", 101)
    found = read_numbers(checkpoint, layer, go_on)
    (sheet,) = found.sheets
    matrix = weight.double().reshape(shape[0], -1).numpy()
    assert sheet.shape == matrix.shape
    assert not sheet.row_names
    assert sheet.means(1, 1)[0, 0] == pytest.approx(matrix.mean(), abs=1e-12)
    rows, columns = min(7, matrix.shape[0]), min(5, matrix.shape[1])
    means = sheet.means(rows, columns)
    assert means.shape == (rows, columns)
    assert found.stats.maximum == matrix.max()


def test_reading_a_large_layer_stops_when_one_moves_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(saved(tmp_path, a=torch.zeros(100, 100)))
    monkeypatch.setattr(numbers, "MOST_IN_MEMORY", 10)
    monkeypatch.setattr(numbers, "_BAND", 100)
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 5

    with pytest.raises(Stopped):
        read_numbers(checkpoint, find_layers(checkpoint)[0], stopped)
    assert len(asked) == 6


def test_a_large_layer_is_read_as_often_as_its_statistics_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means come from the same pass over the numbers."""
    read: list[int] = []

    def counting(self: FileIO, into: memoryview) -> int:
        read.append(len(into))
        return plain(self, into)

    plain = FileIO.readinto
    counted = type("Counted", (FileIO,), {"readinto": counting})
    weight = torch.randn(300, 200)
    for dtype, passes in ((torch.bfloat16, 1), (torch.float32, 2)):
        checkpoint = open_checkpoint(saved(tmp_path, a=weight.to(dtype)))
        with monkeypatch.context() as patched:
            patched.setattr(numbers, "MOST_IN_MEMORY", 1000)
            patched.setattr(numbers, "_BAND", 1000)
            patched.setattr("convinspect.arrays.storage.FileIO", counted)
            read.clear()
            read_numbers(checkpoint, find_layers(checkpoint)[0], go_on)
        assert sum(read) == passes * weight.numel() * dtype.itemsize


def test_a_file_that_changed_is_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path, a=torch.zeros(4, 4))
    checkpoint = open_checkpoint(path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ChangedMeanwhile):
        read_numbers(checkpoint, find_layers(checkpoint)[0], go_on)


def test_a_large_layer_under_a_norm_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(saved(tmp_path, c__weight_g=torch.ones(8, 1, 1), c__weight_v=torch.randn(8, 4, 1)))
    monkeypatch.setattr(numbers, "MOST_IN_MEMORY", 10)
    with pytest.raises(CannotShow, match="too many"):
        read_numbers(checkpoint, find_layers(checkpoint)[0], go_on)


def test_rows_that_are_longer_than_what_is_read_at_once_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(saved(tmp_path, a=torch.zeros(2, 50)))
    monkeypatch.setattr(numbers, "MOST_IN_MEMORY", 10)
    monkeypatch.setattr(numbers, "_LONGEST", 49)
    with pytest.raises(CannotShow, match="too many"):
        read_numbers(checkpoint, find_layers(checkpoint)[0], go_on)
