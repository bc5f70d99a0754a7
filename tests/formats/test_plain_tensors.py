"""Tensors carried out as a whole leave behind what the machine's loop would have left."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from convinspect.errors import ConvInspectError
from convinspect.formats.pickle.machine import Machine, reader
from convinspect.formats.pickle.plain_tensors import PlainTensors
from convinspect.formats.pickle.values import Call, Dict, Global, Persistent, Set, Tuple
from support.sampling import some, times

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
    values = [*machine.stack, *machine.memo.values()]
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
    names = () if isinstance(node, list) else [name for name in node.__slots__ if name != "plain"]
    fields = [getattr(node, name) for name in names] or [node]
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
    last = list(state_dict(51).items())[-3:]
    # Other things in front, so that numbers of the memo take four bytes.
    data = pickle_of({"names": [f"name {number}" for number in range(250)], **dict(last)})
    start = data.index(b"layer.48") - 5
    for at in some(range(start, start + 190), 95):
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


def with_instructions(more: bytes) -> bytes:
    """A state_dict's pickle, with further instructions before its end that leave the stack as it is.

    Numbers 400 to 430 of the memo are parts of tensors; the many in front are names, which are read faster.
    """
    last = list(state_dict(60).items())[-20:]
    thing = {"names": [f"name {number}" for number in range(338)], **dict(last)}
    return pickle_of(thing).removesuffix(b".") + more + b"."


def fetched(number: int) -> bytes:
    return b"j" + number.to_bytes(4, "little")


def memorised(number: int) -> bytes:
    return b"r" + number.to_bytes(4, "little")


def test_parts_of_a_whole_tensor_can_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickler fetches what it wrote before: a storage's key, a size, a tensor. Each number of some tensors' memo."""
    data = with_instructions(b"]" + b"".join(fetched(number) + b"a" for number in range(400, 430)) + b"0")
    assert left_behind(data) == loop_alone(data, monkeypatch)


@pytest.mark.parametrize("value", [b"N", fetched(403), fetched(407), fetched(412)])
def test_a_slot_of_a_whole_tensor_can_be_written_over(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other slots keep the tensor's parts, whatever stands in this one."""
    for number in range(400, 417):
        seen = b"".join(fetched(each) + b"a" for each in range(398, 420))
        data = with_instructions(value + memorised(number) + b"0]" + seen + b"0")
        assert left_behind(data) == loop_alone(data, monkeypatch), number


@pytest.mark.parametrize("seed", range(times(10, 20)))
def test_random_state_dicts_are_read_alike(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of all lengths and letters, sizes of all ranks, ties, views, plain values between tensors."""
    random = Random(seed)
    made: list[torch.Tensor] = []
    state: dict[str, object] = {}
    for i in range(150):
        key = "".join(random.choices("abr.X_(\x7f\n é0", k=random.choice((1, 8, 30, 300)))) + str(i)
        kind = random.random()
        if kind < 0.1 and made:
            state[key] = random.choice(made)
        elif kind < 0.2 and made:
            state[key] = random.choice(made).t() if random.random() < 0.5 else random.choice(made)[:1]
        elif kind < 0.25:
            state[key] = random.choice((None, 3, "text", [1, 2], torch.nn.Parameter(torch.zeros(2))))
        else:
            shape = [random.choice((0, 1, 2, 40, 300)) for _ in range(random.choice((0, 1, 2, 2, 2)))]
            tensor = torch.zeros(shape, dtype=random.choice((torch.float32, torch.int64, torch.float16)))
            state[key] = tensor
            if tensor.dim() == 2 and len(tensor):
                made.append(tensor)
    data = pickle_of(state)
    assert left_behind(data) == loop_alone(data, monkeypatch)
