"""What notebooks show is in the words of Python: no table tells of a flag, which nobody could type there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import convinspect
from convinspect.errors import ConvInspectError
from support.paths import FIXTURES, STNKD

_STYLE = re.compile("<style>.*?</style>", re.DOTALL)
_FLAG = re.compile(r"(?<![\w-])--[a-z]\S*")
_MISMATCH = (
    "size mismatch for {0}: copying a param with shape torch.Size([4, 3, 1]) from checkpoint,"
    " the shape in current model is torch.Size([4, 3])."
)


def text_of(record: Any) -> str:
    """What a notebook shows of it, with its tags."""
    return _STYLE.sub("", record._repr_html_())


def made(calls: list[Any]) -> Iterator[Any]:
    """What the calls return, of those that do not refuse."""
    for call in calls:
        with suppress(ConvInspectError):
            yield call()


@cache
def records() -> list[Any]:
    """What the functions return for all fixtures."""
    found: list[Any] = []
    stnkd = convinspect.open(STNKD)
    for path in sorted(FIXTURES.iterdir()):
        for checkpoint in made([lambda path=path: convinspect.open(path)]):
            found.append(checkpoint)
            found += made([
                lambda opened=checkpoint: convinspect.diff(opened, stnkd),
                lambda opened=checkpoint: convinspect.convert(opened, dry_run=True, to="linear", from_="any"),
                lambda opened=checkpoint: convinspect.check(opened),
            ])  # fmt: skip
    return found


@cache
def layers() -> list[Any]:
    checkpoints = [record for record in records() if isinstance(record, convinspect.Checkpoint)]
    return [layer for checkpoint in checkpoints for layer in convinspect.find_layers(checkpoint)]


def of_many_rows(folder: Path) -> list[Any]:
    """What tables say where they put many rows in one, or where squares may be transposed."""
    wide = {f"b.{n}.a.weight": torch.full((4, 3, 1), float(n)) for n in range(90)}
    torch.save(wide, folder / "many.pt")
    torch.save({name: torch.zeros(5, 3) for name in wide}, folder / "others.pt")
    square = {f"b.{n}.weight": torch.rand(8, 8) for n in range(2)}
    torch.save(square | {"c.weight": torch.rand(4, 8)}, folder / "square.pt")
    torch.save(square | {"c.weight": torch.rand(8, 4)}, folder / "turned.pt")
    torch.save({f"b.{n}.weight": torch.rand(8, 6, 1).permute(2, 0, 1) for n in range(2)}, folder / "permuted.pt")
    torch.save({f"b.{n}.weight": torch.rand(8, 6, 1) for n in range(2)}, folder / "by_hand.pt")
    error = "\n".join(_MISMATCH.format(name) for name in wide)
    return [
        convinspect.diff(folder / "many.pt", folder / "others.pt"),
        convinspect.diff(folder / "many.pt", error=RuntimeError(error)),
        convinspect.diff(STNKD, error=FIXTURES / "pointnet_stnkd_load_error.txt"),
        convinspect.diff(folder / "square.pt", folder / "turned.pt"),
        convinspect.diff(folder / "permuted.pt", folder / "by_hand.pt"),
        convinspect.convert(folder / "many.pt", dry_run=True, to="linear"),
        convinspect.convert(folder / "square.pt", dry_run=True, like=folder / "turned.pt"),
        convinspect.verify(folder / "square.pt", folder / "square.pt"),
        convinspect.explain(STNKD, "conv1"),
    ]


def test_no_table_of_a_notebook_tells_of_a_flag(tmp_path: Path) -> None:
    for record in (*records(), *layers(), *of_many_rows(tmp_path)):
        assert (type(record), _FLAG.findall(text_of(record))) == (type(record), [])


def test_the_same_tables_for_a_terminal_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convinspect.showing.notebook.for_python", nullcontext)
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
