"""How many parameters packed weights count for, by the shapes that their libraries write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.layers.find import find_layers
from convinspect.records import Doubt
from support.in_process import run

State = dict[str, torch.Tensor]


def listing(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("shapes", path, "--format", "json").stdout)
    return found


def parameters(state: State, path: Path) -> tuple[int, int | None]:
    """The total, and how many layers were counted by their stored elements; the same of both formats."""
    save_file(state, path.with_suffix(".safetensors"))
    torch.save(state, path.with_suffix(".pt"))
    totals = [listing(path.with_suffix(suffix))["totals"] for suffix in (".safetensors", ".pt")]
    assert totals[0]["parameters"] == totals[1]["parameters"]
    return totals[0]["parameters"], totals[0].get("packed_layers_counted_as_stored")


def ints(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(tmp_path: Path, bits: int) -> None:
    wide_in, wide_out, groups = 256, 96, 2
    state = {
        "q.qweight": ints(wide_in * bits // 32, wide_out), "q.qzeros": ints(groups, wide_out * bits // 32),
        "q.scales": torch.zeros(groups, wide_out, dtype=torch.float16), "q.g_idx": ints(wide_in),
        "q.bias": torch.zeros(wide_out), "norm.weight": torch.zeros(wide_in),
    }  # fmt: skip
    assert parameters(state, tmp_path / "m") == (wide_in * wide_out + wide_out + wide_in, None)


def test_awq(tmp_path: Path) -> None:
    state = {"q.qweight": ints(256, 12), "q.qzeros": ints(2, 12), "q.scales": torch.zeros(2, 96, dtype=torch.float16)}
    assert parameters(state, tmp_path / "m") == (256 * 96, None)


def test_compressed_tensors(tmp_path: Path) -> None:
    state = {
        "q.weight_packed": ints(96, 32),
        "q.weight_scale": torch.zeros(96, 2),
        "q.weight_shape": torch.tensor([96, 256]),
    }
    assert parameters(state, tmp_path / "m") == (96 * 256, None)
    nvfp4 = {
        "q.weight_packed": ints(96, 128, dtype=torch.uint8),
        "q.weight_scale": torch.zeros(96, 16).to(torch.float8_e4m3fn),
    }
    assert parameters(nvfp4, tmp_path / "n") == (96 * 256, None)


def test_mxfp4(tmp_path: Path) -> None:
    state = {
        "experts.up_proj_blocks": ints(4, 96, 8, 16, dtype=torch.uint8),
        "experts.up_proj_scales": ints(4, 96, 8, dtype=torch.uint8),
        "experts.up_proj_bias": torch.zeros(4, 96),
    }  # fmt: skip
    assert parameters(state, tmp_path / "m") == (4 * 96 * 256 + 4 * 96, None)


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    state = {"q.qweight": ints(32, 96), "q.scales": torch.zeros(2, 96)}
    assert parameters(state, tmp_path / "m")[1] == 1
    assert "of 1 quantized layer the stored elements are counted" in run("shapes", tmp_path / "m.pt").stdout


def test_mlx_counts_by_the_shapes_or_the_configuration(tmp_path: Path) -> None:
    def packed(bits: int, group: int) -> State:
        words = ints(24, 256 * bits // 32, dtype=torch.uint32)
        return {"q.weight": words, "q.scales": torch.zeros(24, 256 // group), "q.biases": torch.zeros(24, 256 // group)}

    assert parameters(packed(5, 64), tmp_path / "five") == (24 * 256, None)
    assert parameters(packed(4, 64), tmp_path / "four")[1] == 1
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"quantization": {"group_size": 64, "bits": 4}}')
    assert parameters(packed(4, 64), folder / "four") == (24 * 256, None)


def test_pairs_of_float4_have_one_shape_in_both_formats(tmp_path: Path) -> None:
    state = {"q.weight": ints(8, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}
    assert parameters(state, tmp_path / "m") == (64, None)
    read = [open_checkpoint(tmp_path / f"m{suffix}")["q.weight"] for suffix in (".safetensors", ".pt")]
    assert [(tensor.shape, tensor.dtype) for tensor in read] == [((8, 4), "float4_e2m1fn_x2")] * 2
    assert run("diff", tmp_path / "m.pt", tmp_path / "m.safetensors").returncode == 0
    convert(tmp_path / "m.safetensors", tmp_path / "n.pt", Options())
    convert(tmp_path / "n.pt", tmp_path / "n.safetensors", Options())
    loaded = load_file(tmp_path / "n.safetensors")["q.weight"]
    assert (loaded.dtype, loaded.shape) == (torch.float4_e2m1fn_x2, (8, 4))


def test_a_weight_beside_its_frozen_integers_is_left(tmp_path: Path) -> None:
    state = {"_frozen_param0": ints(4, 6, 1, dtype=torch.int8), "_scale_0": torch.zeros(4),
             "0.weight": torch.zeros(4, 6, 1), "0.bias": torch.zeros(4), "1.weight": torch.zeros(5, 4, 1)}  # fmt: skip
    torch.save(state, tmp_path / "m.pt")
    layers = {layer.name: layer for layer in find_layers(open_checkpoint(tmp_path / "m.pt"))}
    assert Doubt.SUPERSEDED in layers["0"].doubts
    assert not layers["1"].doubts
    job = convert(tmp_path / "m.pt", None, Options(to="linear", dry_run=True))
    assert [conversion.layer.name for conversion in job.plan.conversions] == ["1"]
    assert "_frozen_param" in job.plan.refusals[0].reason


# ------------------------------------------------------------------------------------ with the libraries themselves
