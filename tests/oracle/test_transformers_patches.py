"""Vision models of transformers, whose patch embeddings and downsamplings become Linears: the same outputs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.modules import expose_linears, swap_patches, swap_pointwise
from convinspect.showing.code_changes import advice

pytest.importorskip("transformers")

SMALL = {"depth": 2, "num_heads": 2}
ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    # configuration, model, settings, convolutions that cut patches
    "qwen2_vl": (
        "Qwen2VLVisionConfig", "Qwen2VisionTransformerPretrainedModel",
        {**SMALL, "embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2}, 1,
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLVisionConfig", "Qwen2_5_VisionTransformerPretrainedModel",
        {**SMALL, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 48, "fullatt_block_indexes": [1]}, 1,
    ),
    "qwen3_vl": (
        "Qwen3VLVisionConfig", "Qwen3VLVisionModel",
        {**SMALL, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 48, "num_position_embeddings": 64,
         "deepstack_visual_indexes": [0]}, 1,
    ),
    # Its Conv2d that merges 2 × 2 patches is one too.
    "glm4v": (
        "Glm4vVisionConfig", "Glm4vVisionModel",
        {**SMALL, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 48, "image_size": 56}, 2,
    ),
    "vit": ("ViTConfig", "ViTModel", {**ENCODER, "image_size": 32, "patch_size": 8}, 1),
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel", {**ENCODER, "image_size": 30, "patch_size": 8}, 1),
    "convnext": ("ConvNextConfig", "ConvNextModel", {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 2, 1]}, 4),
}  # fmt: skip


def built(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """A small model with random weights, in float64, and an input for it."""
    config_name, model_name, settings, _ = MODELS[name]
    torch.manual_seed(0)
    config = getattr(importlib.import_module(f"transformers.models.{name}.configuration_{name}"), config_name)(
        **settings
    )
    config._attn_implementation = "eager"
    model = getattr(importlib.import_module(f"transformers.models.{name}.modeling_{name}"), model_name)(config)
    if name in ("vit", "siglip", "convnext"):
        size = 64 if name == "convnext" else config.image_size
        return model.double().eval(), {"pixel_values": torch.randn(2, 3, size, size, dtype=torch.float64)}
    numbers = 3 * config.temporal_patch_size * config.patch_size**2
    patches = torch.randn(4 * 4, numbers, dtype=torch.float64)
    return model.double().eval(), {"hidden_states": patches, "grid_thw": torch.tensor([[1, 4, 4]])}


def outputs(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    y = model(**inputs)
    values = y.values() if isinstance(y, dict) else [y]
    return [value for value in values if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_stay(name: str) -> None:
    model, inputs = built(name)
    before = outputs(model, inputs)
    sum(y.square().sum() for y in before).backward()  # type: ignore[union-attr]
    gradients = {key: value.grad for key, value in model.named_parameters()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.zero_grad()

    swaps = swap_patches(model)
    assert len(swaps.swapped) == MODELS[name][3]
    assert all(swap.after == "PatchLinear" for swap in swaps.swapped)
    after = outputs(model, inputs)
    sum(y.square().sum() for y in after).backward()  # type: ignore[union-attr]
    for y, z in zip(before, after, strict=True):
        torch.testing.assert_close(z, y, rtol=1e-9, atol=1e-10)
    for key, value in model.named_parameters():
        wanted = gradients[key]
        if wanted is None:
            assert value.grad is None
        else:
            torch.testing.assert_close(value.grad.reshape(wanted.shape), wanted, rtol=1e-8, atol=1e-9)

    exposed = expose_linears(model)
    assert len(exposed.swapped) == len(swaps.swapped)
    for y, z in zip(before, outputs(model, inputs), strict=True):
        torch.testing.assert_close(z, y, rtol=1e-9, atol=1e-10)

    again, _ = built(name)
    swap_patches(again)
    assert swap_patches(again, to="conv").left == ()
    assert all(torch.equal(again.state_dict()[key], value) for key, value in state.items())


def test_depthwise_convolutions_of_convnext_stay() -> None:
    model, inputs = built("convnext")
    before = outputs(model, inputs)
    left = swap_patches(model).left
    assert {(skipped.kind, skipped.reason.partition(" is ")[0]) for skipped in left} == {("Conv2d", "its stride")}
    assert len(left) == 5
    swap_pointwise(model)
    for y, z in zip(before, outputs(model, inputs), strict=True):
        torch.testing.assert_close(z, y, rtol=1e-9, atol=1e-10)


def test_torchao_quantizes_an_exposed_patch_embedding() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    model, inputs = built("vit")
    model, inputs = model.float(), {key: value.float() for key, value in inputs.items()}
    before = outputs(model, inputs)[0]
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    patch = next(module for name, module in model.named_modules() if name.endswith("projection"))
    assert type(patch.weight.data) is torch.Tensor  # A convolution is passed over.
    swap_patches(model)
    expose_linears(model)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig(), lambda module, name: name.endswith("projection.linear"))
    patch = next(module for name, module in model.named_modules() if name.endswith("projection"))
    assert type(patch.weight.data) is not torch.Tensor
    after = outputs(model, inputs)[0]
    assert (after - before).abs().max() < 0.1 * before.abs().max()


@pytest.mark.parametrize(("name", "embed"), [("qwen2_vl", "PatchEmbed"), ("qwen2_5_vl", "Qwen2_5_VisionPatchEmbed")])
def test_flattened_patches_need_no_reshape_around_a_linear(name: str, embed: str, tmp_path: Path) -> None:
    """Qwen's code reshapes patches, which are cut already, before and after the convolution: `convert` says to leave
    both out.
    """
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    torch.manual_seed(0)
    old = getattr(module, embed)(patch_size=14, temporal_patch_size=2, in_channels=3, embed_dim=32)
    torch.save({f"visual.patch_embed.{key}": value for key, value in old.state_dict().items()}, tmp_path / "a.pt")
    job = convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to="linear", patches=True))
    assert any("for x of (…, 1176)" in line and "as it is, without a reshape" in line for line in advice(job.plan, {}))

    class New(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Linear(1176, 32, bias=False)

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.proj(hidden_states.to(self.proj.weight.dtype))
            return y

    new = New()
    new.load_state_dict(
        {key.removeprefix("visual.patch_embed."): value for key, value in torch.load(tmp_path / "b.pt").items()}
    )
    rows = torch.randn(12, 1176)
    torch.testing.assert_close(new(rows), old(rows))
