"""`convert`'s listing on a terminal: the counts first, and one row for what says the same; a pipe has every row."""

from __future__ import annotations

from pathlib import Path

import torch

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.job import prepare
from convinspect.converting.options import Options
from convinspect.render.style import BAD, QUIET
from convinspect.render.table import Styled, plain
from convinspect.report.convert import plan_table


def test_many_rows_are_one_for_each_block_and_each_reason(tmp_path: Path) -> None:
    state = {f"b.{i}.pw.weight": torch.zeros(6, 4, 1) for i in range(30)}
    state |= {f"b.{i}.{name}.weight": torch.zeros(6, 4) for i in range(30) for name in ("x", "odd")}
    state |= {f"b.{i}.emb.weight": torch.zeros(6, 4) for i in range(30)}
    torch.save(state, tmp_path / "a.pt")
    job = prepare(open_checkpoint(tmp_path / "a.pt"), Options("conv2d", ("linear", "conv1d"), dry_run=True))
    whole, screen = plan_table(job), plan_table(job, on_screen=True)
    assert len(whole.rows) > 40
    assert len(screen.rows) < 6
    assert plain(screen.lead[0]).startswith("30 layers to convert")
    assert (whole.lead, plain(whole.summary[0])) == ((), plain(screen.lead[0]))
    names = [plain(row[0]) for row in screen.rows]
    assert names[0] == "b.{0–29}.pw"
    assert plain(screen.rows[0][5]).startswith("×30")
    styles = {cell.style for row in whole.rows for cell in row[5:] if isinstance(cell, Styled)}
    assert QUIET in styles
    assert BAD not in styles
