"""Work grows with the number of tensors, not with its square: files that took a minute take a moment."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from convinspect.checkpoint import open_checkpoint
from convinspect.cli.main import app
from convinspect.layers import find_layers, select
from convinspect.load_errors import answer_error, read_error

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
    report = answer_error(checkpoint, read_error(text))
    assert time.process_time() - started < 5
    assert {one.fix for one in report.answers} == {"convert"}


def test_converting_like_a_file_of_many_tensors(tmp_path: Path) -> None:
    path, count = tmp_path / "many.safetensors", 20_000
    header = {
        f"layers.{i}.weight": {"dtype": "U8", "shape": [2, 2], "data_offsets": [4 * i, 4 * i + 4]} for i in range(count)
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4 * count))
    started = time.process_time()
    result = CliRunner().invoke(app, ["convert", str(path), "--like", str(path), "--dry-run"])
    assert time.process_time() - started < 12
    assert result.exit_code == 0
