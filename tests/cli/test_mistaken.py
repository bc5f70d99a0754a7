"""The text of an error where a checkpoint belongs: one line, with the command that answers it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.in_process import call_main
from support.paths import FIXTURES, STNKD
from support.program import run

TEXT = (FIXTURES / "pointnet_stnkd_size_mismatch.txt").read_text(encoding="utf-8")
LOGGED = "".join(f"[2026-01-02 03:04:05] ERROR {line}\n" for line in TEXT.splitlines())


@pytest.mark.parametrize(
    "words", [[], ["report"], ["weights"], ["diff", STNKD], ["convert", "-o", "x.pt", "--to", "linear"]]
)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("error.txt", TEXT.encode()),
        ("an error.log", TEXT.encode("utf-16")),
        ("-e.txt", f"Traceback (most recent call last):\n  File x\n{TEXT}".encode()),
        ("run.log", LOGGED.encode()),
    ],
)
def test_the_command_that_is_meant_is_told(
    tmp_path: Path, name: str, content: bytes, words: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    done = call_main(*words, *(["--", f"./{name}"] if name.startswith("-") else [name]))
    shown = f"'{name}'" if " " in name else name
    assert done == (
        2, "", f"error: {name}: it holds the text of a loader's error, not a checkpoint; "
        f"convinspect diff CHECKPOINT --error {shown} says what fixes it\n",
    )  # fmt: skip


def test_what_it_tells_answers_the_error(tmp_path: Path) -> None:
    (tmp_path / "error.txt").write_text(TEXT, encoding="utf-8")
    told = call_main(tmp_path / "error.txt").err
    command = told.partition("; convinspect ")[2].partition(" says")[0].replace("CHECKPOINT", str(STNKD))
    assert "will load after converting 3 layers" in run(*command.split(" ")).stdout


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("a text without an error", "a text file"),
        ("size mismatch is what I saw", "a text file"),
        ('{"a": 1}', "a JSON text"),
        ("x" * (1 << 18) + TEXT, "a text file"),
        ("[build-system]\nrequires = []", "a text file"),
        ("[2026-01-02] hello", "a text file"),
        ("[0]: hello", "a text file"),
        ("[1.5e3, 2]", "a JSON text"),
        ("[ ]\n", "a JSON text"),
        ("{\n}", "a JSON text"),
    ],
)
def test_another_text_is_what_it_was(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    done = call_main(tmp_path / "a.txt")
    assert f"it is {what}, not a checkpoint" in done.err
    assert "--error" not in done.err
