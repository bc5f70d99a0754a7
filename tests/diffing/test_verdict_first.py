"""The verdict, then a row for each cause, then what to type: `diff` of hundreds of keys fits on a screen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from support.diffing import Holder, zeros
from support.in_process import command

LAYER: dict[str, tuple[int, ...]] = {
    "attn.q_proj.weight": (8, 8), "mlp.conv.weight": (16, 8, 1), "mlp.conv.bias": (16,)
}  # fmt: skip
SHAPES = {f"layers.{i}.{name}": shape for i in range(60) for name, shape in LAYER.items()} | {"head.weight": (10, 8)}
WANTED = {key: shape[:2] if key.endswith("conv.weight") else shape for key, shape in SHAPES.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.save({f"model.{key}": value for key, value in zeros(SHAPES).items()}, tmp_path / "a.pt")
    torch.save(zeros(WANTED | {"head.weight": (20, 8), "head.extra": (3,)}), tmp_path / "b.pt")
    return tmp_path


def test_the_verdict_leads_and_each_cause_has_a_row(folder: Path) -> None:
    said = command(folder, "diff", "a.pt", "b.pt", "--width", "120").stdout.splitlines()
    assert said[2].startswith("A will still not load: head.weight is (10, 8) in A and (20, 8) in B; head.extra is not")
    assert said[3] == '181 keys: prefix "model." in A only → rename'
    rows = [line.split() for line in said[7:10]]
    assert [row[:3] for row in rows] == [["60", "rank", "differs"], ["1", "shape", "differs"], ["1", "only", "in"]]
    assert "layers.{0–59}.mlp.conv.weight" in said[7]
    assert said[-1] == "  convinspect convert a.pt -o a_converted.pt --like b.pt --rename 'model.*=*'"
    assert "a row for each cause; --all lists every key" in said
    assert len(said) < 20


def test_all_and_machine_forms_have_every_key(folder: Path) -> None:
    every = command(folder, "diff", "a.pt", "b.pt", "--all").stdout
    assert every.count("mlp.conv.weight") == 60
    assert every.count("q_proj") == 60
    for fmt in ("csv", "md"):
        assert command(folder, "diff", "a.pt", "b.pt", "--format", fmt).stdout.count("rank differs") >= 60
    found = json.loads(command(folder, "diff", "a.pt", "b.pt", "--format", "json").stdout)
    assert len(found["tensors"]) == 62


@pytest.mark.parametrize("width", [60, 80])
def test_shapes_are_the_last_to_be_hidden(folder: Path, width: int) -> None:
    said = command(folder, "diff", "a.pt", "b.pt", "--width", str(width)).stdout
    assert "(16, 8, 1)" in said
    assert all(len(line) <= width for line in said.splitlines() if not line.startswith("  convinspect"))


def test_shapes_that_differ_within_a_cause_are_marked(tmp_path: Path) -> None:
    a = zeros({f"b{i}.x.weight": (i + 2, 4) for i in range(20)})
    torch.save(a, tmp_path / "a.pt")
    torch.save({key: torch.zeros(*value.shape, 1) for key, value in a.items()}, tmp_path / "b.pt")
    said = command(tmp_path, "diff", "a.pt", "b.pt", "--width", "120").stdout
    assert "(2, 4), …  (2, 4, 1), …" in said


def test_what_one_side_alone_has_is_told_apart_by_its_beginning(tmp_path: Path) -> None:
    both = zeros({f"body.{i}.weight": (4, 4) for i in range(9)})
    torch.save(both | zeros({f"old.{i}.bias": (4,) for i in range(9)}), tmp_path / "a.pt")
    torch.save(both | zeros({f"{name}.{i}.w": (4,) for name in ("new", "ema") for i in range(9)}), tmp_path / "b.pt")
    said = command(tmp_path, "diff", "a.pt", "b.pt", "--width", "120").stdout
    for row in ("9  only in A   old.{0–8}.bias", "9  only in B   new.{0–8}.w", "9  only in B   ema.{0–8}.w"):
        assert row in said


def test_an_error_of_hundreds_of_lines_has_a_row_for_each_cause(folder: Path) -> None:
    model = Holder(WANTED)
    with pytest.raises(RuntimeError) as failure:
        model.load_state_dict(torch.load(folder / "a.pt"))
    (folder / "e.txt").write_text(str(failure.value))
    said = command(folder, "diff", "a.pt", "--error", "e.txt", "--width", "120").stdout.splitlines()
    assert said[2].startswith("These faults are gone after renaming its keys")
    assert said[2:4] == [said[2], '181 keys: prefix "model." in A only → rename']
    assert [line.split()[0] for line in said[7:9]] == ["181", "181"]
    assert len(said) < 20
    every = command(folder, "diff", "a.pt", "--error", "e.txt", "--all").stdout
    assert len(every.splitlines()) > 362
