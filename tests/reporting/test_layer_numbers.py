"""What one pass over a layer's numbers gives, against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune, weight_norm

import convinspect
from convinspect.arrays import stats
from convinspect.errors import ConvInspectError
from convinspect.records import Layer
from convinspect.reporting.numbers import numbers_of, numbers_of_layers
from convinspect.reporting.shapes import Grid, View, grid_of, view_of
from support.paths import FIXTURES


def layers_of(folder: Path, state: Any) -> dict[str, Layer]:
    torch.save(state, folder / "m.pt")
    return {layer.name: layer for layer in convinspect.find_layers(convinspect.open(folder / "m.pt"))}


def out_first(weight: torch.Tensor, layer: Layer) -> torch.Tensor:
    """(out, everything else) in float64."""
    turned = layer.kind.startswith("ConvTranspose")
    return (weight.transpose(0, 1) if turned else weight).double().flatten(1)


STATE = {
    "linear.weight": torch.randn(300, 70),
    "wide.weight": torch.randn(7, 5000),
    "tall.weight": torch.randn(5000, 3),
    "one.weight": torch.randn(1, 900),
    "conv.weight": torch.randn(40, 30, 3, 3),
    "last.weight": torch.randn(40, 30, 3, 3).to(memory_format=torch.channels_last),
    "turned.weight": torch.randn(90, 50).t(),
    "gaps.weight": torch.randn(60, 80)[:, ::2],
    "half.weight": torch.randn(64, 48).half(),
    "bf.weight": torch.randn(64, 48).bfloat16(),
    "float8.weight": torch.randn(64, 48).to(torch.float8_e4m3fn),
    "int.weight": torch.randint(-100, 100, (64, 48), dtype=torch.int8),
    "long.weight": torch.randint(-(2**40), 2**40, (64, 48)),
    "double.weight": torch.randn(64, 48, dtype=torch.float64),
}


@pytest.mark.parametrize("name", [key.removesuffix(".weight") for key in STATE])
@pytest.mark.parametrize("cells", [60, 1000, 10**6])
def test_norms_and_cells_are_those_of_torch(tmp_path: Path, name: str, cells: int) -> None:
    weight = STATE[f"{name}.weight"].clone() if name != "gaps" else STATE["gaps.weight"]
    layer = layers_of(tmp_path, {f"{name}.weight": weight})[name]
    found = numbers_of(layer, cells)
    matrix = out_first(weight, layer)
    assert found.norms is not None
    assert np.allclose(found.norms, matrix.norm(dim=1).numpy(), rtol=1e-5)
    same = stats.of(layer.weight)
    assert found.stats.histogram == same.histogram
    assert (found.stats.std, found.stats.l2) == pytest.approx((same.std, same.l2), rel=1e-12)
    picture = found.picture
    assert picture is not None
    assert picture.values.size <= cells
    assert (picture.out, picture.across) == tuple(matrix.shape)
    assert picture.exact == (matrix.numel() <= cells)
    wanted = matrix
    if name == "last" and cells < 10**6:
        # In the order of the storage: (out, rows, columns, in).
        wanted = weight.permute(0, 2, 3, 1).double().flatten(1)
    elif name == "last":
        wanted = weight.permute(0, 2, 3, 1).double().flatten(1)
    expected = wanted if picture.exact else cells_of(wanted, picture.high, picture.wide)
    assert np.allclose(picture.values, expected.numpy(), rtol=1e-4)


def cells_of(matrix: torch.Tensor, high: int, wide: int) -> torch.Tensor:
    """The root of the mean square of each cell."""
    rows = [
        torch.stack([part.square().mean().sqrt() for part in torch.split(band, wide, dim=1)])
        for band in torch.split(matrix, high)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("cells", [60, 10**6])
def test_what_is_stored_as_in_and_out_is_seen_by_outputs(tmp_path: Path, cells: int) -> None:
    model = nn.Sequential(nn.ConvTranspose1d(30, 20, 5), nn.ConvTranspose2d(16, 24, 1))
    torch.save(model, tmp_path / "m.pt")
    for layer in convinspect.find_layers(convinspect.open(tmp_path / "m.pt")):
        weight = model.state_dict()[f"{layer.name}.weight"]
        found = numbers_of(layer, cells)
        assert found.norms is not None
        assert np.allclose(found.norms, out_first(weight, layer).norm(dim=1).numpy(), rtol=1e-5)
        assert found.picture is not None
        assert (found.picture.out, found.picture.across) == (weight.shape[1], weight.shape[0])


def test_dead_channels_are_rows_of_zeros_and_no_others(tmp_path: Path) -> None:
    weight = torch.randn(50, 40, 1)
    weight[[3, 17, 49]] = 0
    weight[5] = 0
    weight[5, 7] = 1e-44  # whose square is 0 in any precision
    weight[6] = -0.0
    found = numbers_of(layers_of(tmp_path, {"c.weight": weight})["c"], 100)
    assert found.dead == (3, 6, 17, 49)
    assert found.stats.zeros == 4 * 40 + 39


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_of_very_large_and_small_numbers_do_not_overflow(tmp_path: Path, scale: float) -> None:
    weight = torch.randn(20, 30) * scale
    for dtype in (torch.float32, torch.float64):
        big = weight.to(dtype) * (1e150 if scale > 1 and dtype == torch.float64 else 1)
        found = numbers_of(layers_of(tmp_path, {"c.weight": big})["c"], 50)
        top = float(big.abs().max())
        assert found.norms is not None
        assert np.allclose(found.norms / top, (big.double() / top).norm(dim=1).numpy(), rtol=1e-5)


def test_norms_of_weights_under_a_norm_are_of_the_effective_kernel(tmp_path: Path) -> None:
    normed = weight_norm(nn.Conv1d(8, 6, 3))
    pruned = nn.Conv1d(8, 6, 1)
    prune.random_structured(pruned, "weight", 0.5, dim=0)  # type: ignore[no-untyped-call]
    model = nn.ModuleDict({"normed": normed, "pruned": pruned})
    layers = layers_of(tmp_path, model.state_dict())
    for name, module in (("normed", normed), ("pruned", pruned)):
        found = numbers_of(layers[name], 10**4)
        weight = module.weight.detach().double().flatten(1)
        assert found.norms is not None
        assert np.allclose(found.norms, weight.norm(dim=1).numpy(), rtol=1e-5)
        assert found.dead == tuple(torch.nonzero((weight == 0).all(dim=1)).flatten().tolist())
        assert found.notes


def test_vectors_are_strips_and_scalars_are_cells(tmp_path: Path) -> None:
    layers = layers_of(
        tmp_path, {"norm.weight": torch.arange(10.0), "scale": torch.tensor(3.0), "none": torch.zeros(0)}
    )
    strip = numbers_of(layers["norm"], 100)
    assert strip.norms is None
    assert strip.dead == ()
    assert strip.picture is not None
    assert strip.picture.values.tolist() == [list(range(10))]
    by_name = {layer.name: numbers_of(layer, 100) for layer in layers.values()}
    assert [each.stats.numel for each in by_name.values()].count(1) == 1


def test_what_cannot_be_read_is_an_error_in_its_place() -> None:
    layers = convinspect.find_layers(convinspect.open(FIXTURES / "odd_tensors.pt"))
    found = list(numbers_of_layers([(layer, 100) for layer in layers]))
    errors = [each for each in found if isinstance(each, ConvInspectError)]
    assert len(found) == len(layers)
    assert 0 < len(errors) < len(found)


def test_cells_hold_whole_kernels_where_they_can() -> None:
    assert grid_of(View(1, 64, 64 * 9, (0, 1, 2), 9), 64 * 16).wide % 9 == 0
    assert grid_of(View(1, 192, 3 * 256, (0, 1, 2, 3), 256), 6144).wide in (8, 16, 32)
    for out, after, cells in ((1, 1, 1), (1000, 1, 7), (1, 1000, 7), (3, 5, 4), (10**6, 2, 100)):
        grid = grid_of(View(1, out, after, (0, 1)), cells)
        assert isinstance(grid, Grid)
        assert grid.rows * grid.columns <= max(cells, 1)
        assert grid.rows * grid.high >= out
        assert grid.columns * grid.wide >= after


def test_a_view_with_gaps_is_no_run(tmp_path: Path) -> None:
    layers = layers_of(tmp_path, {"gaps.weight": torch.randn(60, 80)[:, ::2]})
    assert view_of(layers["gaps"], stored=True) is None
    assert view_of(layers["gaps"], stored=False) is not None
