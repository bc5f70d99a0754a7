"""`diff` of random pairs of models against PyTorch: "loads" exactly where `load_state_dict(strict=True)` works. What it
promises of a command or of a line is carried out and comes true. `PAIRS=5000` runs more.
"""

from __future__ import annotations

import os
import shlex
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.diffing.checkpoints import diff
from convinspect.diffing.differences import DiffReport, Verdict
from convinspect.errors import ConvInspectError
from convinspect.showing.verdict import commands, pytorch_lines
from support.in_process import command
from support.pairs import State, drawn
from support.sampling import times

PAIRS = int(os.environ.get("PAIRS", times(120, 300)))
PARTS = 4


def loads(model: nn.Module, state: State) -> str:
    """Why PyTorch does not load it; "" if it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model.load_state_dict(state, strict=True)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return ""


def saved(folder: Path, state: State, model: nn.Module) -> bool:
    """Whether both sides could be written as they are; MaskedTensors, for one, warn and tied lazies may not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(state, folder / "a.pt")
        torch.save(model.state_dict(), folder / "b.pt")
    sides = [*state.values(), *model.state_dict().values()]
    return any(isinstance(value, torch.Tensor) for value in sides)


def carried_out(folder: Path, report: DiffReport) -> State:
    """A's state_dict after the commands and the lines that are given for it."""
    path = folder / "a.pt"
    for line in commands(report):
        words = shlex.split(line)
        done = command(folder, *words[1:])
        assert done.returncode == 0, (line, done.stderr)
        path = folder / words[words.index("-o") + 1]
    names: dict[str, Any] = {"sd": torch.load(path, weights_only=False)}
    for line in pytorch_lines(report):
        exec(line, names)
    state: State = names["sd"]
    return state


def judged(folder: Path, seed: int) -> str:
    """What is wrong with what `diff` says of a pair; "" if nothing is. Also which verdict it was, for the count."""
    state, model = drawn(seed)
    try:
        if not saved(folder, state, model()):
            return ""
        report = diff(open_checkpoint(folder / "a.pt"), open_checkpoint(folder / "b.pt"))
    except ConvInspectError as error:
        return "" if "holds no tensors" in str(error) else f"refused: {error}"
    why = loads(model(), state)
    if (report.verdict == Verdict.LOADS) != (not why):
        return f"{report.verdict}, {report.obstacles}; PyTorch: {why or 'loads'}"
    if report.verdict == Verdict.LOADS_AFTER_CONVERTING or report.loads_by_hand:
        after = carried_out(folder, report)
        still = loads(model(), after)
        if still:
            return f"promised, {commands(report)}, {pytorch_lines(report)}: {still}"
    elif report.verdict == Verdict.DOES_NOT_LOAD and (commands(report) or report.by_hand):
        left = loads(model(), carried_out(folder, report))
        if not left:
            return f"said not to load after {commands(report)}, {pytorch_lines(report)}: {report.obstacles}"
    return ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("share", range(PARTS))
def test_what_is_said_of_a_pair_is_what_pytorch_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = {}
    for seed in range(share, PAIRS, PARTS):
        if said := judged(tmp_path, seed):
            wrong[seed] = said
        for path in tmp_path.iterdir():
            path.unlink()
    assert not wrong, f"{len(wrong)} of {PAIRS // PARTS}: {dict(list(wrong.items())[:8])}"
