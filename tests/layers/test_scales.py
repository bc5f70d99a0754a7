"""Weights whose numbers mean nothing without a scale beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.plan import Request, plan
from convinspect.layers.find import find_layers
from support.conversions import names
from support.saving import layers_in

NARROW = [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8]
SIBLINGS = (
    "a.weight_scale_inv", "a.weight_scale", "a.scale", "a.scale_inv", "a.w_scale", "a.input_scale", "a.weight.scale",
    "a.act_scale", "a.Scale", "a_scale", "a_scale_inv", "a_weight_scale",
)  # fmt: skip


def weights(dtype: torch.dtype, *shape: int) -> dict[str, Tensor]:
    return {"m.a.weight": torch.ones(shape).to(dtype), "m.b.weight": torch.randn(4, 6), "m.b.bias": torch.randn(4)}


@pytest.mark.parametrize("sibling", SIBLINGS)
@pytest.mark.parametrize("dtype", NARROW)
def test_a_weight_with_a_scale_beside_it_is_quantized(tmp_path: Path, dtype: torch.dtype, sibling: str) -> None:
    for kind, shape in (("Linear (quantized)", (4, 6)), ("Conv (quantized)", (4, 6, 1))):
        for scale in (torch.ones(1, 1), torch.ones(4, 1).to(torch.float8_e8m0fnu)):
            state = {**weights(dtype, *shape), f"m.{sibling}": scale}
            layers = layers_in(tmp_path, state)
            assert (layers["m.a"].kind, layers["m.a"].tags) == (kind, ("quantized",))
            assert "its scales" in "".join(layers["m.a"].notes) or "their scales" in "".join(layers["m.a"].notes)
            assert layers["m.b"].kind == "Linear"
            # Each tensor still belongs to exactly one layer.
            held = [tensor.key for layer in layers.values() for tensor in layer.tensors.values()]
            assert sorted(held) == sorted(state)
            every = find_layers(open_checkpoint(tmp_path / "model.pt"))
            for to, origin in (("Conv1d", "Linear"), ("Linear", "Conv1d")):
                for chosen in ((), ("m.a*",)):
                    assert "m.a" not in names(plan(every, Request(to, (origin,), chosen)))


@pytest.mark.parametrize("sibling", ["m.b_scale", "m.c.scale", "ma_scale", "m.bias", "m.other"])
def test_scales_of_others_are_none_of_its_own(tmp_path: Path, sibling: str) -> None:
    state = {**weights(torch.float8_e4m3fn, 4, 6), sibling: torch.ones(1)}
    assert layers_in(tmp_path, state)["m.a"].kind == "Linear"


def test_alike_layers_with_and_without_a_scale_one_level_up(tmp_path: Path) -> None:
    state = {f"m.{n}.fc.weight": torch.ones(4, 6).to(torch.float8_e4m3fn) for n in range(4)}
    state |= {f"m.{n}.fc_scale": torch.ones(1) for n in (1, 3)}
    layers = layers_in(tmp_path, state)
    kinds = ["Linear", "Linear (quantized)"] * 2
    assert [layers[f"m.{n}.fc"].kind for n in range(4)] == kinds


def test_wide_weights_with_a_scale_are_what_they_were(tmp_path: Path) -> None:
    state = {"m.fc.weight": torch.randn(4, 6), "m.fc.logit_scale": torch.ones(1), "m.fc_scale": torch.ones(1)}
    layers = layers_in(tmp_path, state)
    assert layers["m.fc"].kind == "Linear"
    assert layers["m.fc.logit_scale"].kind == layers["m.fc_scale"].kind == "Parameter"


def test_parameters_with_a_scale_beside_them_say_so(tmp_path: Path) -> None:
    state = {"experts.w1": torch.ones(2, 4, 6).to(torch.float8_e4m3fn), "experts.w1_scale": torch.ones(2)}
    state |= {"experts.w2": torch.ones(2, 4, 6).to(torch.float8_e4m3fn), "experts.w3": torch.ones(2, 4, 6)}
    layers = layers_in(tmp_path, {**state, "experts.w3_scale": torch.ones(2)})
    assert {name for name, layer in layers.items() if "quantized" in layer.tags} == {"experts.w1"}
