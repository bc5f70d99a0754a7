"""Work grows with the number of tensors, not with its square: files that took a minute take a moment."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from convinspect.checkpoint import open_checkpoint
from convinspect.cli.main import app
from convinspect.diffing.fixes import suggest_fixes
from convinspect.diffing.load_error import read_error
from convinspect.layers.find import find_layers
from convinspect.layers.select import select
from convinspect.modules import PointwiseLinear, swap_pointwise

LAYERS = 4_000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scale") / "many.pt"
    numbers = torch.zeros(4, 4, 1)
    torch.save({f"layers.{i}.weight": numbers.clone() for i in range(LAYERS)}, path)
    return path


def test_naming_each_of_many_layers(many: Path) -> None:
    layers = find_layers(open_checkpoint(many))
    started = time.process_time()
    assert len(select(layers, [layer.name for layer in layers])) == LAYERS
    assert time.process_time() - started < 2


def test_answering_an_error_of_many_lines(many: Path) -> None:
    text = "\n".join(
        f"size mismatch for layers.{i}.weight: copying a param with shape torch.Size([4, 4, 1]) from checkpoint, "
        "the shape in current model is torch.Size([4, 4])." for i in range(LAYERS)
    )  # fmt: skip
    checkpoint = open_checkpoint(many)
    started = time.process_time()
    report = suggest_fixes(checkpoint, read_error(text))
    assert time.process_time() - started < 5
    assert {one.fix for one in report.answers} == {"convert"}


def test_converting_like_a_file_of_many_tensors(tmp_path: Path) -> None:
    path, count = tmp_path / "many.safetensors", 10_000
    header = {
        f"layers.{i}.weight": {"dtype": "U8", "shape": [2, 2], "data_offsets": [4 * i, 4 * i + 4]} for i in range(count)
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4 * count))
    started = time.process_time()
    result = CliRunner().invoke(app, ["convert", str(path), "--like", str(path), "--dry-run"])
    assert time.process_time() - started < 6
    assert result.exit_code == 0


def tied(folder: Path, count: int) -> Path:
    path = folder / f"tied{count}.pt"
    numbers = torch.zeros(4, 4, 1)
    torch.save({f"layers.{i}.weight": numbers for i in range(count)}, path)
    return path


def steps_of(work: Callable[[], object]) -> int:
    """How many lines of Python a piece of work runs, each turn of a loop and each step of a generator anew."""
    count = 0

    def one_more(frame: object, event: str, argument: object) -> Any:
        nonlocal count
        count += 1
        return one_more

    before = sys.gettrace()
    sys.settrace(one_more)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "words",
    [
        ["shapes", "A"], ["shapes", "A", "--format", "json"], ["convert", "A", "--to", "linear", "--dry-run"],
        ["convert", "A", "-o", "B.safetensors", "--to", "linear"], ["verify", "A", "--bits"], ["diff", "A", "A"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_one_tensor_under_many_names(words: list[str], tmp_path: Path) -> None:
    """Twice the names make twice the work and twice the output, where each with each would make four times."""
    steps: list[int] = []
    written: list[int] = []
    for count in (150, 300):
        path = str(tied(tmp_path, count))
        filled = [
            path if word == "A" else str(tmp_path / f"{count}{word}") if word[0] == "B" else word for word in words
        ]
        if not steps:
            # What is done once, such as importing.
            CliRunner().invoke(app, filled)
            (tmp_path / f"{count}B.safetensors").unlink(missing_ok=True)
        results: list[Result] = []
        steps.append(steps_of(lambda: results.append(CliRunner().invoke(app, filled))))  # noqa: B023
        assert results[0].exit_code == 0
        written.append(len(results[0].output))
    assert steps[1] < 2.5 * steps[0]
    assert written[1] < 2.5 * written[0]


def test_a_weight_that_many_modules_share_swaps_in_linear_work() -> None:
    steps = []
    for count in (500, 1000):
        model = nn.Sequential(*(nn.Conv1d(4, 4, 1, bias=False) for _ in range(count)))
        for one in model:
            one.weight = model[0].weight
        steps.append(steps_of(lambda: swap_pointwise(model)))  # noqa: B023
        assert len({id(one.weight) for one in model}) == 1
        assert {type(one) for one in model} == {PointwiseLinear}
    assert steps[1] < 2.2 * steps[0]
