"""timm's ConvNeXt, whose MLPs are Linear or 1×1 Conv2d by one option: a checkpoint of either becomes the other's, loads
strictly there and gives the same outputs in timm's own code.

Skipped where timm is not installed. CI has it in a folder of its own: `.ci/run`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from support.program import run
from support.real_timm import imported

if find_spec("timm") is None:
    pytest.skip("needs timm", allow_module_level=True)


@pytest.fixture(scope="module")
def convnext() -> Iterator[Any]:
    with imported("timm.models.convnext") as module:
        yield module


def make(convnext: Any, conv_mlp: bool) -> torch.nn.Module:
    model = convnext.ConvNeXt(depths=(1, 2, 1, 1), dims=(8, 12, 16, 20), num_classes=5, conv_mlp=conv_mlp)
    for parameter in model.parameters():
        # timm starts with biases of zero and a layer scale of 1e-6, which would hide what is in the MLPs.
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("conv_mlp", [True, False])
@pytest.mark.parametrize("like", [True, False])
def test_convnext_runs_on_the_other_kind(
    tmp_path: Path, convnext: Any, conv_mlp: bool, like: bool, suffix: str
) -> None:
    torch.manual_seed(0)
    model, other = make(convnext, conv_mlp), make(convnext, not conv_mlp)
    source, wanted, target, back = (tmp_path / f"{name}{suffix}" for name in ("source", "wanted", "target", "back"))
    for one, path in ((model, source), (other, wanted)):
        save(one, path)
    there = ["--to", "linear", "--from", "conv2d"] if conv_mlp else ["--to", "conv2d", "--layer", "*.mlp.*"]
    again = ["--to", "conv2d", "--layer", "*.mlp.*"] if conv_mlp else ["--to", "linear", "--from", "conv2d"]
    done = run("convert", source, "-o", target, *(["--like", wanted] if like else there))
    assert done.returncode == 0, done.stderr
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(other(x), model(x), rtol=1e-3, atol=1e-3)
        other.load_state_dict(load(target), strict=True)
        torch.testing.assert_close(other(x), model(x), rtol=1e-4, atol=1e-4)
    assert run("convert", target, "-o", back, *again).returncode == 0
    assert back.read_bytes() == source.read_bytes()


def test_convnext_verifies_in_its_own_code(tmp_path: Path, convnext: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from convinspect.checkpoint import open_checkpoint
    from convinspect.verifying import model as whole_model
    from convinspect.verifying.model_runs import RunOptions

    torch.manual_seed(0)
    save(make(convnext, True), tmp_path / "conv.pt")
    done = run("convert", tmp_path / "conv.pt", "-o", tmp_path / "linear.pt", "--to", "linear", "--from", "conv2d")
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(whole_model, "built", lambda spec, meta: make(convnext, spec == "conv"))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    before, after = open_checkpoint(tmp_path / "conv.pt"), open_checkpoint(tmp_path / "linear.pt")
    for second in ("linear", "conv"):
        found = whole_model.try_models(before, after, {}, RunOptions("conv", second, (x,), gradients=True))
        assert bool(found.cause) == (second == "conv"), found.cause


def save(model: torch.nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)


def load(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    return found
