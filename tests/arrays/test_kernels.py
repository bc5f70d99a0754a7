"""A layer's numbers as named matrices: PyTorch's own, cut as asked, with what was done to get them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from convinspect.arrays.effective import effective_bias
from convinspect.arrays.kernels import (
    Choice,
    Kernel,
    indices,
    is_kernel,
    load_kernel,
    matrices,
    other_tensors,
)
from convinspect.errors import BrokenFile, CannotShow
from convinspect.showing.flags import as_flag
from support.saving import layer_of, layers_in


class Doubled(nn.Module):
    """A parametrization that no file records."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2


def values_of(kernel: Kernel) -> list[Any]:
    return [one.values.tolist() for one in matrices(kernel, Choice())]


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_there_is_a_matrix_for_each_tap(tmp_path: Path, kind: Any) -> None:
    layer = kind(3, 4, 2)
    kernel = load_kernel(layer_of(tmp_path, layer))
    found = list(matrices(kernel, Choice()))
    dims = layer.weight.dim() - 2
    assert len(found) == 2**dims
    for number, (one, tap) in enumerate(zip(found, np.ndindex(*(2,) * dims), strict=True)):
        assert one.title == f"tap {','.join(map(str, tap))} of {'×'.join('2' * dims)}"
        assert one.values.tolist() == layer.weight.flatten(2)[:, :, number].tolist()
        assert one.row_names == ["out 0", "out 1", "out 2", "out 3"]
        assert one.column_names == ["in 0", "in 1", "in 2"]
        assert one.bias is not None
        assert one.bias.tolist() == layer.bias.tolist()


def test_one_kernel_is_inputs_by_taps(tmp_path: Path) -> None:
    layer = nn.Conv1d(3, 4, 2)
    kernel = load_kernel(layer_of(tmp_path, layer))
    (one,) = matrices(kernel, Choice(kernel=-1, columns="1:"))
    assert (one.title, one.row_names, one.column_names) == ("kernel 3 of 4", ["in 1", "in 2"], ["tap 0", "tap 1"])
    assert one.values.tolist() == layer.weight[3, 1:].tolist()
    assert layer.bias is not None
    assert one.kernel_bias == layer.bias[3].item()
    (one,) = matrices(load_kernel(layer_of(tmp_path, nn.Linear(3, 4, bias=False))), Choice(kernel=0))
    assert (one.column_names, one.bias, one.kernel_bias) == (["weight"], None, None)


def test_what_is_stored_the_other_way_round_is_turned(tmp_path: Path) -> None:
    turned = nn.ConvTranspose1d(3, 4, 2)
    kernel = load_kernel(layer_of(tmp_path, turned, whole=True))
    assert values_of(kernel) == [turned.weight[:, :, tap].T.tolist() for tap in range(2)]
    assert kernel.notes == ("stored as (in, out, …); outputs are counted within their group",)
    weight = torch.randn(4, 12)
    state = {"h.c_attn.weight": weight, "h.c_attn.bias": torch.zeros(12)}
    kernel = load_kernel(layers_in(tmp_path, state)["h.c_attn"])
    assert values_of(kernel) == [weight.T.tolist()]
    assert kernel.notes == ("stored transposed, as (in, out)",)


def test_groups_are_said_and_a_bias_that_does_not_fit_is_left_out(tmp_path: Path) -> None:
    grouped = nn.Conv1d(4, 6, 1, groups=2)
    kernel = load_kernel(layer_of(tmp_path, grouped, whole=True))
    assert kernel.notes == ("groups 2: each output sees 2 of 4 input channels",)
    assert kernel.bias is not None
    kernel = load_kernel(layer_of(tmp_path, nn.ConvTranspose1d(4, 6, 1, groups=2), whole=True))
    assert kernel.weight.shape == (3, 4, 1)
    assert kernel.bias is None, "outputs are counted within a group, and the bias is one for all groups"
    assert kernel.notes[-1] == "its bias has 6 numbers for 3 outputs shown, and is left out"


def test_a_parametrization_that_is_not_recorded_cannot_be_shown(tmp_path: Path) -> None:
    weight, bias = nn.Conv1d(3, 4, 1), nn.Conv1d(3, 4, 1)
    parametrize.register_parametrization(weight, "weight", Doubled())
    parametrize.register_parametrization(bias, "bias", Doubled())
    with pytest.raises(CannotShow, match="a parametrization that is not recorded"):
        load_kernel(layer_of(tmp_path, weight))
    layer = layer_of(tmp_path, bias)
    assert effective_bias(layer) is None
    kernel = load_kernel(layer)
    assert kernel.bias is None
    assert kernel.notes == ("its bias is computed by a parametrization that is not recorded in the file",)


def test_a_pruned_layer_shows_what_acts(tmp_path: Path) -> None:
    layer = nn.Conv1d(6, 4, 1)
    cut: Any = prune.l1_unstructured
    cut(layer, "weight", 0.5)
    cut(layer, "bias", 0.5)
    kernel = load_kernel(layer_of(tmp_path, layer))
    assert values_of(kernel) == [layer.weight.squeeze(2).tolist()]
    assert kernel.bias is not None
    assert kernel.bias.tolist() == layer.bias.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice(kernel=4), "there is no kernel 4"),
        (Choice(kernel=-5), "there is no kernel -5"),
        (Choice(rows="9:"), "--rows '9:' chooses nothing"),
        (Choice(columns="x"), "--cols 'x' is no slice"),
    ],
)
def test_what_is_not_there_cannot_be_chosen(tmp_path: Path, choice: Choice, words: str) -> None:
    kernel = load_kernel(layer_of(tmp_path, nn.Conv1d(3, 4, 1)))
    with pytest.raises(CannotShow) as raised:
        list(matrices(kernel, choice))
    assert words in raised.value.line(as_flag)
    with pytest.raises(CannotShow) as raised:
        Choice(kernel=0, rows="0:2")
    assert "--kernel chooses one output already" in raised.value.line(as_flag)


def test_a_layer_without_outputs_has_no_kernel_to_choose(tmp_path: Path) -> None:
    layers = layers_in(tmp_path, {"c.weight": torch.zeros(0, 3, 1)})
    with pytest.raises(CannotShow, match="has no outputs, so no kernels"):
        list(matrices(load_kernel(layers["c"]), Choice(kernel=0)))


@pytest.mark.parametrize(
    "text", ["0:6", "3", "-4:", ":", ":2", "-1", " 1:3 ", "-2:-1", "0:999999999999999999", "2:1", "7", "", "a", "1 2"]
)
def test_a_slice_is_what_python_makes_of_it(text: str) -> None:
    numbers = range(5)
    try:
        expected = eval(f"numbers[{text}]", {"numbers": numbers})
        wanted = [*expected] if ":" in text else [expected]
    except (IndexError, SyntaxError, NameError):
        wanted = []
    if wanted:
        assert [*indices(text, 5, "rows")] == wanted
    else:
        with pytest.raises(CannotShow):
            indices(text, 5, "rows")
    assert [*indices(None, 5, "rows")] == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------- other kinds


def test_vectors_of_one_length_stand_side_by_side(tmp_path: Path) -> None:
    norm = nn.BatchNorm1d(4)
    norm.running_mean = torch.arange(4.0)
    layer = layer_of(tmp_path, norm)
    assert not is_kernel(layer)
    (one,) = other_tensors(layer, Choice(rows="1:3"))
    assert one.row_names == ["1", "2"]
    assert one.column_names == ["weight", "bias", "running_mean", "running_var"]
    assert one.values.tolist() == [[1, 0, 1, 1], [1, 0, 2, 1]]


def test_tensors_of_other_shapes_stand_one_by_one(tmp_path: Path) -> None:
    lstm = nn.LSTM(3, 2)
    found = {one.title: one.values.tolist() for one in other_tensors(layer_of(tmp_path, lstm), Choice())}
    for name, value in lstm.named_parameters():
        matrix = value if value.dim() == 2 else value.unsqueeze(1)
        assert found[f"{name} {tuple(value.shape)}"] == matrix.tolist()
    with pytest.raises(CannotShow, match="which has no kernels"):
        list(other_tensors(layer_of(tmp_path, lstm), Choice(kernel=0)))


def test_half_of_a_pair_is_a_broken_file(tmp_path: Path) -> None:
    state = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 1)).state_dict()
    half = {f"layer.{key}": value for key, value in state.items() if not key.endswith("original1")}
    with pytest.raises(BrokenFile, match="layer layer: "):
        list(other_tensors(layers_in(tmp_path, half)["layer"], Choice()))
