"""`verify` of convolutions over patches: both forms are run, and a flattened kernel that cuts no patches is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect import verify
from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.errors import CannotConvert
from convinspect.modules import PatchLinear

CONVS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
CODE = """
from torch import nn
from convinspect.modules import PatchLinear

class Net(nn.Module):
    def __init__(self, embed=None):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, (4, 2), stride=(4, 2)) if embed is None else embed
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.patch_embed(x).flatten(2).mT)

def swapped():
    return Net(PatchLinear(3, 8, (4, 2)))

class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed, self.head = nn.Linear(24, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = x.unfold(2, 4, 4).unfold(3, 2, 2).movedim(1, 3).flatten(3)
        return self.head(self.patch_embed(x).movedim(-1, 1).flatten(2).mT)
"""


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_forms_are_run(dims: int, dtype: torch.dtype, tmp_path: Path) -> None:
    kernel = (4, 2, 3)[:dims]
    conv = CONVS[dims - 1](3, 8, kernel, stride=kernel).to(dtype)
    torch.save({f"embed.{key}": value for key, value in conv.state_dict().items()}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to="linear", patches=True, layer=("embed",)))
    for pair in (("a.pt", "b.pt"), ("b.pt", "a.pt")):
        report = verify(*(tmp_path / name for name in pair), grad=True)
        assert report.equal
        (layer,) = report.layers
        assert layer.outputs is not None
        assert layer.outputs.ok
        assert layer.outputs.bound > 0
        assert set(layer.gradients) == {"input", "weight", "bias"}
        assert all(gradient.ok for gradient in layer.gradients.values())
    assert report.layers[0].assumed == (f"patches flattened as {('(c, l)', '(c, h, w)', '(c, t, h, w)')[dims - 1]}",)
    state = torch.load(tmp_path / "b.pt")
    state["embed.weight"] = conv.weight.movedim(1, -1).flatten(1)  # channels last: another function
    torch.save(state, tmp_path / "c.pt")
    assert not verify(tmp_path / "a.pt", tmp_path / "c.pt").equal


OTHERS = {
    "stride": nn.Conv2d(4, 4, 4, stride=3),
    "stride 1": nn.Conv2d(4, 4, 3),
    "padding": nn.Conv2d(4, 4, 4, stride=4, padding=1),
    "same": nn.Conv2d(4, 4, 4, padding="same"),
    "dilation": nn.Conv2d(4, 4, 4, stride=4, dilation=2),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_flattened_kernel_that_cuts_no_patches_is_not_the_same(case: str, tmp_path: Path) -> None:
    model = nn.Sequential(OTHERS[case])
    torch.save(model, tmp_path / "a.pt")
    torch.save({key: value.flatten(1) if value.dim() > 1 else value for key, value in model.state_dict().items()},
               tmp_path / "b.pt")  # fmt: skip
    for pair in (("a.pt", "b.pt"), ("b.pt", "a.pt")):
        report = verify(*(tmp_path / name for name in pair))
        assert not report.equal
    taken = nn.Sequential(nn.Conv2d(4, 4, 4, stride=4))
    torch.save(taken, tmp_path / "c.pt")
    torch.save({key: value.flatten(1) if value.dim() > 1 else value for key, value in taken.state_dict().items()},
               tmp_path / "d.pt")  # fmt: skip
    report = verify(tmp_path / "c.pt", tmp_path / "d.pt")
    assert report.equal
    assert report.layers[0].assumed == ()


def test_whole_models_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "patch_net.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "patch_net", raising=False)
    model = nn.ModuleDict({"patch_embed": nn.Conv2d(3, 8, (4, 2), stride=(4, 2)), "head": nn.Linear(8, 5)})
    torch.save(model.state_dict(), tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to="linear", patches=True))
    a, b, given = tmp_path / "a.pt", tmp_path / "b.pt", {"input": "2x3x9x7", "grad": True}
    for pair, models in (
        ((a, b), {"model": "patch_net:Net"}),
        ((b, a), {"model": "patch_net:swapped"}),
        ((a, b), {"model": "patch_net:Net", "model_after": "patch_net:Rows"}),
    ):
        report = verify(*pair, **models, **given)  # type: ignore[arg-type, misc]
        assert report.equal, report.cause
        assert report.strength == "model"
    with pytest.raises(CannotConvert, match="given flattened patches"):
        verify(b, a, model="patch_net:Rows", input="2x3x9x7")
    assert PatchLinear(3, 8, (4, 2)).in_features == 24
