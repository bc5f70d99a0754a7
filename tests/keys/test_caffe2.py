"""Files of Detectron's model zoo: layers by Caffe2's names, their axes as PyTorch's functions take them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import convinspect
from convinspect.keys import caffe2
from convinspect.layers.find import find_layers
from support.in_process import call_main


def blobs() -> dict[str, Any]:
    draw = np.random.RandomState(0).randn
    shapes = {
        "conv1_w": (8, 3, 7, 7), "conv1_b": (8,), "res_conv1_bn_s": (8,), "res_conv1_bn_b": (8,),
        "res2_0_branch2a_w": (4, 8, 1, 1), "res2_0_branch2a_bn_s": (4,), "res2_0_branch2a_bn_b": (4,),
        "res2_0_branch2a_bn_rm": (4,), "res2_0_branch2a_bn_riv": (4,), "head_conv1_gn_s": (8,), "head_conv1_gn_b": (8,),
        "fc1000_w": (10, 16), "fc1000_b": (10,), "conv5_mask_w": (16, 6, 2, 2), "conv5_mask_b": (6,),
        "conv1_w_momentum": (8, 3, 7, 7),
    }  # fmt: skip
    return {name: draw(*shape).astype("f4") for name, shape in shapes.items()}


@pytest.fixture(params=["blobs", "model", ""])
def zoo(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """As Detectron, Detectron2 and its ImageNet models lay them down."""
    path = tmp_path / "R-50.pkl"
    whole = {request.param: blobs(), "__author__": "Caffe2"} if request.param else blobs()
    path.write_bytes(pickle.dumps(whole, 2))
    return path


def test_layers_by_their_names(zoo: Path) -> None:
    checkpoint = convinspect.open(zoo)
    layers = {layer.name: layer for layer in find_layers(checkpoint)}
    assert {name: layer.kind for name, layer in layers.items()} == {
        "conv1": "Conv2d", "res_conv1_bn": "Norm", "res2_0_branch2a": "Conv2d", "res2_0_branch2a_bn": "BatchNorm",
        "head_conv1_gn": "Norm", "fc1000": "Linear", "conv5_mask": "ConvTranspose2d", "conv1_w_momentum": "Parameter",
    }  # fmt: skip
    data = {name: torch.from_numpy(one) for name, one in blobs().items()}
    image = torch.randn(1, 3, 9, 9)
    made = functional.conv2d(image, data["conv1_w"], data["conv1_b"])
    conv1 = layers["conv1"]
    assert (conv1.weight.shape[1], conv1.out_width, conv1.kernel_size) == (image.shape[1], made.shape[1], (7, 7))
    made = functional.linear(torch.randn(2, 16), data["fc1000_w"], data["fc1000_b"])
    assert (layers["fc1000"].in_width, layers["fc1000"].out_width) == (16, made.shape[1])
    made = functional.conv_transpose2d(torch.randn(1, 16, 3, 3), data["conv5_mask_w"], data["conv5_mask_b"])
    assert (layers["conv5_mask"].weight.shape[0], layers["conv5_mask"].out_width) == (16, made.shape[1])
    assert layers["res2_0_branch2a"].pointwise
    said = call_main("shapes", zoo)
    assert caffe2.NAMED_SO in said.out
    assert call_main("check", zoo).code == call_main("shapes", zoo).code == 0


def test_the_converted_layer_computes_the_same(zoo: Path, tmp_path: Path) -> None:
    target = tmp_path / "linear.pt"
    assert call_main("convert", zoo, "--to", "linear", "--from", "conv2d", "-o", target).code == 0
    before, after = blobs(), torch.load(target, weights_only=True)
    assert list(after) == list(before)
    pixels = torch.randn(2, 8, 5, 5)
    expected = functional.conv2d(pixels, torch.from_numpy(before["res2_0_branch2a_w"]))
    found = functional.linear(pixels.permute(0, 2, 3, 1), after["res2_0_branch2a_w"]).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)
    for name, numbers in before.items():
        assert np.array_equal(after[name].numpy().reshape(numbers.shape), numbers)


@pytest.mark.parametrize(
    "names", [("conv.conv1_w", "conv.conv1_b"), ("W_w", "W_b"), ("weight", "bias"), ("conv1_weight",), ()]
)
def test_other_names_stay_as_they_are(names: tuple[str, ...]) -> None:
    assert not caffe2.is_so_named(names)
