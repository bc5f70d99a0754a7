"""What the shells offer for words that are not finished, from the file that is named on the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support.in_process import run_in_process
from support.paths import FIXTURES

STNKD = FIXTURES / "pointnet_stnkd.pt"


def offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: Any) -> list[str]:
    """What bash is told when Tab is pressed behind the last of the words."""
    line = " ".join(["convinspect", *map(str, words)])
    monkeypatch.setenv("_CONVINSPECT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    ended = run_in_process(monkeypatch, capsys)
    assert (ended.code, ended.err) == (0, "")
    return ended.out.split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a model, a copy of it and an optimizer."""
    model = nn.Sequential(nn.Conv1d(3, 4, 1), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4))
    # As one that has made a step; PyTorch's own would import its compiler.
    momenta = {i: {"momentum_buffer": torch.zeros_like(one)} for i, one in enumerate(model.parameters())}
    optimizer = {"state": momenta, "param_groups": [{"lr": 0.001, "params": list(momenta)}]}
    state = {"model": model.state_dict(), "ema": model.state_dict(), "optimizer": optimizer}
    path = tmp_path_factory.mktemp("trained") / "trained.pt"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("command", ["weights", "explain"])
def test_a_layers_name_follows_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert offered(monkeypatch, capsys, command, STNKD, "fc") == ["fc1", "fc2", "fc3"]
    assert offered(monkeypatch, capsys, command, STNKD, "nothing") == []


def test_the_option_may_stand_before_or_behind_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("shapes", STNKD, "--layer", "conv"), ("convert", STNKD, "--layer", "conv")):
        assert offered(monkeypatch, capsys, *words) == ["conv1", "conv2", "conv3"]


def test_names_come_from_the_root_that_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parts = {"model": {"a.weight": torch.zeros(2, 3, 1)}, "teacher": {"b.weight": torch.zeros(2, 3, 1)}}
    torch.save(parts, tmp_path / "two.pt")
    assert offered(monkeypatch, capsys, "weights", "--root", "teacher", tmp_path / "two.pt", "") == ["b"]


def test_kinds_are_those_of_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    assert offered(monkeypatch, capsys, "shapes", trained, "--kind", "Con") == ["Conv1d"]
    assert offered(monkeypatch, capsys, "shapes", trained, "--kind", "") == ["Conv1d", "Linear", "BatchNorm"]


def test_what_bash_would_take_apart_has_backslashes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    state = {"h.c_attn.weight": torch.zeros(4, 12), "h.c_attn.bias": torch.zeros(12), "c.weight": torch.zeros(2, 3, 1)}
    torch.save(state, tmp_path / "gpt.pt")
    kinds = " ".join(offered(monkeypatch, capsys, "shapes", tmp_path / "gpt.pt", "--kind", ""))
    assert kinds == r"Conv1D\ \(transformers\) Conv1d"


def test_roots_are_those_of_the_file_and_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    assert offered(monkeypatch, capsys, "shapes", trained, "--root", "") == ["model", "ema", "optimizer", "."]
    assert offered(monkeypatch, capsys, "shapes", trained, "--root", "e") == ["ema"]
    assert offered(monkeypatch, capsys, "shapes", STNKD, "--root", "") == ["."]


@pytest.mark.parametrize("option", ["--layer", "--kind", "--root"])
def test_nothing_is_offered_without_a_file_that_can_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str
) -> None:
    (tmp_path / "notes.txt").write_text("no checkpoint")
    assert offered(monkeypatch, capsys, "shapes", option, "") == []
    assert offered(monkeypatch, capsys, "shapes", tmp_path / "notes.txt", option, "") == []
    assert offered(monkeypatch, capsys, "shapes", tmp_path / "gone.pt", option, "") == []


def test_a_quotation_that_is_still_open_hides_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from convinspect.cli.completion import _path_typed

    monkeypatch.delenv("_TYPER_COMPLETE_ARGS", raising=False)
    monkeypatch.setenv("COMP_WORDS", f"convinspect shapes {STNKD} --layer 'con")
    assert _path_typed() == str(STNKD)
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "convinspect shapes gone.pt --layer")
    assert _path_typed() is None, "what zsh and fish hand over goes before what bash does"
