"""`weights` in this process: matrices, heatmaps and statistics of layers that not every file has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.arrays.equality import Related, owner_of, relation
from convinspect.checkpoint import open_checkpoint
from support.in_process import Ended, call_main, run_in_process
from support.paths import FIXTURES

Weights = Callable[..., Ended]


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weights:
    return lambda *words: run_in_process(monkeypatch, capsys, "weights", *words)


def test_complex_numbers_have_no_heatmap(tmp_path: Path, weights: Weights) -> None:
    torch.save({"c.weight": torch.ones(2, 3, 1, dtype=torch.complex64)}, tmp_path / "a.pt")
    ended = weights(tmp_path / "a.pt", "c", "--heatmap")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "a heatmap shows real numbers" in ended.err
    assert "1.0" in weights(tmp_path / "a.pt", "c").out


def test_statistics_of_a_normed_layer_are_those_of_its_effective_kernel(tmp_path: Path, weights: Weights) -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 1))
    torch.save(nn.ModuleDict({"c": model}).state_dict(), tmp_path / "a.pt")
    ended = weights(tmp_path / "a.pt", "--stats", "--format", "csv")
    assert ended.code == 0, ended.err
    header, row = (line.split(",") for line in ended.out.splitlines()[:2])
    found = dict(zip(header, row, strict=True))
    kernel = model.weight.detach().double()
    assert float(found["min"]) == pytest.approx(kernel.min().item(), rel=1e-6)
    assert float(found["std"]) == pytest.approx(kernel.std().item(), rel=1e-6)
    assert "of the effective kernel" in weights(tmp_path / "a.pt", "--stats").out


def test_a_large_matrix_is_elided_in_a_pipe_unless_a_slice_was_asked_for(tmp_path: Path, weights: Weights) -> None:
    torch.save({"c.weight": torch.ones(300, 400, 1)}, tmp_path / "a.pt")
    assert "⋮" in weights(tmp_path / "a.pt", "c").out
    assert "⋮" not in weights(tmp_path / "a.pt", "c", "--rows", "0:300").out
    assert len(weights(tmp_path / "a.pt", "c", "--format", "csv").out.splitlines()) == 301


# ------------------------------------------------------------------------------------------------- bits


def tensors(folder: Path, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    torch.save(state, folder / "bits.pt")
    return open_checkpoint(folder / "bits.pt").tensors


def test_the_owner_of_bits_is_named_unless_many_may_hold_them(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    thin, same, zeros = x.relu().to_sparse(), x.clone(), {"zero": torch.zeros(4), "o": torch.zeros(4)}
    found = tensors(tmp_path, {"x": x, "thin": thin, "y": same, **zeros})
    others = [(name, one) for name, one in found.items() if name != "x"]
    assert owner_of(found["x"], others) == "y", "one that has no plain numbers is passed over"
    assert owner_of(found["zero"], [("o", found["o"])]) is None
    assert owner_of(found["x"], [("zero", found["zero"])]) is None


def test_how_numbers_are_related_is_said_where_it_has_a_name(tmp_path: Path) -> None:
    square = torch.randn(5, 5)
    made = {
        Related(): square.T.contiguous(),
        Related(rows=True): square[[4, 0, 1, 2, 3]].contiguous(),
        Related(factor=0.5): square * 0.5,
        None: torch.randn(5, 5),
    }
    for expected, after in made.items():
        found = tensors(tmp_path, {"a": square, "b": after})
        assert relation(found["a"], found["b"]) == expected
    counts = tensors(tmp_path, {"a": torch.arange(6), "b": torch.arange(6) * 2})
    assert relation(counts["a"], counts["b"]) is None, "whole numbers have no factor"
    zeros = tensors(tmp_path, {"a": torch.zeros(6), "b": torch.ones(6)})
    assert relation(zeros["a"], zeros["b"]) is None


@pytest.mark.parametrize("name", ["pointnet_stnkd.pt", "convs.pt", "gpt2_names.pt", "attention_recurrent.pt"])
def test_without_a_name_the_layers_are_those_of_shapes(name: str) -> None:
    """Statistics and numbers are of the same layers, and a line says of which kinds others are."""
    path = FIXTURES / name
    listed = [layer["name"] for layer in json.loads(call_main("shapes", path, "--json").out)["layers"]]
    for more in (["--stats"], ["--rows", "0"]):
        shown = json.loads(call_main("weights", path, *more, "--json").out)
        assert [layer["name"] for layer in shown["layers"]] == listed
        missed = "not shown: " in call_main("shapes", path).out
        assert call_main("weights", path, *more).out.count("'*' names every layer") == missed
    assert "'*'" not in call_main("weights", path, "*", "--stats").out
