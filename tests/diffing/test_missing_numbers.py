"""A file can load strictly and bring no numbers: the verdict says so. The oracle is PyTorch, which loads zeros."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.serialization import skip_data

from support.in_process import command

KERNEL = (4, 3, 1)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def saved(path: Path, state: Any, skipped: bool = False) -> None:
    if not skipped:
        torch.save(state, path)
        return
    with skip_data():
        torch.save(state, path)


def asked(folder: Path, *words: str) -> tuple[str, dict[str, Any]]:
    """The verdict's line, and the JSON."""
    shown = command(folder, "diff", *words).stdout
    return shown.splitlines()[2], json.loads(command(folder, "diff", *words, "--format", "json").stdout)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("values", [(), ("--values",)])
def test_a_skipped_file_loads_zeros(tmp_path: Path, nested: bool, values: tuple[str, ...]) -> None:
    state = model().state_dict()
    saved(tmp_path / "a.pt", {"model": state} if nested else state, skipped=True)
    saved(tmp_path / "b.pt", state)
    fresh = model()
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    fresh.load_state_dict(loaded["model"] if nested else loaded)
    assert not fresh.state_dict()["0.weight"].any()
    line, data = asked(tmp_path, "a.pt", "b.pt", *values)
    assert "numbers are missing, it seems: 4 tensors would be zeros" in line
    assert (data["verdict"], data["numbers_missing"]) == ("loads", {"how": "unwritten", "tensors": 4})
    assert any("skip_data" in note for note in data["notes"])
    line, data = asked(tmp_path, "b.pt", "b.pt", *values)
    assert ("missing" in line, data["numbers_missing"]) == (False, None)


def test_a_promise_of_a_command_says_it_too(tmp_path: Path) -> None:
    state = model().state_dict()
    saved(tmp_path / "a.pt", state | {"0.weight": state["0.weight"].reshape(KERNEL)}, skipped=True)
    saved(tmp_path / "b.pt", state)
    line, data = asked(tmp_path, "a.pt", "b.pt")
    assert line.startswith("A will load after converting 1 layer")
    assert "numbers are missing" in line
    with pytest.raises(RuntimeError) as failure:
        model().load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    (tmp_path / "error.txt").write_text(str(failure.value))
    line, data = asked(tmp_path, "a.pt", "--error", "error.txt")
    assert "numbers are missing" in line
    assert data["numbers_missing"]["how"] == "unwritten"


def test_shapes_alone_load_into_shapes_alone(tmp_path: Path) -> None:
    with torch.device("meta"):
        saved(tmp_path / "a.pt", model().state_dict())
    line, data = asked(tmp_path, "a.pt", "a.pt")
    assert "of 4 tensors it has no numbers, only shapes (meta)" in line
    assert data["verdict"] == "loads"
    saved(tmp_path / "b.pt", model().state_dict())
    assert asked(tmp_path, "a.pt", "b.pt")[1]["verdict"] == "does not load"


def test_weights_that_were_not_gathered_are_named_on_either_side(tmp_path: Path) -> None:
    state = model().state_dict()
    emptied = {key: torch.zeros(0) if key == "0.weight" else value for key, value in state.items()}
    saved(tmp_path / "a.pt", emptied)
    saved(tmp_path / "b.pt", state)
    line, data = asked(tmp_path, "a.pt", "a.pt")
    assert "of 1 tensor it has no numbers, as ZeRO-3 saves" in line
    assert data["numbers_missing"] == {"how": "empty", "tensors": 1}
    shown = " ".join(command(tmp_path, "diff", "b.pt", "a.pt").stdout.split())
    assert "B's has no numbers, as DeepSpeed's ZeRO-3 saves" in shown
    assert "no reshaping" not in shown
    saved(tmp_path / "c.pt", {"buffer": torch.zeros(0)})
    assert asked(tmp_path, "c.pt", "c.pt")[1]["numbers_missing"] is None


def test_the_verdict_on_an_error_counts_what_the_error_does_not_name(tmp_path: Path) -> None:
    """Of a message that is cut, or of a loader that stops, other tensors are emptied too."""
    state = {key: torch.zeros(0) for key in model().state_dict()}
    saved(tmp_path / "a.pt", state)
    with pytest.raises(RuntimeError) as failure:
        model().load_state_dict(state)
    head, *lines = str(failure.value).splitlines()
    for told in (len(lines), 1):
        (tmp_path / "error.txt").write_text("\n".join([head, *lines[:told]]))
        line, data = asked(tmp_path, "a.pt", "--error", "error.txt")
        left = len(lines) - told
        assert (f"of {left} tensors it has no numbers" in line) is (left > 0)
        assert data["numbers_missing"] == ({"how": "empty", "tensors": left} if left else None)


def test_a_file_that_its_library_refuses_is_said_first(tmp_path: Path) -> None:
    header = json.dumps({"0.weight": {"dtype": "F4", "shape": [4, 3], "data_offsets": [0, 6]}}).encode()
    header += b" " * (-len(header) % 8)
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(6))
    text = (
        "size mismatch for 0.weight: copying a param with shape torch.Size([{}]) from checkpoint, the shape in current"
    )
    for shape in ("4, 3, 1", "4, 3"):
        lines = text.format(shape) + " model is torch.Size([4, 3])."
        (tmp_path / "error.txt").write_text(f"Error(s) in loading state_dict for Sequential:\n\t{lines}\n")
        line, data = asked(tmp_path, "a.safetensors", "--error", "error.txt")
        assert line.startswith(
            ("A will still not load: safetensors.torch does not load this file", "The error is about")
        )
        assert data["verdict"] == "does not load"
        assert data["obstacles"][0].startswith("safetensors.torch does not load this file")
        assert not data["same"]
