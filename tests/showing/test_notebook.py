"""What notebooks show is in the words of Python: no table tells of a flag, which nobody could type there."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import convinspect
from support.every_record import layers, of_many_rows, records
from support.paths import FIXTURES, STNKD

_STYLE = re.compile("<style>.*?</style>", re.DOTALL)
_FLAG = re.compile(r"(?<![\w-])--[a-z]\S*")


def text_of(record: Any) -> str:
    """What a notebook shows of it, with its tags."""
    return _STYLE.sub("", record._repr_html_())


def test_no_table_of_a_notebook_tells_of_a_flag(tmp_path: Path) -> None:
    for record in (*records(), *layers(), *of_many_rows(tmp_path)):
        assert (type(record), _FLAG.findall(text_of(record))) == (type(record), [])


def test_the_same_tables_for_a_terminal_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convinspect.showing.notebook.read_by", nullcontext)
    told = {flag for record in (*records(), *of_many_rows(tmp_path)) for flag in _FLAG.findall(text_of(record))}
    assert told >= {"--all", "--root", "--values", "--format"}, told


def test_an_option_is_the_argument_of_the_function() -> None:
    assert "; open(path, root=…) chooses" in text_of(convinspect.open(FIXTURES / "gan.pt"))
    assert "find_layers lists all" in text_of(convinspect.open(FIXTURES / "biases.pt"))
    assert "values=True compares the numbers too" in text_of(convinspect.diff(STNKD, STNKD))


def test_lines_of_pytorch_that_the_verdict_speaks_of_are_below_the_table(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.rand(8, 6, 3)}, tmp_path / "a.pt")
    torch.save({"a.weight": torch.rand(3, 8, 6)}, tmp_path / "b.pt")
    shown = text_of(convinspect.diff(tmp_path / "a.pt", tmp_path / "b.pt"))
    assert "the PyTorch below" in shown
    assert "sd[" in shown.partition("the PyTorch below")[2]
