"""Frozen TorchScript: weights without names, found by the code that uses them. The oracle is the module before."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.errors import NotACheckpoint
from convinspect.layers.find import find_layers
from support.hostile import zip_of

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(6, 4, 1), nn.ReLU(), nn.Conv1d(4, 8, 1, bias=False), nn.ReLU())
        self.grouped = nn.Conv1d(8, 8, 3, groups=2, stride=2, padding=1)
        self.plane = nn.Conv2d(8, 6, 1)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.first(x))
        found: torch.Tensor = self.head(self.up(self.plane(x.unsqueeze(-1))).mean(dim=[2, 3]))
        return found


def frozen(module: nn.Module, path: Path, example: torch.Tensor | None = None) -> Path:
    module = module.eval()
    made = torch.jit.script(module) if example is None else torch.jit.trace(module, example)  # type: ignore[no-untyped-call]
    torch.jit.freeze(made).save(str(path))
    return path


@pytest.mark.parametrize("example", [None, torch.zeros(2, 6, 8)], ids=["scripted", "traced"])
def test_layers_are_those_of_the_module_before(tmp_path: Path, example: torch.Tensor | None) -> None:
    net = Net()
    checkpoint = open_checkpoint(frozen(net, tmp_path / "frozen.pt", example))
    wanted = [one for one in net.modules() if hasattr(one, "weight")]
    layers = find_layers(checkpoint)
    assert len(layers) == len(wanted)
    for layer, module in zip(layers, wanted, strict=True):
        assert (layer.kind, layer.evidence) == (type(module).__name__, "module")
        state = module.state_dict()
        assert list(layer.tensors) == list(state)
        for leaf, tensor in layer.tensors.items():
            assert np.array_equal(checkpoint.read(tensor.key), state[leaf].numpy())
        for name in ("stride", "padding", "dilation", "groups"):
            assert getattr(layer, name) == getattr(module, name, None)
    assert any("frozen" in note for note in checkpoint.notes)


class Odd(nn.Module):
    """A weight in two calls that differ, a bias of two layers, a matrix and a vector of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Parameter(torch.randn(4, 4, 1))
        self.bias = nn.Parameter(torch.randn(5))
        self.one, self.other = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5, 4))
        self.matrix, self.vector = nn.Parameter(torch.randn(5, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f = torch.nn.functional
        x = f.conv1d(x, self.twice) + f.conv1d(x, self.twice, padding=2)[..., :8]
        x = x.transpose(1, 2)
        x = f.linear(x, self.one, self.bias) + f.linear(x, self.other, self.bias)
        return x @ self.matrix * self.vector


def test_what_the_code_leaves_open_stays_open(tmp_path: Path) -> None:
    odd = Odd()
    layers = find_layers(open_checkpoint(frozen(odd, tmp_path / "odd.pt", torch.zeros(2, 4, 8))))
    by_shape = {tuple(layer.weight.shape): layer for layer in layers}
    # Two settings were seen, so none is told.
    assert (by_shape[4, 4, 1].evidence, by_shape[4, 4, 1].padding) == ("shape", None)
    assert [layer.bias for layer in layers if layer.weight.shape == (5, 4)] == [None, None]
    assert by_shape[5, 5].evidence == "ambiguous"
    assert sum(layer.kind == "Parameter" for layer in layers) == 2


def test_no_tensors_at_all(tmp_path: Path) -> None:
    path = frozen(nn.Sequential(nn.ReLU()), tmp_path / "empty.pt")
    with pytest.raises(NotACheckpoint, match="no tensors"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "text",
    [b"torch.conv1d(x, CONSTANTS.c99, None)", b"torch.conv1d(x, CONSTANTS.c0, CONSTANTS.c0)", b"torch.linear(x",
     b"torch.conv1d(x, CONSTANTS.c0, None, [9e99, -1], 'a(', {1: 2})", b")]),((,", b"torch.linear(CONSTANTS.c0)"],
)  # fmt: skip
def test_odd_code_is_no_reason_to_fail(tmp_path: Path, text: bytes) -> None:
    path = frozen(nn.Conv1d(3, 4, 1), tmp_path / "sound.pt")
    with zipfile.ZipFile(path) as archive:
        records = {one.partition("/")[2]: archive.read(one) for one in archive.namelist()}
    code = next(name for name in records if name.endswith(".py"))
    changed = zip_of(tmp_path / "odd.pt", {**records, code: text})
    assert [layer.weight.shape for layer in find_layers(open_checkpoint(changed))][:1] == [(4, 3, 1)]
