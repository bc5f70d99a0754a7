"""Models that were pickled whole while the stand-ins lived in `convinspect.pointwise`: they load, show and verify."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import convinspect
from convinspect.kinds import is_stand_in
from convinspect.modules import ChannelsFirstLinear, PointwiseConv1d, PointwiseLinear, swap_pointwise
from support.in_process import run
from support.paths import FIXTURES
from support.verifying import report_of

STAND_INS = FIXTURES / "stand_ins_0.1.pt"


@pytest.fixture
def stored() -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(STAND_INS, weights_only=False)
    return loaded


def test_pickled_stand_ins_compute_what_they_did(stored: dict[str, Any]) -> None:
    assert {type(layer) for layer in stored["linear"]} >= {PointwiseLinear}
    assert {type(layer) for layer in stored["exposed"]} >= {ChannelsFirstLinear}
    assert [type(layer) for layer in stored["conv"]] == [PointwiseConv1d]
    for name in ("linear", "exposed"):
        with torch.no_grad():
            assert torch.allclose(stored[name](stored["input"]), stored["output"], rtol=0, atol=1e-6), name


def test_pickled_stand_ins_are_listed() -> None:
    result = run("shapes", STAND_INS, "--root", "linear")
    assert result.returncode == 0, result.stderr
    assert "Linear" in result.stdout
    layers = convinspect.find_layers(convinspect.open(STAND_INS, "linear"))
    assert [layer.name for layer in layers] == ["0", "2", "3"]


def as_old(state: bytes) -> bytes:
    """A pickle of today's stand-ins under the module that 0.1 named."""
    assert state.count(b"cconvinspect.modules.pointwise\n")
    return state.replace(b"cconvinspect.modules.pointwise\n", b"cconvinspect.pointwise\n")


@pytest.mark.parametrize("old", [True, False])
def test_verify_knows_a_stand_in_under_either_name(tmp_path: Path, stored: dict[str, Any], old: bool) -> None:
    """Its stride and padding count, which no Linear has."""
    before = stored["linear"]
    after = swap_pointwise(copy.deepcopy(before), "conv1d").model
    torch.save(before, tmp_path / "before.pt", _use_new_zipfile_serialization=False)
    torch.save(after, tmp_path / "after.pt")
    if old:
        (tmp_path / "before.pt").write_bytes(as_old((tmp_path / "before.pt").read_bytes()))
    modules = convinspect.open(tmp_path / "before.pt").modules
    assert modules["0"].class_name == f"convinspect.{'' if old else 'modules.'}pointwise.PointwiseLinear"
    assert report_of(tmp_path / "before.pt", tmp_path / "after.pt", bits=True).equal
    wrong: Any = copy.deepcopy(after)
    strided = next(layer for layer in wrong if isinstance(layer, nn.Conv1d) and layer.stride != (1,))
    strided.stride = (1,)
    torch.save(wrong, tmp_path / "after.pt")
    found = report_of(tmp_path / "before.pt", tmp_path / "after.pt", bits=True)
    assert not found.equal


@pytest.mark.parametrize("name", ["PointwiseLinear", "PointwiseConv1d", "PointwiseConv2d", "ChannelsFirstLinear"])
def test_both_homes_of_a_stand_in_are_known(name: str) -> None:
    assert is_stand_in(f"convinspect.pointwise.{name}", name)
    assert is_stand_in(f"convinspect.modules.pointwise.{name}", name)
    assert not is_stand_in(f"elsewhere.pointwise.{name}", name)
    assert not is_stand_in(f"convinspect.pointwise.{name}", "Linear")
