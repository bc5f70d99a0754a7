"""Pickles that are seen by their bytes to differ in tensors' sizes alone, and those of which that is not certain."""

import io
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import convinspect
from convinspect.checkpoint import open_whole
from convinspect.formats.torch.objects import read_objects
from convinspect.verifying.objects import differences
from convinspect.verifying.same_pickles import same_but_sizes

_MARKED = "stands beside"


def _state(layers: int, kernel: tuple[int, ...]) -> dict[str, object]:
    state: dict[str, object] = {}
    for i in range(layers):
        state[f"convs.{i}.weight"] = torch.full((4, 3, *kernel), float(i))
        state[f"convs.{i}.bias"] = torch.zeros(4)
    return state


def _saved(path: Path, value: object, edit: Callable[[bytes], bytes] = lambda data: data, protocol: int = 2) -> Path:
    """The value as torch.save writes it, its pickle edited."""
    stream = io.BytesIO()
    torch.save(value, stream, pickle_protocol=protocol)
    with zipfile.ZipFile(stream) as read, zipfile.ZipFile(path, "w") as written:
        for name in read.namelist():
            data = read.read(name)
            written.writestr(name, edit(data) if name.endswith("data.pkl") else data)
    return path


def _same(before: Path, after: Path) -> bool:
    return same_but_sizes(open_whole(before), open_whole(after))


def _differ(before: Path, after: Path) -> int:
    """Of the trees, as they were always compared."""
    trees = [read_objects(path) for path in (before, after)]
    assert trees[0] is not None
    assert trees[1] is not None
    return differences(trees[0], trees[1], 5)[1]


@pytest.mark.parametrize("layers", [1, 2, 100])
@pytest.mark.parametrize("maker", ["convert", "torch"])
def test_conversions_are_seen_by_their_bytes(layers: int, maker: str, tmp_path: Path) -> None:
    before, after = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"model": _state(layers, (1,)), "epoch": 3, "names": ["weight", "the others"]}, before)
    if maker == "convert":
        convinspect.convert(before, after, to="linear")
    else:
        torch.save({"model": _state(layers, ()), "epoch": 3, "names": ["weight", "the others"]}, after)
    assert _same(before, after)
    assert _same(before, before)
    assert _differ(before, after) == 0
    assert convinspect.verify(before, after).equal


@pytest.mark.parametrize(
    "other",
    [
        {"epoch": 4, "text": "the same"},
        {"epoch": 3, "text": "the sane"},
        {"epoch": 3},
        {"epoch": 3, "text": "the same", "more": None},
        {"epoch": True, "text": "the same"},
    ],
)
def test_what_else_differs_is_told(other: dict[str, object], tmp_path: Path) -> None:
    before, after = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"model": _state(40, (1,)), "epoch": 3, "text": "the same"}, before)
    torch.save({"model": _state(40, ()), **other}, after)
    assert not _same(before, after)
    assert _differ(before, after)
    assert not convinspect.verify(before, after, bits=True).equal


def _memo_of(data: bytes, key: str, steps: int) -> int:
    """The memo's number of what is memorised so many times after a key is."""
    behind = [(op.name, arg) for op, arg, _ in pickletools.genops(data)]
    at = behind.index(("BINUNICODE", key))
    puts = [arg for name, arg in behind[at:] if name in ("BINPUT", "LONG_BINPUT")]
    number = puts[steps]
    assert isinstance(number, int)
    return number


def _fetching(key: str, steps: int) -> Callable[[bytes], bytes]:
    """An edit: the marked text becomes what the memo holds of a tensor."""

    def edit(data: bytes) -> bytes:
        number = _memo_of(data, key, steps)
        get = b"h" + bytes([number]) if number < 256 else b"j" + number.to_bytes(4, "little")
        raw = _MARKED.encode()
        start = data.index(b"X" + len(raw).to_bytes(4, "little") + raw)
        end = start + 5 + len(raw)
        end += 2 if data[end : end + 1] == b"q" else 5
        return data[:start] + get + data[end:]

    return edit


@pytest.mark.parametrize("steps", [3, 4, 6])
@pytest.mark.parametrize("layers", [3, 60])
def test_sizes_that_something_else_uses_too_are_told(layers: int, steps: int, tmp_path: Path) -> None:
    # Its last tensors' numbers in the memo take one byte, or four; size, stride and arguments are fetched again.
    key = f"convs.{layers - 1}.weight"
    edit = _fetching(key, steps)
    before = _saved(tmp_path / "a.pt", {"model": _state(layers, (1,)), "note": _MARKED}, edit)
    after = _saved(tmp_path / "b.pt", {"model": _state(layers, ()), "note": _MARKED}, edit)
    assert isinstance(torch.load(before, weights_only=False)["note"], tuple)
    assert _differ(before, after)
    assert not _same(before, after)
    assert not convinspect.verify(before, after, bits=True).equal


def test_a_tensor_that_stands_in_two_places_is_no_difference(tmp_path: Path) -> None:
    before, after = tmp_path / "a.pt", tmp_path / "b.pt"
    for path, kernel in ((before, (1,)), (after, ())):
        state = _state(50, kernel)
        torch.save({**state, "again.weight": state["convs.49.weight"]}, path)
    assert _same(before, after)
    assert _differ(before, after) == 0


@pytest.mark.parametrize("protocol", [2, 4])
def test_bytes_that_do_not_settle_it_are_left_to_the_trees(protocol: int, tmp_path: Path) -> None:
    before = _saved(tmp_path / "a.pt", _state(3, (1,)), protocol=protocol)
    after = _saved(tmp_path / "b.pt", _state(3, ()), protocol=protocol)
    # From protocol 4 on lengths of frames change with a size.
    assert _same(before, after) is (protocol == 2)
    assert convinspect.verify(before, after, bits=True).equal


def test_other_numbers_of_the_same_sizes_are_not_looked_at(tmp_path: Path) -> None:
    before, after = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"conv.weight": torch.zeros(4, 3, 1)}, before)
    torch.save({"conv.weight": torch.ones(4, 3)}, after)
    assert _same(before, after)
    assert not convinspect.verify(before, after, bits=True).equal
