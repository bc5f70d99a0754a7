"""Tensors carried out as a whole leave behind what the machine's loop would have left."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from convinspect.errors import ConvInspectError
from convinspect.formats.pickle.machine import Machine, reader
from convinspect.formats.pickle.plain_tensors import PlainTensors
from convinspect.formats.pickle.values import Call, Dict, Global, Persistent, Set, Tuple

FIXTURES = Path(__file__).parents[2] / "fixtures"


def pickle_of(thing: object) -> bytes:
    """The pickle in a file that `torch.save` writes."""
    file = io.BytesIO()
    torch.save(thing, file)
    return first_pickle(file)


def first_pickle(file: Any) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


def left_behind(data: bytes, storages: int = 100_000) -> tuple[object, ...]:
    """All that a machine has when the pickle is carried out or fails, as plain values."""
    machine, problem = Machine(storages), ""
    try:
        machine.carry_out(reader(data), 0, len(data))
    except ConvInspectError as error:
        problem = str(error)
    numbers: dict[int, int] = {}
    values = [*machine.stack, *machine.memo.slots, *machine.memo.others.values()]
    return (
        problem,
        [plain(value, numbers) for value in values],
        machine.starts,
        sorted(machine.memo.others),
        {name: (span.start, span.end) for name, span in machine.globals.items()},
        [plain(value, numbers) for parts in machine.persistent for value in parts],
        machine.left,
        machine.position,
        machine.rare,
    )


def plain(node: Any, numbers: dict[int, int]) -> object:
    """A node with its places; one that was met before as its number, so that sharing shows too."""
    if not isinstance(node, (Call, Dict, Global, Persistent, Set, Tuple, list)):
        return type(node).__name__, repr(node)
    if id(node) in numbers:
        return numbers[id(node)]
    numbers[id(node)] = len(numbers)
    fields = [node] if isinstance(node, list) else [getattr(node, name) for name in node.__slots__]
    return type(node).__name__, [
        [inside(item, numbers) for item in field] if isinstance(field, (list, tuple)) else inside(field, numbers)
        for field in fields
    ]


def inside(value: Any, numbers: dict[int, int]) -> object:
    if isinstance(value, tuple):
        return [inside(item, numbers) for item in value]
    return value.tolist() if hasattr(value, "tolist") else plain(value, numbers)


def state_dict(count: int = 120) -> dict[str, torch.Tensor]:
    """Many tensors of all ranks, so that numbers of the memo take four bytes."""
    shapes: list[tuple[int, ...]] = [(), (3,), (0, 2), (300, 2), (2, 3, 1), (2, 2, 3, 1), (1, 2, 1, 2, 1), (70000, 1)]
    return {f"layer.{i}.wéight": torch.zeros(shapes[i % len(shapes)]) for i in range(count)}


def things() -> dict[str, object]:
    plain_dict = state_dict()
    shared = torch.zeros(8, 8)
    base = torch.zeros(4, 100_000)
    return {
        "state_dict": plain_dict,
        "ordered": OrderedDict(plain_dict),
        "parameters": {name: torch.nn.Parameter(tensor) for name, tensor in plain_dict.items()},
        "ties": {**plain_dict, **{f"tied.{i}": shared for i in range(9)}},
        "views": {**plain_dict, "view": base[1:, 70_000:], "turned": base.t()},
        "nested": {"model": plain_dict, "epoch": 3, "optimizer": {"state": {0: state_dict(20)}}},
        "list": list(plain_dict.values()),
        "dtypes": {f"{i}": torch.zeros(2, 2, dtype=d) for i in range(60) for d in (torch.int64, torch.bfloat16)},
        "whole": torch.nn.Sequential(*(torch.nn.Conv2d(2, 2, 1) for _ in range(40))),
        "sparse": {**plain_dict, "sparse": torch.eye(3).to_sparse()},
    }


def loop_alone(data: bytes, monkeypatch: pytest.MonkeyPatch, **arguments: int) -> tuple[object, ...]:
    with monkeypatch.context() as patched:
        patched.setattr(PlainTensors, "take", lambda *_: None)
        return left_behind(data, **arguments)


@pytest.mark.parametrize("name", list(things()))
def test_a_whole_tensor_leaves_what_the_loop_leaves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes, places, memo, persistent ids and the count of work are the same."""
    data = pickle_of(things()[name])
    assert left_behind(data) == loop_alone(data, monkeypatch)


def test_most_tensors_of_a_state_dict_are_carried_out_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but scalars, which have no size, and those whose memo still has short numbers."""
    steps: list[int] = []
    take = PlainTensors.take

    def counted(*arguments: Any) -> Any:
        taken = take(*arguments)
        steps.append(taken.steps if taken else 0)
        return taken

    monkeypatch.setattr(PlainTensors, "take", counted)
    assert not left_behind(pickle_of(state_dict(800)))[0]
    assert sum(steps) > 0.7 * 800 * 28


def test_the_bound_on_work_is_met_at_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle that is out of proportion is refused by the same instruction."""
    data = pickle_of(state_dict())
    for most in (1_500, 1_501, 1_513, 1_530):
        monkeypatch.setattr("convinspect.formats.pickle.machine._MOST_STEPS", most + 4_000)
        found = left_behind(data, storages=0)
        assert "far more" in str(found[0])
        assert found == loop_alone(data, monkeypatch, storages=0)


def test_a_damaged_tensor_is_left_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte of some tensors changed, one at a time, and the stream cut behind each."""
    data = pickle_of(state_dict(60))
    start = data.index(b"layer.48") - 5
    for at in range(start, start + 250):
        for changed in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], data[:at] + b"(" + data[at:]):
            assert left_behind(changed) == loop_alone(changed, monkeypatch), at


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.pt")), ids=lambda path: path.name)
def test_fixtures_are_read_alike(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of all kinds, of which the small ones have short numbers in their memo."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        pickles = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
    for data in pickles:
        assert left_behind(data) == loop_alone(data, monkeypatch)
