"""A progress bar ends where its work does: what is told of it adds up to what was announced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from convinspect.cli import commands
from support.in_process import run_in_process


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with files of 4 MB: a convolution and the same as a Linear; and both with more beside it."""
    weight = torch.randn(1024, 1024, 1)
    linear = weight.squeeze(-1)
    torch.save({"conv.weight": weight}, tmp_path / "a.pt")
    torch.save({"conv.weight": linear}, tmp_path / "b.pt")
    tied = {"conv.weight": weight, "tied.weight": weight, "gone.weight": torch.zeros(1024, 1024)}
    torch.save({"model": tied, "ema": {"conv.weight": weight * 2}}, tmp_path / "roots.pt")
    left = {"conv.weight": linear, "tied.weight": linear}
    torch.save({"model": left, "ema": {"conv.weight": linear * 2}}, tmp_path / "roots_after.pt")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "a.pt", "b.pt"],
        ["verify", "a.pt", "b.pt", "--bits"],
        ["verify", "a.pt"],
        ["verify", "roots.pt", "roots_after.pt"],
        ["diff", "a.pt", "b.pt", "--values"],
        ["check", "a.pt", "--values"],
        ["weights", "a.pt", "--stats"],
        ["report", "a.pt", "-o", "a.html"],
        ["convert", "a.pt", "--to", "linear", "-o", "c.pt"],
    ],
    ids=" ".join,
)
def test_a_bar_reaches_its_end_and_goes_no_further(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(two)
    commands.load(words[0])
    told: list[tuple[int, int]] = []

    @contextmanager
    def noted(total: int, what: str) -> Iterator[Callable[[int], None]]:
        done: list[int] = []
        yield done.append
        told.append((sum(done), total))

    monkeypatch.setattr(sys.modules[f"convinspect.cli.{words[0]}"], "reading_progress", noted)
    assert run_in_process(monkeypatch, capsys, *words).code in (0, 1)
    # Layers are run behind comparing; each root is compared by itself.
    assert len(told) == {"verify": 2 - ("--bits" in words) + ("roots.pt" in words)}.get(words[0], 1)
    for done, total in told:
        assert done > 4_000_000
        # Beside the numbers a file has a few kilobytes.
        assert 0.99 <= done / total <= 1.0
