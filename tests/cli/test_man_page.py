"""The man page: tools that read such pages find nothing wrong with it, and it says all that the help says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from convinspect.cli.commands import SUMMARIES, load
from convinspect.cli.described import describe
from support.paths import ROOT

PAGE = ROOT / "docs" / "convinspect.1"
CHECKS = {
    "mandoc": ["mandoc", "-T", "lint", "-W", "warning"],
    "groff": ["groff", "-man", "-Tutf8", "-ww"],
    "man": ["man", "--warnings=w", "-E", "UTF-8", "-l"],
}
"""Programs that complain of pages."""


def complaints(program: str, page: Path) -> str:
    """What a program has to say against a page, on either stream; "" for nothing."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([*CHECKS[program], str(page)], capture_output=True, text=True, encoding="utf-8")
    said = (done.stdout if program == "mandoc" else "") + done.stderr
    # The page has no date: it is of the version that it names.
    return "\n".join(line for line in said.splitlines() if "missing date" not in line)


@pytest.mark.parametrize("program", CHECKS)
def test_nothing_is_wrong_with_the_page(program: str) -> None:
    assert complaints(program, PAGE) == ""


@pytest.mark.parametrize("program", CHECKS)
def test_what_is_wrong_would_be_said(program: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.1"
    wrong.write_text(PAGE.read_text(encoding="utf-8").replace(".SH NAME", ".nf 1 x\n.XX\n\\[nothing]", 1))
    assert complaints(program, wrong)


def shown() -> str:
    """The page as a reader sees it, without bold and the like."""
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    env = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run(["man", "-E", "UTF-8", "-l", str(PAGE)], capture_output=True, env=env, encoding="utf-8")
    return re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.stdout)


def test_a_reader_sees_every_command_and_option() -> None:
    text = shown()
    words = " ".join(text.split())
    assert max(len(line) for line in text.split("\n") if "convinspect " not in line) <= 80
    for name in SUMMARIES:
        command = describe(load(name).callback)
        assert command.usage in words
        for parameter in command.parameters:
            assert parameter.names[0] in words
            assert " ".join(parameter.text.replace("…", "...").split()) in words
        for example in command.examples:
            assert example in text, "is not wrapped, so that it can be copied"


def test_it_is_plain_ascii() -> None:
    assert PAGE.read_bytes().isascii()


def test_it_is_installed_where_man_looks() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    shared = settings.partition("[tool.hatch.build.targets.wheel.shared-data]\n")[2].partition("\n\n")[0]
    assert shared == '"docs/convinspect.1" = "share/man/man1/convinspect.1"'
