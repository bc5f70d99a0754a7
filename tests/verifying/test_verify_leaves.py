"""What a model gives is compared part by part, whatever it is; what cannot be is named, and never called equal."""

from __future__ import annotations

import dataclasses
import decimal
import enum
import importlib
import json
import random
import sys
import types
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.verifying.model import ModelCheck, try_models
from convinspect.verifying.model_runs import RunOptions
from convinspect.verifying.pytree import leaves
from support.verifying import command


class Mode(enum.Enum):
    """An enumeration, as configurations have it."""

    FAST = 1


class Pair(NamedTuple):
    """A result as a named tuple."""

    a: Any
    b: Any


class Defined:
    """A result as `attrs` makes its classes, of which only the list of fields is asked for."""

    __attrs_attrs__ = (types.SimpleNamespace(name="y"), types.SimpleNamespace(name="label"))

    def __init__(self, y: torch.Tensor, label: str) -> None:
        self.y, self.label = y, label


@dataclasses.dataclass
class Result:
    """A result as a dataclass."""

    y: torch.Tensor
    label: str
    score: float


# ------------------------------------------------------------------------------------------------------ the parts


@pytest.mark.parametrize(
    ("value", "tensors", "plain", "other"),
    [
        (torch.ones(2), ["output"], {}, {}),
        (1.5, ["output"], {}, {}),
        (1 + 2j, ["output"], {}, {}),
        (3, [], {"output": 3}, {}),
        ("a", [], {"output": "a"}, {}),
        (None, [], {"output": None}, {}),
        ([1, [None, 2.0]], ["1.1"], {"0": 1, "1.0": None}, {}),
        ({"a": [], "b": {}, "c": ()}, [], {"a": list, "b": dict, "c": tuple}, {}),
        (Result(torch.ones(2), "cat", 0.5), ["y", "score"], {"label": "cat"}, {}),
        (Pair(torch.ones(1), b"x"), ["0"], {"1": b"x"}, {}),
        (OrderedDict(y=np.ones(3), n=np.int64(4), f=np.float32(1)), ["y", "n", "f"], {}, {}),
        (np.array(["a", None], object), [], {"shape.0": 2, "0": "a", "1": None}, {}),
        (deque([torch.ones(1)]), ["0"], {}, {}),
        (types.SimpleNamespace(y=torch.ones(1), mode=Mode.FAST), ["y"], {"mode": Mode.FAST}, {}),
        ({1: torch.ones(1), "1": torch.zeros(1)}, ["1", "1 (2)"], {}, {}),
        ((torch.float32, torch.device("cpu"), decimal.Decimal(1)), [],
         {"0": torch.float32, "1": torch.device("cpu"), "2": decimal.Decimal(1)}, {}),
        ({"b", "a"}, [], {"0": "a", "1": "b"}, {}),
        (torch.eye(2).to_sparse(), ["output"], {}, {}),
        (torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), ["0", "1"], {}, {}),
        ([random.Random(1), torch.ones(1)], ["1"], {}, {"0": "Random"}),
        ((one for one in "ab"), [], {}, {"output": "generator"}),
        (np.array([np.datetime64("2020-01-01")]), [], None, {}),
        (np.ones(2, np.longdouble), [], {}, {"output": "ndarray"}),
        (Defined(torch.ones(1), "cat"), ["y"], {"label": "cat"}, {}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_every_part_is_one_of_three(value: Any, tensors: list[str], plain: Any, other: dict[str, str]) -> None:
    found = leaves(value)
    assert list(found.tensors) == tensors
    assert plain is None or found.plain == plain
    assert found.other == other
    assert all(one.layout == torch.strided for one in found.tensors.values())


@pytest.mark.filterwarnings("ignore")
def test_quantized_numbers_are_what_they_stand_for() -> None:
    found = leaves(torch.quantize_per_tensor(torch.tensor([1.0, 2.2]), 0.5, 0, torch.qint8))
    assert found.tensors["output"].tolist() == [1.0, 2.0]


def test_what_holds_itself_ends() -> None:
    looped: list[Any] = []
    looped += [looped, torch.ones(1), looped]
    found = leaves(looped)
    assert (list(found.tensors), found.other) == (["1"], {"0": "list", "2": "list"})


# ------------------------------------------------------------------------------------------- two models' results

CODE = """
import enum, random, torch, numpy
from dataclasses import dataclass
from torch import nn
from convinspect.modules import swap_pointwise

@dataclass
class Result:
    y: torch.Tensor
    extra: object

EXTRA = {}

class Net(nn.Module):
    side = "before"
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 4, 1)
    def forward(self, x):
        y = self.conv(x)
        extra = EXTRA[self.side]
        return Result(y, extra(y) if callable(extra) else extra)

class Linear(Net):
    side = "after"
    def __init__(self):
        super().__init__()
        swap_pointwise(self)

class Odd(Net):
    def forward(self, x):
        return random.Random(1)
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Their module, and the two files that its models load."""
    (tmp_path / "code_of_leaves.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "code_of_leaves", raising=False)
    state = nn.Sequential(OrderedDict(conv=nn.Conv1d(6, 4, 1))).state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.save({key: one.squeeze(-1) for key, one in state.items()}, tmp_path / "b.pt")
    return importlib.import_module("code_of_leaves")


def tried(folder: Path, before: Any, after: Any) -> ModelCheck:
    importlib.import_module("code_of_leaves").EXTRA.update(before=before, after=after)
    trial = RunOptions("code_of_leaves:Net", "code_of_leaves:Linear", (torch.randn(2, 6, 5).double(),))
    return try_models(open_checkpoint(folder / "a.pt"), open_checkpoint(folder / "b.pt"), {"conv": "Linear"}, trial)


SAME: list[Any] = [
    3, "cat", None, [1, "a", [None]], {"n": 4, "deep": {"m": (1, 2)}}, np.arange(4), np.array(["a", "b"]), 1.5,
    float("nan"), True, b"x", {"a", "b"},
]  # fmt: skip


# Not by repr: workers must name the tests alike, and a set has no order.
@pytest.mark.parametrize("value", SAME, ids=lambda value: type(value).__name__)
@pytest.mark.usefixtures("code")
def test_equal_parts_of_any_kind_are_no_difference(tmp_path: Path, value: Any) -> None:
    found = tried(tmp_path, value, value)
    assert not found.cause
    assert not found.unread
    assert all(found.plain.values())


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        (3, 4, "extra differs: 3 became 4"),
        (1, True, "extra differs: 1 became True"),
        ("cat", "dog", "extra differs: 'cat' became 'dog'"),
        (None, 0, "extra differs: None became 0"),
        (["a", "b"], ["a", "c"], "extra.1 differs: 'b' became 'c'"),
        ([], (), "extra differs: list became tuple"),
        ([1], [1, 2], "the two models give different outputs: extra.1"),
        (None, [], "extra differs: None became list"),
        (1.5, 1.5000001, "extra differs by 1e-07"),
        (1.5, "1.5", "the two models give different outputs: extra"),
        (np.arange(3), np.array([0, 1, 3]), "extra differs by 1"),
        (np.array(["a"]), np.array(["b"]), "extra.0 differs"),
        (float("nan"), 1.0, "extra differs by inf"),
        ("x" * 99 + "a", "x" * 99 + "b", "extra differs"),
        ({1: 2}, {"1": 3}, "extra.1 differs: 2 became 3"),
    ],
)
@pytest.mark.usefixtures("code")
def test_parts_that_differ_are_named(tmp_path: Path, before: Any, after: Any, cause: str) -> None:
    assert tried(tmp_path, before, after).cause.startswith(cause)


@pytest.mark.usefixtures("code")
def test_floats_made_of_outputs_may_differ_by_rounding(tmp_path: Path) -> None:
    """A loss, as a Python float or in an array: it is the same sum in another order."""
    for make in (lambda y: y.sum().item(), lambda y: y.detach().numpy(), lambda y: [float(y.mean()), "mean"]):
        assert not tried(tmp_path, make, make).cause
    assert tried(tmp_path, lambda y: y.sum().item(), lambda y: y.sum().item() * (1 + 1e-9)).cause


def test_what_cannot_be_compared_is_named_and_not_called_equal(tmp_path: Path, code: Any) -> None:
    found = tried(tmp_path, random.Random(1), random.Random(2))
    assert (found.cause, found.unread) == ("", {"extra": "Random"})
    source = tmp_path / "code_of_leaves.py"
    source.write_text(source.read_text() + "\nEXTRA.update(before=random.Random(1), after=random.Random(2))\n")
    words = ("a.pt", "b.pt", "--model", "code_of_leaves:Net", "--model-after", "code_of_leaves:Linear", "-i", "2x6x5")
    status, payload = command(tmp_path, *words)
    assert (status, payload["strength"]) == (0, "model")
    assert payload["model"]["not_compared"] == [{"name": "extra", "kind": "Random"}]
    status, line = command(tmp_path, "a.pt", "b.pt", "--model", "code_of_leaves:Odd", "-i", "2x6x5")
    assert status == 2
    assert "gives no numbers to compare (it gives a Random)" in line
    assert json.dumps(payload)


def test_the_verdict_says_that_it_did_not_look() -> None:
    from convinspect.render.plain_table import lines
    from convinspect.showing.verify import verdict_table
    from convinspect.verifying.findings import Report

    check = ModelCheck({"y": (0.0, 1e-12)}, plain={"n": True}, unread={"dist": "Normal", "odd": "Own"})
    text = "".join(lines(verdict_table(Report("a", "b", model=check), ("a", "b"))))
    assert "equal as far as it was compared · strength: model" in text
    assert "model: not compared, for want of a way to: dist (a Normal), odd (an Own)" in text
    assert "model: 1 output of whole numbers, text and the like is equal" in text
