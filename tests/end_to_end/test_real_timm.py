"""timm's ConvNeXt, whose MLPs are Linear or 1×1 Conv2d by one option: a checkpoint of either becomes the other's, loads
strictly there and gives the same outputs in timm's own code.

Skipped where timm is not installed. What timm needs of torchvision and Pillow only to be imported is stood in for,
where these are not installed.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from support.program import run

if find_spec("timm") is None:
    pytest.skip("needs timm, which CI does not install", allow_module_level=True)

ABSENT = [name for name in ("torchvision", "PIL") if find_spec(name) is None]


class Nothing(type):
    """A class whose every attribute is another one."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing(name, (), {})


class StandIn(types.ModuleType):
    """A module that has whatever is imported from it."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return "99"
        return getattr(Nothing("module", (), {}), name)


class StandIns(MetaPathFinder, Loader):
    """Finds what is absent."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in ABSENT else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@pytest.fixture(scope="module")
def convnext() -> Iterator[Any]:
    finder = StandIns()
    sys.meta_path.append(finder)
    try:
        yield importlib.import_module("timm.models.convnext")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in ABSENT]:
            del sys.modules[name]


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
