"""What is said of random models is what PyTorch says, what is written computes the same, what is verified is so.

`EVERY_CASE=1` draws 3,000, `python tests/oracle/draw.py` by hand as many as it is told, and tells what was seen.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from support.drawing import cases, patches, training
from support.drawing.leaves import LEAVES
from support.sampling import times

CASES = times(150, 3_000)
TRAININGS = CASES * 2 // 5
CHUNKS = 5


def _folder(parent: Path, seed: int) -> Path:
    folder = parent / str(seed)
    folder.mkdir()
    return folder


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_is_said_and_written_is_so(chunk: int, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for seed in range(chunk, CASES, CHUNKS):
        seen += cases.run(seed, _folder(tmp_path, seed))
    # A check that everything is refused by would hold too.
    assert seen["modules"] > seen["cases"]
    assert seen["conversions"] > seen["cases"] // 4
    assert seen["verified"] > seen["cases"] // 4


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_resumed_training_moves_as_the_run_that_went_on(chunk: int, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for seed in range(chunk, TRAININGS, CHUNKS):
        seen += training.run(seed, _folder(tmp_path, seed))
    assert seen["resumed"] > TRAININGS // CHUNKS // 8


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_patch_and_transposed_convolutions_are_what_they_are_said_to_be(chunk: int, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for seed in range(chunk, TRAININGS, CHUNKS):
        seen += patches.run(seed, _folder(tmp_path, seed))
    # Of 20 cases usually 4 to 12, and 4 to 9: a share with room below, since chance decides.
    assert seen["outputs compared"] > TRAININGS // CHUNKS // 16
    assert seen["the same bytes"] > TRAININGS // CHUNKS // 16


def test_convolutions_of_each_kind_are_compared(tmp_path: Path) -> None:
    kinds, seen = ("patches", "patches, channels last", "transposed"), Counter[str]()
    for seed in range(max(TRAININGS, 100)):
        seen += patches.run(seed, _folder(tmp_path, seed))
        if all(seen[kind] for kind in kinds):
            break
    assert all(seen[kind] for kind in kinds)


def test_all_kinds_of_leaves_are_drawn() -> None:
    assert len(LEAVES) >= 60
