"""Weights that were saved without their numbers, as parts of a model under ZeRO-3 are when nobody gathers them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from convinspect.checking.findings import CODES
from convinspect.checking.scan import check
from support.in_process import run
from support.program import assert_one_line
from support.saving import layers_in


def emptied(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.data = torch.empty(0)
    return model


def model() -> nn.Module:
    parts = {"conv": nn.Conv1d(4, 4, 1), "fc": nn.Linear(4, 3), "bn": nn.BatchNorm1d(3), "emb": nn.Embedding(5, 4)}
    return emptied(nn.ModuleDict(parts))


@pytest.mark.parametrize("whole", [False, True])
def test_empty_weights_are_listed_found_and_left(tmp_path: Path, whole: bool) -> None:
    saved = model() if whole else model().state_dict()
    layers = layers_in(tmp_path, saved)
    path = tmp_path / "model.pt"
    for name in ("conv", "fc", "bn", "emb"):
        assert layers[name].kind == ("BatchNorm" if name == "bn" else "Empty")
        assert "empty" in layers[name].tags
        assert "ZeRO-3" in "".join(layers[name].notes)
    shown = run("shapes", path)
    assert (shown.returncode, shown.stdout.count("ZeRO-3")) == (0, 1)
    assert "not gathered" in shown.stdout.replace("\n", " ")
    findings = [finding for finding in check(path).findings if finding.code == "empty-weight"]
    assert len(findings) == 1
    assert "4 weights" in findings[0].message
    assert "'conv.weight'" in findings[0].message
    assert "stage3_gather_16bit_weights_on_model_save" in CODES["empty-weight"].remedy
    # A whole model is refused for what it is.
    for to in () if whole else ("conv1d", "linear"):
        done = run("convert", path, "-o", tmp_path / "b.pt", "--to", to, "--layer", "fc", "--layer", "conv")
        assert done.returncode == 2
        assert "ZeRO-3" in done.stderr.replace("\n", " ")
    assert run("weights", path).returncode in (0, 2)


def test_what_holds_numbers_is_not_empty(tmp_path: Path) -> None:
    state = {"fc.weight": torch.zeros(0, 4), "fc.bias": torch.zeros(0), "a": torch.zeros(0), "b.weight": torch.zeros(1)}
    layers = layers_in(tmp_path, state)
    assert not any("empty" in layer.tags for layer in layers.values())
    assert not [finding for finding in check(tmp_path / "model.pt").findings if finding.code == "empty-weight"]


def test_a_weight_of_no_numbers_by_design_is_no_finding(tmp_path: Path) -> None:
    """e3nn's tensor products keep one where their weights come from elsewhere, and no bias."""
    state = {"fc.weight": torch.ones(4, 3), "fc.bias": torch.empty(0), "product.weight": torch.empty(0)}
    torch.save(state, tmp_path / "model.pt")
    assert [found.code for found in check(tmp_path / "model.pt").findings] == []


def test_why_emptied_weights_do_not_load_is_said(tmp_path: Path) -> None:
    whole = nn.ModuleDict({"conv": nn.Conv1d(4, 4, 1), "fc": nn.Linear(4, 3)})
    torch.save(whole.state_dict(), tmp_path / "whole.pt")
    state = {key: torch.empty(0) for key in whole.state_dict()}
    torch.save(state, tmp_path / "empty.pt")
    with pytest.raises(RuntimeError) as error:
        whole.load_state_dict(state)
    (tmp_path / "error.txt").write_text(str(error.value))
    for words in ((tmp_path / "whole.pt",), ("--error", tmp_path / "error.txt")):
        result = run("diff", tmp_path / "empty.pt", *words)
        assert result.returncode == 1
        assert result.stdout.count("ZeRO-3 saves what was not gathered") == 4


def test_what_is_written_and_shown_of_a_file_says_that_weights_are_empty(tmp_path: Path) -> None:
    parts = nn.ModuleDict({"conv": nn.Conv1d(4, 6, 1), "fc": nn.Linear(4, 3)})
    emptied(parts["fc"])
    some, every = tmp_path / "some.pt", tmp_path / "every.pt"
    torch.save(parts.state_dict(), some)
    torch.save(model().state_dict(), every)
    said = "1 layer (fc) has an empty weight of shape (0,)"
    for words in (["--to", "linear"], ["--rename", "conv=c"], ["--state-dict"], ["--to", "linear", "--dry-run"]):
        done = run("convert", some, "-o", tmp_path / "b.pt", "--force", *words)
        assert (done.returncode, done.stderr.count(said)) == (0, 1)
    for words in ([], ["--stats"], ["fc"]):
        shown = run("weights", some, *words, "--width", 300)
        assert (shown.returncode, shown.stdout.count(said)) == (0, 1)
    assert said not in run("weights", some, "conv", "--width", 300).stdout
    asked = run("weights", every), run("convert", every, "--to", "linear", "-o", tmp_path / "c.pt")
    for refused in asked:
        assert_one_line(refused, "4 layers (conv, fc, bn, emb) have empty weights", "zero_to_fp32.py")
