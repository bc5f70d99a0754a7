"""Convolutions whose stride is their kernel size: where it is recorded, and by the name in a state_dict."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from convinspect.records import Layer
from support.program import assert_one_line, command
from support.sampling import times

CONVS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
TRANSPOSED: list[Any] = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]


def layers_of(path: Path) -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(open_checkpoint(path))}


def cuts_patches(conv: Any) -> bool:
    """By PyTorch alone: no number of the input, nor of the output, is met by two windows, and none is missed within."""
    kernel = torch.Size(conv.kernel_size)
    if kernel.numel() == 1 or conv.groups != 1:
        return False
    sizes = [3 * size for size in kernel]
    x = torch.ones(1, conv.in_channels, *sizes, dtype=torch.float64, requires_grad=True)
    probe = type(conv)(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, padding=conv.padding,
        dilation=conv.dilation, bias=False, padding_mode=conv.padding_mode,
        **({"output_padding": conv.output_padding} if conv.transposed else {}),
    ).double()  # fmt: skip
    nn.init.ones_(probe.weight)
    y = probe(x)
    if conv.transposed:
        return bool((y == conv.in_channels).all()) and y.shape[2:] == torch.Size(
            size * step for size, step in zip(sizes, kernel, strict=True)
        )
    (gradient,) = torch.autograd.grad(y.sum(), x)
    return bool((gradient == conv.out_channels).all()) and y.shape[2:] == torch.Size([3] * len(kernel))


@settings(deadline=None, max_examples=times(40, 100))
@given(st.data())
def test_a_recorded_stride_tells(data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 3))
    kernel = data.draw(st.tuples(*[st.integers(1, 3)] * dims))
    few = st.tuples(*[st.integers(1, 3)] * dims)
    stride = data.draw(st.one_of(st.just(kernel), few))
    padding = data.draw(st.sampled_from([0, 0, 0, 1]))
    transposed = data.draw(st.booleans())
    options: dict[str, Any] = {"dilation": data.draw(st.sampled_from([1, 1, 2])), "padding": padding}
    if transposed:
        gap = data.draw(st.sampled_from([0, 0, 1]))
        options["output_padding"] = gap if gap < min((*stride, 99)) else 0
    elif padding == 0 and data.draw(st.booleans()):
        options["padding"] = "valid"
    groups = data.draw(st.sampled_from([1, 1, 2]))
    conv = (TRANSPOSED if transposed else CONVS)[dims - 1](4, 6, kernel, stride, groups=groups, **options)
    with TemporaryDirectory() as folder:
        torch.save(nn.Sequential(conv), Path(folder) / "m.pt")
        assert layers_of(Path(folder) / "m.pt")["0"].patch is cuts_patches(conv)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 4, 4)
        self.overlapping = nn.Conv2d(8, 8, 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.overlapping(self.proj(x))
        return y


class AddsPositions(nn.Module):
    """Transposed convolutions, the first two of which give positions that none of their input is behind."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.ConvTranspose2d(8, 8, 4, 4, output_padding=1)
        self.pointwise = nn.ConvTranspose2d(8, 8, 1, dilation=2, output_padding=1)
        self.plain_patch = nn.ConvTranspose2d(8, 8, 4, 4)
        self.plain_pointwise = nn.ConvTranspose2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.plain_pointwise(self.plain_patch(self.pointwise(self.patch(x))))
        return y


def test_output_padding_is_read_wherever_it_is_recorded(tmp_path: Path) -> None:
    model, x = AddsPositions().eval(), torch.zeros(1, 8, 2, 2)
    traced = torch.jit.trace(model, x)  # type: ignore[no-untyped-call]
    torch.save(model, tmp_path / "whole.pt")
    torch.jit.script(model).save(str(tmp_path / "scripted.pt"))  # type: ignore[no-untyped-call]
    traced.save(str(tmp_path / "traced.pt"))
    torch.jit.freeze(traced).save(str(tmp_path / "frozen.pt"))
    exported = torch.export.export(model, (x,))
    torch.export.save(exported, tmp_path / "exported.pt2")
    torch.export.save(exported.run_decompositions(), tmp_path / "decomposed.pt2")
    for path in tmp_path.iterdir():
        # A frozen model has no names, but its layers in order.
        read = [(layer.patch, layer.pointwise) for layer in find_layers(open_checkpoint(path)) if layer.kernel_size]
        assert read == [(False, False), (False, False), (True, False), (False, True)], path.name


def test_scripted_and_exported_models_record_it(tmp_path: Path) -> None:
    model = Named().eval()
    torch.jit.script(model).save(str(tmp_path / "s.pt"))  # type: ignore[no-untyped-call]
    torch.export.save(torch.export.export(model, (torch.zeros(1, 3, 32, 32),)), tmp_path / "e.pt2")
    for name in ("s.pt", "e.pt2"):
        layers = layers_of(tmp_path / name)
        assert layers["proj"].patch, name
        assert not layers["overlapping"].patch, name


CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.patch_embed = nn.Conv2d(3, 8, 4, 2)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
"""


def test_the_models_code_tells_of_a_state_dict(tmp_path: Path) -> None:
    (tmp_path / "net_of_patches.py").write_text(CODE)
    names: dict[str, Any] = {}
    exec(CODE, names)
    state = names["Net"]().state_dict() | {"other.weight": torch.zeros(8, 3, 2, 2), "other.bias": torch.zeros(8)}
    torch.save(state, tmp_path / "m.pt")
    words = ("shapes", "m.pt", "--format", "json")
    listed = json.loads(command(tmp_path, *words, "--model", "net_of_patches:Net").stdout)
    marks = {layer["name"]: (layer["patch"], layer["evidence"]) for layer in listed["layers"]}
    assert marks["stem"] == marks["up"] == (True, "module")
    assert marks["patch_embed"] == (False, "module"), "its name says that it is one"
    assert marks["other"] == (False, "shape"), "the code has no such layer"
    plain = json.loads(command(tmp_path, *words).stdout)
    assert {layer["name"] for layer in plain["layers"] if layer["patch"]} == {"patch_embed"}
    assert plain["totals"] == listed["totals"] | {"patch": 1}
    for model in ("net_of_patches", "net_of_patches:Nothing", "torch.nn:ReLU"):
        assert_one_line(command(tmp_path, *words, "--model", model), "--model")


SAYS = (
    "patch_embed.proj", "visual.patch_embed.proj", "vision_model.embeddings.patch_embedding", "conv_proj",
    "vit.embeddings.patch_embeddings.projection", "patch_embedding", "patch_embed2.proj", "visual.conv1",
    "pos_embed.proj", "x_embedder.proj", "encoder.patchify", "vision_tower.patch_conv",
)  # fmt: skip
SAYS_NOT = ("proj", "conv1", "stem.0", "downsample.1", "patch_embed.norm.conv", "dispatch", "patched.conv", "pos_embed")


@pytest.mark.parametrize("name", [*SAYS, *SAYS_NOT])
@pytest.mark.parametrize("kernel", [(16, 16), (2, 14, 14), (1, 2, 2)])
def test_the_name_tells_in_a_state_dict(tmp_path: Path, name: str, kernel: tuple[int, ...]) -> None:
    torch.save({f"{name}.weight": torch.zeros(8, 3, *kernel), f"{name}.bias": torch.zeros(8)}, tmp_path / "m.pt")
    layer = layers_of(tmp_path / "m.pt")[name]
    assert layer.patch is (name in SAYS)
    assert "assumed" in layer.tags
    assert any("by the name, stride equal" in note for note in layer.notes) is layer.patch


@pytest.mark.parametrize("shape", [(8, 3, 7, 7), (8, 3, 3, 3), (8, 3, 1, 1), (8, 1, 16, 16), (8, 3, 4, 3)])
def test_the_shape_must_say_so_too(tmp_path: Path, shape: tuple[int, ...]) -> None:
    torch.save({"patch_embed.proj.weight": torch.zeros(shape)}, tmp_path / "m.pt")
    assert not layers_of(tmp_path / "m.pt")["patch_embed.proj"].patch


@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "output_padding", "groups"])
@pytest.mark.parametrize("value", ["training", (1, 1), (), 1.5, None, (1, "a"), True, (True,), ("same",), b"same"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_settings_that_pytorch_would_not_take_are_not_known(
    tmp_path: Path, name: str, value: object, kernel: int
) -> None:
    """A file may say anything of a layer."""
    for conv in (nn.Conv1d(4, 6, kernel, kernel), nn.ConvTranspose1d(4, 6, kernel, kernel)):
        vars(conv)[name] = value
        torch.save(nn.Sequential(conv), tmp_path / "m.pt")
        found = layers_of(tmp_path / "m.pt")["0"]
        assert name == "output_padding" or getattr(found, name) is None
