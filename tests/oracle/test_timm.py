"""Vision models of timm, whose patch embeddings and downsamplings become Linears: the same outputs and gradients.

Skipped where timm is not installed. CI has it in a folder of its own: `.ci/run`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from convinspect.modules import ChannelsFirstLinear, PatchLinear, expose_linears, swap_patches, swap_pointwise
from support.real_timm import imported

if find_spec("timm") is None:
    pytest.skip("needs timm", allow_module_level=True)

ENCODER = {"depth": 2, "embed_dim": 24, "num_heads": 2}
STAGES = {"depths": (1, 1, 1, 1), "dims": (8, 8, 12, 16)}
PATCHES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    # model, settings, size of an image, convolutions that cut patches
    "ViT": ("vit_tiny_patch16_224", {**ENCODER, "img_size": 32}, 32, 1),
    # Sizes that are no multiple of the patch are padded by the model itself.
    "ViT of any size": (
        "vit_tiny_patch16_224", {**ENCODER, "img_size": 32, "dynamic_img_size": True, "dynamic_img_pad": True}, 41, 1,
    ),
    "EVA": ("eva02_tiny_patch14_224", {**ENCODER, "img_size": 28}, 28, 1),
    "BEiT": ("beit_base_patch16_224", {**ENCODER, "img_size": 32}, 32, 1),
    "SAM's ViT": (
        "samvit_base_patch16", {**ENCODER, "img_size": 64, "global_attn_indexes": (1,), "window_size": 2}, 64, 1,
    ),
    # Merging patches is a Linear there already.
    "Swin": (
        "swin_tiny_patch4_window7_224", {"img_size": 56, "depths": (1, 1), "embed_dim": 12, "num_heads": (2, 2)}, 56, 1,
    ),
    "Twins": (
        "twins_pcpvt_small",
        {"img_size": 64, "depths": (1,) * 4, "embed_dims": (8,) * 4, "num_heads": (1,) * 4}, 64, 7,
    ),
    # The stem, 4×4, and three downsamplings, 2×2; 70 is no multiple of either.
    "ConvNeXt": ("convnext_atto", STAGES, 70, 4),
    "ConvNeXt V2 with 1×1 convolutions": ("convnextv2_atto", {**STAGES, "conv_mlp": True}, 70, 4),
}  # fmt: skip
NEAR_MISSES: dict[str, tuple[str, dict[str, Any], int]] = {
    # Windows overlap: 7×7 every 4, 3×3 every 2.
    "MetaFormer": ("MetaFormer", {**STAGES, "num_classes": 3}, 64),
    "EfficientFormer": ("efficientformer_l1", {"depths": (1, 1, 1, 2), "embed_dims": (8, 8, 12, 16)}, 224),
}


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    with imported("timm") as module:
        yield module


def built(timm: Any, name: str, settings: dict[str, Any]) -> Any:
    """A small model in float64 with random weights, as large as trained ones."""
    torch.manual_seed(0)
    make = (
        getattr(timm.models, name)
        if name == "MetaFormer"
        else lambda **more: timm.create_model(name, num_classes=3, **more)
    )
    model = make(**settings).double().eval()
    for parameter in model.parameters():
        # timm starts with biases of zero and layer scales of 1e-6, which would hide what a layer does.
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def run(model: Any, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Outputs, and the gradients of the sum of their squares."""
    model.zero_grad()
    y = model(x)
    y.square().sum().backward()
    return y.detach(), {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", PATCHES)
def test_outputs_and_gradients_stay(timm: Any, name: str, turned: bool) -> None:
    """Also where model and images are channels_last in memory."""
    model_name, settings, size, patches = PATCHES[name]
    model = built(timm, model_name, settings)
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    if turned:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    y, gradients = run(model, x)
    state = copy.deepcopy(model.state_dict())

    swaps = swap_patches(model)
    assert len(swaps.swapped) == patches
    assert all("its windows are no patches" in left.reason for left in swaps.left)
    assert sum(isinstance(module, PatchLinear) for module in model.modules()) == patches
    z, found = run(model, x)
    torch.testing.assert_close(z, y, rtol=1e-9, atol=1e-10)
    assert list(found) == list(gradients)
    for key, wanted in gradients.items():
        torch.testing.assert_close(found[key].reshape(wanted.shape), wanted, rtol=1e-7, atol=1e-8)
    assert list(model.state_dict()) == list(state)

    exposed = copy.deepcopy(model)
    assert len(expose_linears(exposed).swapped) == patches
    assert sum(isinstance(module, ChannelsFirstLinear) for module in exposed.modules()) == patches
    torch.testing.assert_close(exposed(x), y, rtol=1e-9, atol=1e-10)

    assert len(swap_patches(model, to="conv").swapped) == patches
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    with torch.no_grad():
        torch.testing.assert_close(model(x), y, rtol=1e-12, atol=1e-13)


def test_depthwise_convolutions_of_convnext_stay(timm: Any) -> None:
    model = built(timm, "convnext_atto", {**STAGES, "conv_mlp": True})
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    y = model(x)
    left = swap_patches(model).left
    assert [skipped.name for skipped in left] == [f"stages.{stage}.blocks.0.conv_dw" for stage in range(4)]
    assert len(swap_pointwise(model).swapped) == 8
    torch.testing.assert_close(model(x), y, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_convolutions_whose_windows_overlap_stay(timm: Any, name: str) -> None:
    model_name, settings, size = NEAR_MISSES[name]
    model = built(timm, model_name, settings)
    modules = dict(model.named_modules())
    swaps = swap_patches(model)
    assert swaps.swapped == ()
    assert len(swaps.left) >= 3
    assert all("its windows are no patches" in left.reason for left in swaps.left)
    assert all(modules[key] is module for key, module in model.named_modules())
    with torch.no_grad():
        x = torch.randn(1, 3, size, size, dtype=torch.float64)
        y = model(x)
        swap_pointwise(model)
        torch.testing.assert_close(model(x), y, rtol=1e-9, atol=1e-10)
