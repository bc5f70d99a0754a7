"""LoRA and DoRA of peft on a convolution that cuts patches go with it: the same outputs on the Linear over patches."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect import convert
from convinspect.errors import ConvInspectError

peft = pytest.importorskip("peft")


class Model(nn.Module):
    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.patch_embed: Any = nn.Module()
        self.patch_embed.proj = nn.Linear(48, 8) if linear else nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) → (N, 8, H / 4, W / 4), the Linear by the lines that `convert` advises."""
        y: torch.Tensor
        if self.linear:
            y = self.patch_embed.proj(x.unfold(2, 4, 4).unfold(3, 4, 4).movedim(1, 3).flatten(3)).movedim(-1, 1)
        else:
            y = self.patch_embed.proj(x)
        return y


def adapted(linear: bool, config: Any) -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(Model(linear), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    return model.double().eval()


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_outputs_stay(dora: bool, alone: bool, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, use_dora=dora, target_modules=["proj"])
    before, after = adapted(False, config), adapted(True, config)
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    own = peft.get_peft_model_state_dict(before) if alone else before.state_dict()
    torch.save(own, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", to="linear", patches=True)
    state = torch.load(tmp_path / "b.pt")
    if alone:
        base = before.get_base_model().patch_embed.proj.base_layer
        after.get_base_model().patch_embed.proj.base_layer.load_state_dict(
            {"weight": base.weight.flatten(1), "bias": base.bias}
        )
        assert not peft.set_peft_model_state_dict(after, state).unexpected_keys
    else:
        after.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(after(x), before(x))
    convert(tmp_path / "b.pt", tmp_path / "c.pt", to="conv2d", patch="4x4")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "c.pt").read_bytes()


@pytest.mark.parametrize("name", ["LoHaConfig", "LoKrConfig", "IA3Config", "BOFTConfig", "HRAConfig"])
def test_other_adapters_hold_the_layer(name: str, tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "BOFTConfig": {"boft_block_size": 2},
        "IA3Config": {"feedforward_modules": []},
    }
    config = getattr(peft, name)(target_modules=["proj"], **settings.get(name, {}))
    model = adapted(False, config)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    with pytest.raises(ConvInspectError, match="merge the adapter first"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", to="linear", patches=True)
    assert not (tmp_path / "b.pt").exists()
