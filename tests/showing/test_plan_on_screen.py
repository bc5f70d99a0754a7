"""`convert`'s listing: the counts first, and one row for what says the same, on a terminal and in a pipe."""

from __future__ import annotations

from pathlib import Path

import torch

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.job import prepare
from convinspect.converting.options import Options
from convinspect.render.style import BAD, QUIET
from convinspect.render.table import Styled, plain
from convinspect.showing.convert import plan_table
from support.program import run


def blocks(number: int) -> dict[str, torch.Tensor]:
    """Blocks of a pointwise layer and three that are left, for two reasons."""
    state = {f"b.{i}.pw.weight": torch.zeros(6, 4, 1) for i in range(number)}
    state |= {f"b.{i}.{name}.weight": torch.zeros(6, 4, 3) for i in range(number) for name in ("x", "odd")}
    return state | {f"b.{i}.wide.weight": torch.zeros(6, 4, 5) for i in range(number)}


def test_many_rows_are_one_for_each_block_and_each_reason(tmp_path: Path) -> None:
    state = {f"b.{i}.pw.weight": torch.zeros(6, 4, 1) for i in range(30)}
    state |= {f"b.{i}.{name}.weight": torch.zeros(6, 4) for i in range(30) for name in ("x", "odd")}
    state |= {f"b.{i}.emb.weight": torch.zeros(6, 4) for i in range(30)}
    torch.save(state, tmp_path / "a.pt")
    job = prepare(open_checkpoint(tmp_path / "a.pt"), Options("conv2d", ("linear", "conv1d"), dry_run=True))
    whole, screen = plan_table(job, every_row=True), plan_table(job)
    assert len(whole.rows) > 40
    assert len(screen.rows) < 6
    assert plain(screen.lead[0]).startswith("30 layers to convert")
    assert (whole.lead, whole.summary, screen.summary) == (screen.lead, (), ())
    assert any("--all" in plain(note) for note in screen.notes)
    assert not any("--all" in plain(note) for note in whole.notes)
    names = [plain(row[0]) for row in screen.rows]
    assert names[0] == "b.{0–29}.pw"
    assert plain(screen.rows[0][5]).startswith("×30")
    styles = {cell.style for row in whole.rows for cell in row[5:] if isinstance(cell, Styled)}
    assert QUIET in styles
    assert BAD not in styles


def test_from_a_dozen_rows_on_there_is_one_for_each_reason(tmp_path: Path) -> None:
    torch.save(blocks(5), tmp_path / "a.pt")
    job = prepare(open_checkpoint(tmp_path / "a.pt"), Options("linear", dry_run=True))
    rows = [(plain(row[0]), plain(row[5])) for row in plan_table(job).rows]
    assert [name for name, _ in rows[:5]] == [f"b.{i}.pw" for i in range(5)]
    assert [note for _, note in rows[5:]] == ["×10, its kernel size is 3, not 1", "×5, its kernel size is 5, not 1"]
    torch.save(blocks(2), tmp_path / "few.pt")
    job = prepare(open_checkpoint(tmp_path / "few.pt"), Options("linear", dry_run=True))
    assert plan_table(job) == plan_table(job, every_row=True)


def test_a_pipe_has_the_counts_first_too_and_machines_every_row(tmp_path: Path) -> None:
    torch.save(blocks(30), tmp_path / "a.pt")
    command = ("convert", tmp_path / "a.pt", "--to", "linear", "-n")
    piped = run(*command).stdout
    assert piped.index("30 layers to convert · 90 left") < piped.index("b.{0–29}.pw")
    assert len(piped.splitlines()) < 20
    every = run(*command, "--all").stdout
    assert every.index("30 layers to convert · 90 left") < every.index("b.29.pw")
    assert "b.29.wide" in every
    rows = run(*command, "--format", "csv").stdout.splitlines()
    assert len(rows) == 1 + 120
