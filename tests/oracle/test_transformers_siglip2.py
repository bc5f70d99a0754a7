"""transformers' Siglip2 multiplies patches whose channels are last, Siglip convolves: one becomes the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convinspect import convert, verify

transformers = pytest.importorskip("transformers")
cutting = pytest.importorskip("transformers.models.siglip2.image_processing_pil_siglip2")

ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_siglip2_and_siglip_give_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    linear = transformers.Siglip2VisionModel(
        transformers.Siglip2VisionConfig(num_patches=16, patch_size=8, **ENCODER)
    ).eval()
    conv = transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(image_size=32, patch_size=8, **ENCODER)
    ).eval()
    linear.save_pretrained(tmp_path / "linear")
    job = convert(tmp_path / "linear", tmp_path / "conv", to="conv2d", patch=(8, 8), patch_order="hwc", in_channels=3)
    (conversion,) = job.plan.conversions
    assert conversion.layer.name.endswith("embeddings.patch_embedding")
    state = load_file(tmp_path / "conv" / "model.safetensors")
    conv.load_state_dict(state, strict=True)

    image = torch.randn(3, 32, 32)
    patches = torch.from_numpy(cutting.convert_image_to_patches(image.numpy(), 8))
    with torch.no_grad():
        wanted = linear(
            pixel_values=patches[None],
            pixel_attention_mask=torch.ones(1, 16, dtype=torch.long),
            spatial_shapes=torch.tensor([[4, 4]]),
        ).last_hidden_state
        torch.testing.assert_close(conv(pixel_values=image[None]).last_hidden_state, wanted, rtol=1e-4, atol=1e-5)

    assert verify(tmp_path / "linear", tmp_path / "conv").equal
    convert(tmp_path / "conv", tmp_path / "again", to="linear", patches=True, patch_order="hwc")
    assert verify(tmp_path / "conv", tmp_path / "again").equal
    for one in (tmp_path / "linear").iterdir():
        assert (tmp_path / "again" / one.name).read_bytes() == one.read_bytes()


def test_pytorchs_order_is_another_model(tmp_path: Path) -> None:
    linear = transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(num_patches=16, patch_size=8, **ENCODER))
    linear.save_pretrained(tmp_path / "linear")
    job = convert(tmp_path / "linear", tmp_path / "conv", to="conv2d", patch=(8, 8))
    assert any("as Siglip2 has, add patch_order='hwc'" in note for note in job.notes)
