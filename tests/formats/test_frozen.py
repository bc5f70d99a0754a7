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
from convinspect.kinds import TRANSFORMERS_CONV1D
from convinspect.layers.find import find_layers
from convinspect.records import Doubt, Layer
from support.hostile import zip_of
from support.in_process import run

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
    # Two paddings were seen, so none is told.
    twice = by_shape[4, 4, 1]
    assert (twice.evidence, twice.stride, twice.padding) == ("module", (1,), None)
    assert Doubt.CALLS_DIFFER in twice.doubts
    assert [layer.bias for layer in layers if layer.weight.shape == (5, 4)] == [None, None]
    assert by_shape[5, 5].kind == TRANSFORMERS_CONV1D
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


# ---------------------------------------------------------------------------------- weights that are stored turned over


class Products(nn.Module):
    """A matrix in each operator that multiplies with it, one turned over as PyTorch's Linear does."""

    def __init__(self) -> None:
        super().__init__()
        self.matmul, self.mm = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(4, 6))
        self.addmm, self.turned = nn.Parameter(torch.randn(4, 7)), nn.Parameter(torch.randn(8, 4))
        self.batched, self.left = nn.Parameter(torch.randn(2, 4, 3)), nn.Parameter(torch.randn(9, 2))
        self.bias = nn.Parameter(torch.randn(7))
        self.einsum = nn.Parameter(torch.randn(10, 4))
        self.embedding = nn.Embedding(11, 4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = x + self.embedding(x.long()[:, 0] % 11)
        return [
            torch.matmul(x, self.matmul) + 1,
            torch.mm(x, self.mm),
            torch.addmm(self.bias, x, self.addmm),
            torch.matmul(x, self.turned.t()),
            torch.bmm(x.expand(2, 2, 4), self.batched),
            torch.matmul(self.left, x),
            torch.einsum("bi,oi->bo", [x, self.einsum]),
        ]


def read_back(path: Path) -> dict[tuple[int, ...], Layer]:
    return {tuple(layer.weight.shape): layer for layer in find_layers(open_checkpoint(path))}


@pytest.mark.parametrize("example", [None, torch.zeros(2, 4)], ids=["scripted", "traced"])
def test_products_tell_how_a_matrix_is_stored(tmp_path: Path, example: torch.Tensor | None) -> None:
    layers = read_back(frozen(Products(), tmp_path / "products.pt", example))
    turned: list[tuple[int, ...]] = [(4, 5), (4, 6), (4, 7), (4, 8)]
    for shape in turned:
        layer = layers[shape]
        assert (layer.kind, layer.evidence) == (TRANSFORMERS_CONV1D, "module"), shape
        assert (layer.in_width, layer.out_width) == shape
        assert "(in, out)" in " ".join(layer.notes)
    assert layers[4, 7].bias is not None
    assert layers[11, 4].kind == "Embedding"
    others: list[tuple[int, ...]] = [(2, 4, 3), (9, 2), (10, 4)]
    for shape in others:
        assert (layers[shape].kind, layers[shape].pointwise) == ("Parameter", False), layers[shape]


@pytest.mark.parametrize("traced", [False, True])
def test_a_linear_that_is_stored_turned_over_converts_rightly(tmp_path: Path, traced: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6)).eval()
    made = torch.jit.trace(net, torch.zeros(2, 4)) if traced else torch.jit.script(net)  # type: ignore[no-untyped-call]
    torch.jit.optimize_for_inference(made).save(str(tmp_path / "fast.pt"))
    layers = [layer for layer in find_layers(open_checkpoint(tmp_path / "fast.pt")) if layer.kind != "Parameter"]
    assert [(layer.kind, layer.in_width, layer.out_width) for layer in layers] == [
        (TRANSFORMERS_CONV1D, 4, 6), (TRANSFORMERS_CONV1D, 6, 6),
    ]  # fmt: skip
    assert all(layer.bias is not None for layer in layers)
    left = run(
        "convert", tmp_path / "fast.pt", "-o", tmp_path / "a.pt", "--to", "conv1d", "--state-dict", "--layer", "c0"
    )
    assert left.returncode != 0 or torch.load(tmp_path / "a.pt")["c0.weight"].shape == (4, 6)
    for to, new in {"conv1d": nn.Conv1d(4, 6, 1), "linear": nn.Linear(4, 6)}.items():
        words = ["-o", tmp_path / f"{to}.pt", "--to", to, "--from", "transformers", "--state-dict", "--layer", "c0"]
        done = run("convert", tmp_path / "fast.pt", *words)
        assert done.returncode == 0, done.stderr
        state = torch.load(tmp_path / f"{to}.pt")
        new.load_state_dict({key.removeprefix("c0."): value for key, value in state.items() if key.startswith("c0.")})
        x = torch.randn(3, 4)
        ours = new(x.unsqueeze(-1)).squeeze(-1) if to == "conv1d" else new(x)
        torch.testing.assert_close(ours, net[0](x))


def test_constants_that_torch_did_not_write_are_missing(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Flatten(2), nn.Linear(25, 3)).eval()
    torch.jit.optimize_for_inference(torch.jit.script(net)).save(str(tmp_path / "fast.pt"))
    with pytest.raises(RuntimeError):
        torch.jit.load(str(tmp_path / "fast.pt"))  # type: ignore[no-untyped-call]
    checkpoint = open_checkpoint(tmp_path / "fast.pt")
    assert "2 MKLDNN constants" in checkpoint.problems[0]
    shown = run("shapes", tmp_path / "fast.pt")
    assert shown.returncode != 0
    assert "MKLDNN" in shown.stdout + shown.stderr
    checked = run("check", tmp_path / "fast.pt")
    assert checked.returncode == 1
    assert "MKLDNN" in checked.stdout + checked.stderr


def test_nothing_is_left_of_a_model_of_convolutions(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(4, 5, 1), nn.ReLU()).eval()
    torch.jit.optimize_for_inference(torch.jit.script(net)).save(str(tmp_path / "fast.pt"))
    done = run("shapes", tmp_path / "fast.pt")
    assert done.returncode == 2
    assert "MKLDNN" in done.stderr


# --------------------------------------------------------------------------------------------- pads before convolutions


@pytest.mark.parametrize("example", [None, torch.zeros(1, 4, 8)], ids=["scripted", "traced"])
@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate", "zeros"])
def test_a_pad_before_a_frozen_convolution_is_said(tmp_path: Path, mode: str, example: torch.Tensor | None) -> None:
    conv = nn.Conv1d(4, 6, 1, padding=1, padding_mode=mode)  # type: ignore[arg-type]
    (layer,) = find_layers(open_checkpoint(frozen(nn.Sequential(conv, nn.ReLU()), tmp_path / "pad.pt", example)))
    if mode == "zeros":
        assert layer.padding == (1,)
        return
    assert layer.padding is None
    assert layer.doubts == (Doubt.MAY_BE_PADDED,)
    words = ["convert", tmp_path / "pad.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--state-dict"]
    done = run(*words)
    assert "c0" in done.stdout + done.stderr
    if done.returncode == 0:
        assert torch.load(tmp_path / "b.pt")["c0.weight"].shape == (6, 4, 1)


def test_a_pad_of_nothing_is_no_pad(tmp_path: Path) -> None:
    conv = nn.Conv1d(4, 6, 1, padding_mode="reflect")
    (layer,) = find_layers(open_checkpoint(frozen(nn.Sequential(conv, nn.ReLU()), tmp_path / "pad.pt")))
    assert (layer.padding, layer.doubts) == ((0,), ())


def test_a_named_layer_that_may_be_padded_is_converted_with_a_warning(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv1d(4, 6, 1, padding=1, padding_mode="reflect"))
    path = frozen(net, tmp_path / "frozen.pt", torch.zeros(2, 4, 8))
    options = ("--to", "linear", "--layer", "c0", "--state-dict")
    result = run("convert", path, "-o", tmp_path / "out.pt", *options)
    assert result.returncode == 0, result.stderr
    assert Doubt.MAY_BE_PADDED.value in result.stdout


def test_a_linear_that_is_stored_turned_over_is_not_called_by_a_class_of_transformers(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6, bias=False)).eval()
    fast = tmp_path / "fast.pt"
    torch.jit.optimize_for_inference(torch.jit.script(net)).save(str(fast))
    listed = run("shapes", fast).stdout
    assert listed.count("Linear (in, out)") == 2
    assert "in × out: a Linear whose weight lies as (in, out)" in listed
    done = run("convert", fast, "--state-dict", "--to", "linear", "--from", "any", "-o", tmp_path / "c.pt").stdout
    assert "transformers" not in listed + done
    assert "nn.Linear(4, 6), whose weight was stored as (in, out), (4, 6)" in done
    assert "Linear (in, out)" in run("verify", fast, tmp_path / "c.pt").stdout
    wide = run("convert", fast, "--state-dict", "--to", "conv1d", "--from", "any", "-o", tmp_path / "w.pt").stdout
    assert "nn.Linear(4, 6) → nn.Conv1d(4, 6, 1)" in wide
    left = run("convert", fast, "--state-dict", "--to", "conv1d", "-o", tmp_path / "x.pt")
    assert "--from transformers takes 2 Linear (in, out)" in left.stderr
