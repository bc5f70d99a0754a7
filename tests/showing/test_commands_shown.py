"""Calls of `convert` that are told: where their result goes, and words as a shell takes them back."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.diffing.steps import Step
from convinspect.showing.commands import can_be_converted, like_command, quoted, step_commands
from support.in_process import call_main
from support.paths import FIXTURES


def target(path: Path) -> str:
    """What follows `-o` in the call for a file, without its folder."""
    words = like_command(open_checkpoint(path), open_checkpoint(path), True, ()).split(" ")
    return Path(words[words.index("-o") + 1]).name


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.pt", "dict", "a_converted.pt"),
        ("a.pth.tar", "dict", "a.pth_converted.tar"),
        ("a", "dict", "a_converted"),
        ("a.safetensors", "dict", "a_converted.pt"),
        ("a.bin", "safetensors", "a_converted.safetensors"),
        ("a.safetensors", "safetensors", "a_converted.safetensors"),
        ("a.sft", "safetensors", "a_converted.sft"),
        ("a.model", "module", "a_converted.pt"),
        ("a.ckpt", "module", "a_converted.ckpt"),
    ],
)
def test_the_suffix_says_what_is_in_the_result(tmp_path: Path, name: str, content: str, expected: str) -> None:
    module = nn.Sequential(nn.Conv1d(3, 4, 1))
    if content == "safetensors":
        save_file(module.state_dict(), tmp_path / name)
    else:
        torch.save(module if content == "module" else module.state_dict(), tmp_path / name)
    assert target(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "mode", "expected"), [("m.nemo", "w", "m_converted.nemo"), ("m.tar.gz", "w:gz", "weights_converted.ckpt")]
)
def test_an_archive_is_written_with_its_checkpoint_where_it_can_be(
    tmp_path: Path, name: str, mode: Literal["w", "w:gz"], expected: str
) -> None:
    torch.save({"0.weight": torch.zeros(4, 3, 1)}, tmp_path / "weights.ckpt")
    with tarfile.open(tmp_path / name, mode) as archive:
        archive.add(tmp_path / "weights.ckpt", "inner/weights.ckpt")
    assert target(tmp_path / name) == expected


def test_shards_become_a_folder_beside_theirs(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "sharded", tmp_path / "model")
    (index,) = (tmp_path / "model").glob("*.index.json")
    assert target(tmp_path / "model") == target(index) == "model_converted"
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "model", "inner/model")
    assert target(tmp_path / "m.tar.gz") == "m_converted"
    assert can_be_converted(open_checkpoint(FIXTURES / "distributed"))
    assert can_be_converted(open_checkpoint(index))


def test_steps_lead_from_the_source_to_the_result(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv1d(3, 4, 1)), tmp_path / "a.pt")
    source = open_checkpoint(tmp_path / "a.pt")
    steps = [Step("Linear", ("Conv1d",), ("0",), 1), Step("Conv2d", ("Linear",), (), 1)]
    first, last = step_commands(source, steps, ["0=fc"])
    place = f"{tmp_path}/a"
    assert first == (
        f"convinspect convert {place}.pt -o {place}_converted1.pt --to linear --from conv1d --layer 0 --state-dict"
    )
    assert last == (
        f"convinspect convert {place}_converted1.pt -o {place}_converted.pt --to conv2d --from linear --rename 0=fc"
    )
    assert step_commands(source, [], []) == []
    (alone,) = step_commands(source, [], ["0=fc"])
    assert alone == f"convinspect convert {place}.pt -o {place}_converted.pt --rename 0=fc --state-dict"


@pytest.mark.parametrize("given", ["model", "model/", "."])
def test_a_folder_is_named_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """Not by the index in it: what else the folder holds, such as `config.json`, goes along."""
    shutil.copytree(FIXTURES / "sharded", tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "model" if given == "." else tmp_path)
    source = open_checkpoint(given)
    (command,) = step_commands(source, [Step("Linear", (), (), 1)], ())
    said = "." if given == "." else "model"
    made = "../model_converted" if given == "." else "model_converted"
    assert command == f"convinspect convert {said} -o {made} --to linear"
    assert like_command(source, source, True, ()).split()[6] == said
    assert call_main(*command.split()[1:]).code == 0
    assert (tmp_path / "model_converted" / "config.json").exists()


@pytest.mark.parametrize("word", ["\ud800", "tab\t", "\udcff\x07", "名\n", "\ufeff"])
def test_words_that_no_terminal_should_be_shown_are_written_out(word: str) -> None:
    assert quoted(word).isprintable()
    result = subprocess.run(["bash", "-c", f"printf %s {quoted(word)}"], capture_output=True, check=True)
    errors = "surrogatepass" if word == "\ud800" else "surrogateescape"
    assert result.stdout == word.encode("utf-8", errors)


@pytest.mark.parametrize("error", [False, True], ids=["of two files", "of an error"])
@pytest.mark.parametrize("words", [(), ("--json",)], ids=["typed", "json"])
def test_commands_are_worked_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], error: bool
) -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 7, bias=False), nn.Linear(7, 2))
    sd = model.state_dict()
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({**sd, "0.weight": sd["0.weight"][..., None], "1.weight": sd["1.weight"].t().contiguous()}, a)
    torch.save(sd, b)
    given: tuple[object, ...] = (b,)
    if error:
        with pytest.raises(RuntimeError) as raised:
            model.load_state_dict(torch.load(a))
        (tmp_path / "error.txt").write_text(str(raised.value))
        given = ("--error", tmp_path / "error.txt")
    asked: list[object] = []

    def counted(checkpoint: Checkpoint) -> bool:
        asked.append(checkpoint)
        return can_be_converted(checkpoint)

    for name in ("verdict", "load_error"):
        monkeypatch.setattr(f"convinspect.showing.{name}.can_be_converted", counted)
    done = call_main("diff", a, *given, *words)
    assert "convinspect convert" in done.out
    assert "sd[" in done.out or not error
    assert len(asked) == 1
