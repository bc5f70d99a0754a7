"""Checkpoints that transformers writes of vision models go to Linear and back, and load in both forms.

Their patch embeddings are known by their names: no state_dict records a stride.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from convinspect import convert, verify
from convinspect.modules import swap_patches

transformers = pytest.importorskip("transformers")

TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
}  # fmt: skip
VISION = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def qwen2_vl() -> tuple[Any, dict[str, torch.Tensor]]:
    """The whole model, with an image of 4 × 4 patches before the text."""
    config = transformers.Qwen2VLConfig(
        text_config=TEXT, vision_config=VISION, image_token_id=3, vision_start_token_id=1, vision_end_token_id=2,
        video_token_id=4,
    )  # fmt: skip
    config._attn_implementation = "eager"
    ids = torch.tensor([[1, 3, 3, 3, 3, 2, 9, 10]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == 3).int(),
        "pixel_values": torch.randn(16, 1176),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    }
    return transformers.Qwen2VLForConditionalGeneration(config), inputs


def vit() -> tuple[Any, dict[str, torch.Tensor]]:
    config = transformers.ViTConfig(image_size=32, patch_size=8, **ENCODER)
    return transformers.ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 32, 32)}


def siglip() -> tuple[Any, dict[str, torch.Tensor]]:
    config = transformers.SiglipVisionConfig(image_size=30, patch_size=8, **ENCODER)
    return transformers.SiglipVisionModel(config), {"pixel_values": torch.randn(2, 3, 30, 30)}


def clip() -> tuple[Any, dict[str, torch.Tensor]]:
    config = transformers.CLIPVisionConfig(image_size=32, patch_size=8, **ENCODER)
    return transformers.CLIPVisionModel(config), {"pixel_values": torch.randn(2, 3, 32, 32)}


MODELS: dict[str, tuple[Any, Any, str]] = {"qwen2_vl": (qwen2_vl, "conv3d", "2x14x14"), "vit": (vit, "conv2d", "8x8"),
          "siglip": (siglip, "conv2d", "8x8"), "clip": (clip, "conv2d", "8x8")}  # fmt: skip


def with_patch_linears(model_class: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """transformers' class, which now puts a `PatchLinear` where its patches are embedded; its own loader loads it."""
    old = model_class.__init__

    def init(self: Any, config: Any) -> None:
        old(self, config)
        assert len(swap_patches(self).swapped) == 1

    monkeypatch.setattr(model_class, "__init__", init)
    return model_class


def first_output(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        y: torch.Tensor = model(**inputs)[0]
    return y


@pytest.mark.parametrize("name", MODELS)
def test_folders_go_there_and_back_and_load_in_both_forms(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, to, patch = MODELS[name]
    torch.manual_seed(0)
    model, inputs = make()
    model = model.eval()
    conv, linear, back = (tmp_path / each for each in ("conv", "linear", "back"))
    model.save_pretrained(conv)
    wanted = first_output(model, inputs)

    job = convert(conv, linear, to="linear", patches=True)
    assert len(job.plan.conversions) == 1
    report = verify(conv, linear)
    assert report.equal
    assert report.strength == "layer"
    with monkeypatch.context() as patched:
        swapped, info = with_patch_linears(type(model), patched).from_pretrained(linear, output_loading_info=True)
    assert not any(info.values()), info
    torch.testing.assert_close(first_output(swapped.eval(), inputs), wanted)

    convert(linear, back, to=to, patch=patch, in_channels=3)
    assert (back / "model.safetensors").read_bytes() == (conv / "model.safetensors").read_bytes()
    loaded = type(model).from_pretrained(back).eval()
    torch.testing.assert_close(first_output(loaded, inputs), wanted)
