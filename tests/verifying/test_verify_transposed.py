"""`verify` of transposed convolutions of kernel size 1 beside the Linear layers that they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from convinspect import verify
from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.showing.verify import verdict_payload

TRANSPOSES: list[Any] = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]


def saved(module: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    state = {f"up.{key}": value.detach() for key, value in module.state_dict().items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return state


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_both_forms_are_run(dims: int, suffix: str, tmp_path: Path) -> None:
    a, b, c = (tmp_path / f"{name}.{suffix}" for name in "abc")
    saved(TRANSPOSES[dims - 1](4, 6, 1), a)
    convert(a, b, Options(to="linear", from_=(f"convtranspose{dims}d",)))
    for pair in ((a, b), (b, a)):
        assert verify(*pair, bits=True).equal
        report = verify(*pair, grad=True)
        assert report.equal
        (layer,) = report.layers
        assert {layer.before, layer.after} == {"Linear", f"ConvTranspose{dims}d"}
        assert layer.outputs is not None
        assert layer.outputs.ok
        assert layer.outputs.bound > 0
        assert all(gradient.ok for gradient in layer.gradients.values())
    state = saved(nn.Linear(4, 6), c)
    assert not verify(a, c).equal
    # The same numbers row by row, not transposed.
    wrong = state | {"up.weight": verify_weight(a).reshape(6, 4), "up.bias": verify_weight(a, "bias")}
    save_file(wrong, c) if suffix == "safetensors" else torch.save(wrong, c)
    assert not verify(a, c).equal


def verify_weight(path: Path, leaf: str = "weight") -> torch.Tensor:
    from support.conversions import load

    value: torch.Tensor = load(path)[f"up.{leaf}"]
    return value


@pytest.mark.parametrize("wide", [4, 6])
def test_without_evidence_the_user_decides(wide: int, tmp_path: Path) -> None:
    a, b, c = (tmp_path / f"{name}.pt" for name in "abc")
    state = saved(nn.ConvTranspose1d(4, wide, 1, bias=False), a)
    torch.save({"up.weight": state["up.weight"][..., 0].T.contiguous()}, b)
    for pair in ((a, b), (b, a)):
        report = verify(*pair)
        assert not report.equal
        assert "right if it is a transposed convolution" in str(verdict_payload(report))
        named = verify(*pair, layer="up")
        assert named.equal
        assert named.layers[0].outputs is not None
        assert named.layers[0].outputs.ok
    torch.save({"up.weight": state["up.weight"][..., 0].T.contiguous() + 1}, c)
    assert not verify(a, c, layer="up").equal


def test_a_bias_tells(tmp_path: Path) -> None:
    """A bias of the first size says that it is no transposed convolution."""
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    state = saved(nn.Conv1d(4, 6, 1), a)
    torch.save({"up.weight": state["up.weight"][..., 0].T.contiguous(), "up.bias": state["up.bias"]}, b)
    report = verify(a, b)
    assert not report.equal
    assert "transposed" in str(verdict_payload(report))


def test_one_that_is_known_shows_the_others(tmp_path: Path) -> None:
    model = nn.Sequential(nn.ConvTranspose1d(4, 6, 1), nn.ConvTranspose1d(6, 6, 1))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    turned = {
        key: value[..., 0].T.contiguous() if value.dim() > 1 else value for key, value in model.state_dict().items()
    }
    torch.save(turned, tmp_path / "b.pt")
    assert verify(tmp_path / "a.pt", tmp_path / "b.pt").equal
    turned["1.weight"] = turned["1.weight"].T.contiguous()
    torch.save(turned, tmp_path / "c.pt")
    report = verify(tmp_path / "a.pt", tmp_path / "c.pt")
    # No shape tells whether the second is a Conv1d.
    assert report.layers[1].outputs is not None


@pytest.mark.parametrize(
    "module",
    [
        nn.ConvTranspose1d(4, 6, 1, stride=2),
        nn.ConvTranspose1d(4, 6, 1, padding=1),
        nn.ConvTranspose1d(4, 6, 1, dilation=2, output_padding=1),
    ],
)
def test_settings_that_no_linear_has(module: nn.Module, tmp_path: Path) -> None:
    torch.save(nn.Sequential(module), tmp_path / "a.pt")
    turned = {"0.weight": module.weight.detach()[..., 0].T.contiguous(), "0.bias": module.bias.detach()}  # type: ignore[operator]
    torch.save(turned, tmp_path / "b.pt")
    assert not verify(tmp_path / "a.pt", tmp_path / "b.pt").equal


def test_larger_kernels_are_no_linear(tmp_path: Path) -> None:
    conv = nn.ConvTranspose1d(4, 6, 2, stride=2)
    torch.save(nn.Sequential(conv), tmp_path / "a.pt")
    assert conv.bias is not None
    for flat in (conv.weight.detach().flatten(1), conv.weight.detach().flatten(1).T.contiguous()):
        torch.save({"0.weight": flat, "0.bias": conv.bias.detach()}, tmp_path / "b.pt")
        assert not verify(tmp_path / "a.pt", tmp_path / "b.pt").equal


def test_state_and_copies(tmp_path: Path) -> None:
    model: Any = nn.Sequential()
    model.up = nn.ConvTranspose1d(4, 6, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 4, 5)).square().sum().backward()
    optimizer.step()
    ema = {key: value + 1 for key, value in model.state_dict().items()}
    torch.save({"model": model.state_dict(), "ema": ema, "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to="linear", from_=("convtranspose1d",)))
    assert verify(tmp_path / "a.pt", tmp_path / "b.pt").equal
    assert verify(tmp_path / "b.pt", tmp_path / "a.pt").equal
    for where, key in (("ema", "up.weight"), ("optimizer", "exp_avg")):
        after = torch.load(tmp_path / "b.pt")
        part = after["ema"] if where == "ema" else after["optimizer"]["state"][0]
        part[key] = part[key].T.reshape(6, 4)
        torch.save(after, tmp_path / "c.pt")
        assert not verify(tmp_path / "a.pt", tmp_path / "c.pt").equal


def test_whole_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "codeturned.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import codeturned  # type: ignore[import-not-found]

    torch.save(codeturned.Net().state_dict(), tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to="linear", from_=("convtranspose1d",)))
    pair = tmp_path / "a.pt", tmp_path / "b.pt"
    swapped = verify(*pair, model="codeturned:Net", input="2x4x5")
    assert swapped.equal
    assert swapped.strength == "model"
    for grad in (False, True):
        report = verify(*pair, model="codeturned:Net", model_after="codeturned:Flat", input="2x4x5", grad=grad)
        assert report.equal
        assert report.strength == "model"


CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(4, 6, 1)

    def forward(self, x):
        return self.up(x)

class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(4, 6)

    def forward(self, x):
        return self.up(x.mT).mT
"""
