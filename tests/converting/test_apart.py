"""Numbers that move, and other views of the same storage."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest
import torch

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.moving import check_apart
from convinspect.errors import CannotConvert
from convinspect.records import Edit, Moved, Tensor


def test_views_that_share_a_number_with_one_that_moves_are_refused(tmp_path: Path) -> None:
    generator = random.Random(0)
    whole = torch.arange(120)
    state = {}
    for number in range(40):
        rows, columns, start = generator.randint(1, 4), generator.randint(1, 4), generator.randint(0, 90)
        state[f"t{number}"] = whole[start : start + rows * columns].view(rows, columns)
    torch.save(state, tmp_path / "views.pt")
    checkpoint = open_checkpoint(tmp_path / "views.pt")
    memory = {key: set(value.flatten().tolist()) for key, value in state.items()}
    for _ in range(60):
        moved = generator.sample(sorted(state), 2)
        edits = [_moving(checkpoint.tensors[key]) for key in moved]
        # What moves in the same way keeps its numbers together.
        alike = state[moved[0]].shape == state[moved[1]].shape
        still = [key for key in state if not (alike and key in moved)]
        shared = {(one, key) for one, key in product(moved, still) if one != key and memory[one] & memory[key]}
        if not shared:
            check_apart(checkpoint, edits)
            continue
        with pytest.raises(CannotConvert) as refused:
            check_apart(checkpoint, edits)
        assert any(f"of {one} would move, which {other} reads" in str(refused.value) for one, other in shared)


def test_many_moving_views_of_one_storage_take_no_time_each_with_all(tmp_path: Path) -> None:
    count = 3_000
    rows = torch.arange(4 * count).view(count, 2, 2)
    torch.save({f"t{number}": rows[number] for number in range(count)}, tmp_path / "views.pt")
    checkpoint = open_checkpoint(tmp_path / "views.pt")
    # Each with all would be nine million comparisons, half a minute.
    check_apart(checkpoint, [_moving(tensor) for tensor in checkpoint.tensors.values()])


def _moving(tensor: Tensor) -> Edit:
    return Edit(tensor, tensor.shape, tensor.stride, moved=Moved(tensor.shape, (1, 0)))
