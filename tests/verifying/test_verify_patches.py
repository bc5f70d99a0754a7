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
from convinspect.showing.verify import verdict_payload

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
    state["embed.weight"] = conv.weight.flip(1).flatten(1)  # another function
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


# ------------------------------------------------------------------------------------------- channels last


def _saved(kernel: tuple[int, ...], path: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    conv = CONVS[len(kernel) - 1](3, 8, kernel, stride=kernel).to(dtype)
    state = {f"embed.{key}": value.detach() for key, value in conv.state_dict().items()}
    torch.save(state, path)
    return state


HWC = Options(to="linear", patches=True, layer=("embed",), patch_order="hwc")


@pytest.mark.parametrize("kernel", [(4,), (4, 2), (4, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_in_the_other_order_are_the_same_layer(
    kernel: tuple[int, ...], dtype: torch.dtype, tmp_path: Path
) -> None:
    state = _saved(kernel, tmp_path / "a.pt", dtype)
    convert(tmp_path / "a.pt", tmp_path / "b.pt", HWC)
    for pair in (("a.pt", "b.pt"), ("b.pt", "a.pt")):
        assert verify(*(tmp_path / name for name in pair), bits=True).equal
        report = verify(*(tmp_path / name for name in pair), grad=True)
        assert report.equal
        (layer,) = report.layers
        assert layer.note == "same, the channels of each patch last"
        assert f"patches flattened as {('(l, c)', '(h, w, c)', '(t, h, w, c)')[len(kernel) - 1]}" in layer.assumed
        assert layer.outputs is not None
        assert layer.outputs.bound > 0
        assert layer.outputs.ok
        assert layer.gradients["weight"].ok
        assert layer.gradients["input"].ok
    state["embed.weight"].view(-1)[7] += 1
    torch.save(state, tmp_path / "a.pt")
    assert not verify(tmp_path / "a.pt", tmp_path / "b.pt").equal


def one_number(rows: torch.Tensor) -> torch.Tensor:
    return rows.index_put((torch.tensor(3), torch.tensor(5)), torch.tensor(0.5))


WRONG: dict[str, tuple[Any, str]] = {
    "one number": (one_number, "1 of 192 numbers differs, at [3, 5]"),
    "some": (lambda rows: torch.cat([rows[:, :-1], rows[:, -1:] + 1], 1), "8 of 192 numbers differ, first at [0, 23]"),
    "rows": (lambda rows: rows.roll(1, 0), "its rows are in another order"),
    "factor": (lambda rows: rows * 2, "2"),
    "a neighbour's": (lambda _: torch.arange(192.0).reshape(8, 24), "other.weight"),
}

WRONG_BY_ORDER = [
    (wrong, last)
    for wrong in WRONG
    for last in (False, True)
    # Of these nothing tells whether the channels were last.
    if not (last and wrong in ("rows", "a neighbour's"))
]


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(("wrong", "last"), WRONG_BY_ORDER)
def test_wrong_numbers_are_named_and_not_the_shape(wrong: str, last: bool, back: bool, tmp_path: Path) -> None:
    spoil, said = WRONG[wrong]
    torch.manual_seed(0)
    kernel = nn.Conv2d(3, 8, (4, 2)).weight.detach()
    other = torch.arange(192.0).reshape(8, 3, 4, 2)
    rows = (kernel.movedim(1, -1) if last else kernel).flatten(1)
    wrong_rows = spoil(rows)
    if back:
        parted = wrong_rows.reshape(8, 4, 2, 3).movedim(-1, 1) if last else wrong_rows.reshape(8, 3, 4, 2)
        before, after, other = rows, parted.contiguous(), other.flatten(1)
    else:
        before, after = kernel, wrong_rows
    torch.save({"patch_embed.weight": before, "other.weight": other}, tmp_path / "a.pt")
    torch.save({"patch_embed.weight": after, "other.weight": other}, tmp_path / "b.pt")
    report = verify(tmp_path / "a.pt", tmp_path / "b.pt")
    assert not report.equal
    cause = str(verdict_payload(report)["cause"])
    assert "its shape" not in cause
    if not last or wrong == "factor":
        assert said in cause


def test_an_order_that_is_neither_is_different(tmp_path: Path) -> None:
    state = _saved((4, 2), tmp_path / "a.pt")
    # (h, c, w)
    torch.save(state | {"embed.weight": state["embed.weight"].transpose(1, 2).flatten(1)}, tmp_path / "b.pt")
    assert not verify(tmp_path / "a.pt", tmp_path / "b.pt").equal


@pytest.mark.parametrize("what", ["ema", "optimizer"])
@pytest.mark.parametrize("weight_last", [False, True])
def test_state_in_another_order_than_its_weight_is_found(what: str, weight_last: bool, tmp_path: Path) -> None:
    model: Any = nn.Sequential()
    model.patch_embed = nn.Conv2d(3, 8, 4, stride=4)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(1, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    ema = {key: value + 1 for key, value in model.state_dict().items()}
    torch.save({"model": model.state_dict(), "ema": ema, "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    order = "hwc" if weight_last else None
    options = Options(to="linear", patches=True, layer=("patch_embed",), patch_order=order)
    convert(tmp_path / "a.pt", tmp_path / "b.pt", options)
    assert verify(tmp_path / "a.pt", tmp_path / "b.pt").equal
    after = torch.load(tmp_path / "b.pt")
    before = torch.load(tmp_path / "a.pt")
    if what == "ema":
        old, new, key = before["ema"], after["ema"], "patch_embed.weight"
    else:
        old, new, key = before["optimizer"]["state"][0], after["optimizer"]["state"][0], "exp_avg"
    new[key] = old[key].flatten(1) if weight_last else old[key].movedim(1, -1).flatten(1)
    torch.save(after, tmp_path / "c.pt")
    report = verify(tmp_path / "a.pt", tmp_path / "c.pt")
    assert not report.equal
    assert "another order than its weight" in str(verdict_payload(report))


def test_a_whole_model_needs_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "codelast.py").write_text(CODE + LAST)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import codelast  # type: ignore[import-not-found]

    torch.save(codelast.Net().state_dict(), tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to="linear", patches=True, patch_order="hwc"))
    image = "2x3x8x6"
    with pytest.raises(CannotConvert, match="model_after"):
        verify(tmp_path / "a.pt", tmp_path / "b.pt", model="codelast:Net", input=image)
    there, back = (tmp_path / "a.pt", tmp_path / "b.pt"), (tmp_path / "b.pt", tmp_path / "a.pt")
    net, last, rows = "codelast:Net", "codelast:Last", "codelast:Rows"
    for grad in (False, True):
        report = verify(*there, model=net, model_after=last, input=image, grad=grad)
        assert report.equal
        assert report.strength == "model"
        assert verify(*back, model=last, model_after=net, input=image, grad=grad).equal
    assert not verify(*there, model=net, model_after=rows, input=image).equal


LAST = """
class Last(Rows):
    def forward(self, x):
        x = x.unfold(2, 4, 4).unfold(3, 2, 2).movedim(1, -1).flatten(3)
        return self.head(self.patch_embed(x).movedim(-1, 1).flatten(2).mT)
"""
