"""Files of diffusers: a UNet has 1×1 convolutions or Linear as `use_linear_projection` says, and loads either's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from support.in_process import run
from support.makers import said, true
from support.verifying import report_of

diffusers = pytest.importorskip("diffusers", reason="needs diffusers")

FILE = "diffusion_pytorch_model.safetensors"


def unet(linear: bool) -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=12, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4, use_linear_projection=linear,
    ).eval()  # fmt: skip


def autoencoder() -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=3, layers_per_block=1,
    ).eval()  # fmt: skip


@pytest.mark.parametrize("made", [unet(False), unet(True), autoencoder()], ids=["conv", "linear", "autoencoder"])
def test_every_layer_is_what_diffusers_made(tmp_path: Path, made: Any) -> None:
    made.save_pretrained(tmp_path)
    assert said(tmp_path) == true(made)


@pytest.mark.parametrize("linear", [False, True])
def test_the_other_unet_loads_what_was_converted_and_gives_the_same(tmp_path: Path, linear: bool) -> None:
    first, second = unet(linear), unet(not linear)
    first.save_pretrained(tmp_path / "a")
    second.save_pretrained(tmp_path / "b")
    done = run("convert", tmp_path / "a" / FILE, "--like", tmp_path / "b" / FILE, "-o", tmp_path / FILE)
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path / "a" / FILE, tmp_path / FILE).equal
    shutil.copy(tmp_path / FILE, tmp_path / "b" / FILE)
    loaded = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "b").eval()
    inputs = torch.randn(1, 4, 8, 8), 3, torch.randn(1, 5, 12)
    with torch.no_grad():
        assert torch.allclose(first(*inputs).sample, loaded(*inputs).sample, atol=1e-5)
    back = tmp_path / "back.safetensors"
    assert run("convert", tmp_path / FILE, "--like", tmp_path / "a" / FILE, "-o", back).returncode == 0
    assert back.read_bytes() == (tmp_path / "a" / FILE).read_bytes()
