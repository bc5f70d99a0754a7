"""Two checkpoints side by side: what is told of each is what is told of it alone, from one pass over the numbers."""

from __future__ import annotations

from io import FileIO
from pathlib import Path

import numpy as np
import pytest
import torch

import convinspect
from convinspect.arrays import stats
from convinspect.diffing.checkpoints import diff
from convinspect.reporting.numbers import Numbers
from convinspect.reporting.pair import Pair, summarize_pair
from convinspect.reporting.room import PAGE
from convinspect.reporting.summary import Summary, summarize
from support.paths import FIXTURES

Reads = dict[str, int]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """How many bytes of numbers were read of each file."""
    counted: Reads = {}

    class Counted(FileIO):
        def readinto(self, into: memoryview) -> int | None:  # type: ignore[override]
            found = super().readinto(into)
            counted[Path(str(self.name)).name] = counted.get(Path(str(self.name)).name, 0) + (found or 0)
            return found

    monkeypatch.setattr("convinspect.arrays.storage.FileIO", Counted)
    return counted


def pair_of(a: Path, b: Path) -> Pair:
    return summarize_pair(convinspect.open(a), convinspect.open(b), True, PAGE)


def same_numbers(one: Summary, other: Summary) -> None:
    assert one.numbers.keys() == other.numbers.keys()
    for place, found in one.numbers.items():
        expected = other.numbers[place]
        if not isinstance(found, Numbers) or not isinstance(expected, Numbers):
            assert str(found) == str(expected)
            continue
        assert (found.stats, found.dead, found.notes) == (expected.stats, expected.dead, expected.notes)
        for x, y in ((found.norms, expected.norms), (found.picture, expected.picture)):
            assert (x is None) == (y is None)
            if x is not None and y is not None:
                np.testing.assert_equal(tuple(x), tuple(y))


MODELS = {
    "conv.weight": torch.randn(40, 30, 3),
    "fc.weight": torch.randn(300, 70),
    "fc.bias": torch.randn(300),
    "half.weight": torch.randn(64, 48).half(),
    "float8.weight": torch.randn(64, 48).to(torch.float8_e4m3fn),
    "flags.mask": torch.rand(50) > 0.5,
    "turned.weight": torch.randn(48, 64).t(),
    "last.weight": torch.randn(8, 6, 3, 3).to(memory_format=torch.channels_last),
    "odd.weight": torch.tensor([[0.0, -0.0, float("nan")], [float("inf"), 1.0, 2.0]]),
    "only_here.weight": torch.randn(5, 6),
}


def changed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Some of the numbers are others; a matrix is a kernel; one tensor is not there, and another dtype is."""
    new = {name: tensor.clone() for name, tensor in state.items() if name != "only_here.weight"}
    new["conv.weight"][3, 4, 1] += 1
    new["odd.weight"][0, 0] = -0.0
    new["fc.weight"] = new["fc.weight"].unsqueeze(-1)
    new["half.weight"] = new["half.weight"].float()
    new["last.weight"] = new["last.weight"].contiguous()
    return new


@pytest.mark.parametrize("large", [False, True])
def test_each_side_is_told_of_as_it_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    if large:
        monkeypatch.setattr(stats, "AT_ONCE", 100)
        monkeypatch.setattr(stats, "RUN", 500)
    torch.save(MODELS, tmp_path / "a.pt")
    torch.save(changed(MODELS), tmp_path / "b.pt")
    pair = pair_of(tmp_path / "a.pt", tmp_path / "b.pt")
    a, b = convinspect.open(tmp_path / "a.pt"), convinspect.open(tmp_path / "b.pt")
    same_numbers(pair.a, summarize(a))
    same_numbers(pair.b, summarize(b))
    facts = [(each.name, each.kind, each.deviation, each.relation) for each in diff(a, b, values=True).tensors]
    assert [(each.name, each.kind, each.deviation, each.relation) for each in pair.report.tensors] == facts


@pytest.mark.parametrize(
    "name", ["tied.pt", "weight_norm_old.pt", "gpt2_names.pt", "quantized.safetensors", "dtypes.pt"]
)
def test_fixtures_beside_themselves(name: str) -> None:
    pair = pair_of(FIXTURES / name, FIXTURES / name)
    alone = summarize(convinspect.open(FIXTURES / name))
    same_numbers(pair.a, alone)
    same_numbers(pair.b, alone)


def test_the_numbers_of_both_are_read_once(tmp_path: Path, reads: Reads) -> None:
    state = {name: MODELS[name] for name in ("conv.weight", "fc.weight", "fc.bias", "float8.weight", "last.weight")}
    torch.save(state, tmp_path / "a.pt")
    torch.save({**state, "fc.weight": state["fc.weight"] + 1, "more.weight": torch.randn(9, 8)}, tmp_path / "b.pt")
    pair_of(tmp_path / "a.pt", tmp_path / "b.pt")
    nbytes = {name: sum(t.nbytes for t in torch.load(tmp_path / name).values()) for name in ("a.pt", "b.pt")}
    assert reads == nbytes


def test_of_a_large_weight_of_16_bits_too(tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 32 bits is read twice, as statistics of it are."""
    monkeypatch.setattr(stats, "AT_ONCE", 100)
    for dtype, passes in ((torch.bfloat16, 1), (torch.float32, 2)):
        reads.clear()
        weight = torch.randn(700, 300).to(dtype)
        torch.save({"fc.weight": weight}, tmp_path / "a.pt")
        torch.save({"fc.weight": weight + 1}, tmp_path / "b.pt")
        pair_of(tmp_path / "a.pt", tmp_path / "b.pt")
        assert set(reads.values()) == {passes * weight.nbytes}


def test_progress_is_told_of_each_byte_once(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.randn(9, 8), "x.weight": torch.randn(5, 5)}, tmp_path / "a.pt")
    torch.save({"a.weight": torch.randn(9, 8)}, tmp_path / "b.pt")
    told: list[int] = []
    summarize_pair(convinspect.open(tmp_path / "a.pt"), convinspect.open(tmp_path / "b.pt"), True, PAGE, told.append)
    assert sum(told) == 4 * (2 * 72 + 25)
