"""Options that say nothing, or two things: one line that names them, and nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from support.in_process import run_in_process
from support.paths import FIXTURES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a model `a.pt`, one to be alike `b.pt`, a recurrent and a quantized one, and shards."""
    torch.save(nn.Sequential(nn.Conv1d(3, 4, 1)).state_dict(), tmp_path / "a.pt")
    torch.save(nn.Sequential(nn.Linear(3, 4)).state_dict(), tmp_path / "b.pt")
    torch.save(nn.ModuleDict({"rnn": nn.LSTM(3, 4), "fc": nn.Linear(4, 4)}).state_dict(), tmp_path / "rnn.pt")
    shutil.copytree(FIXTURES / "sharded", tmp_path / "shards")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("convert a.pt -o c.pt --to linear --like b.pt", "--to and --like both say what the layers become"),
        ("convert a.pt -o c.pt", "nothing says what the layers become"),
        (
            "convert a.pt -o c.pt --to linear --in-place",
            "--in-place writes over the source, so it cannot be combined with -o",
        ),
        ("convert a.pt --to linear", "there is no target"),
        ("convert a.pt -o a.pt --to linear", "the target is the source itself"),
        ("convert a.pt -o b.pt --to linear", "the target exists; use --force"),
        ("convert a.pt -o there --to linear", "the target is a folder"),
        ("convert a.pt -o gone/c.pt --to linear", "the target's folder does not exist"),
        ("convert a.pt -o c.model --state-dict", "its name does not say in which format to write"),
        ("convert a.pt -o c.pt --to linear --from linear", "--from Linear and --to Linear are the same"),
        ("convert a.pt -o c.pt --to linear --layer nope", "no layer matches"),
        ("convert shards -o there --to linear", "the folder exists and is not empty; use --force"),
        ("convert gone.pt -o c.pt --to linear", "there is no such file"),
        ("verify a.pt b.pt --bits --grad", "--bits runs nothing"),
        ("verify a.pt b.pt --model x:Y -i gone.npy", "gone.npy: there is no such file"),
        ("weights a.pt 0 --kernel 9", "there is no kernel 9"),
        ("weights a.pt 0 --kernel 0 --rows 1", "--kernel chooses one output already"),
        ("shapes a.pt --format csv -o x.md", "--format csv and --output x.md disagree"),
        ("shapes a.pt -o x.index.json", "a name in .index.json is that of a checkpoint's index"),
        ("shapes a.pt -o a.pt", "it is the file that was opened"),
        ("diff a.pt gone.pt", "there is no such file"),
    ],
)
def test_a_wish_that_cannot_be_meant_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    ended = run_in_process(monkeypatch, capsys, *line.split())
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert ended.err.startswith("error: ")
    assert words in ended.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_layers_that_were_chosen_and_cannot_be_converted_say_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"fc.weight": torch.zeros(4, 4), "fc.bias": torch.zeros(4),
             "conv.weight": torch.zeros(4, 4, 1, 1)}  # fmt: skip
    torch.save(state, folder / "c.pt")
    for path, layer, words in (
        ("rnn.pt", "rnn", "computes with its packed weights directly"),
        ("c.pt", "conv", "it is a Conv2d; --from conv2d takes it"),
    ):
        ended = run_in_process(monkeypatch, capsys, "convert", path, "--to", "conv1d", "--dry-run", "--layer", layer)
        assert words in " ".join((ended.out + ended.err).split()), path


def test_a_plan_names_what_is_renamed_and_what_is_so_already(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tensor that gets another last part is named whole; a module whose tensors all move, by itself."""
    state = {"a.weight": torch.zeros(4, 3, 1), "b.weight": torch.zeros(4, 4), "b.bias": torch.zeros(4)}
    torch.save(state, folder / "c.pt")

    def told(*words: str) -> str:
        ended = run_in_process(monkeypatch, capsys, "convert", "c.pt", "--dry-run", *words)
        assert ended.code == 0, ended.err
        return " ".join(ended.out.split())

    assert "a.weight renamed a.kernel" in told("--rename", "a.weight=a.kernel")
    said = told("--rename", "b=c")
    assert said.index("2 tensors to rename") < said.index("b renamed c")
    plan = told("--to", "linear", "--layer", "a", "--layer", "b")
    assert "1 layer to convert · 1 already so" in plan
    assert "b already Linear" in plan
