"""The pickle walker against the standard library's own unpickler."""

from __future__ import annotations

import io
import pickle
import pickletools
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convinspect.errors import BrokenFile, ConvInspectError
from convinspect.formats.pickle import machine as pickle_walk
from convinspect.formats.pickle.machine import reader, walk
from convinspect.formats.pickle.values import Blob, Call, Dict, OutOfBand, Persistent, Set, Tuple
from convinspect.formats.torch.tree import find_roots
from convinspect.records import Span, Storage, Tensor
from support.sampling import times

Dumps = Callable[[Any, int], bytes]

SOME, MANY = (settings(deadline=None, max_examples=count) for count in (times(30, 50), times(60, 250)))

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
NUMBERS = st.booleans() | st.integers() | st.integers(-(2**2100), 2**2100) | st.floats(allow_nan=False)
SCALARS = st.none() | NUMBERS | ANY_TEXT | st.binary(max_size=300)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(SCALARS, inner, max_size=5)
        | st.sets(SCALARS, max_size=5)
        | st.frozensets(SCALARS, max_size=5)
    ),
    max_leaves=30,
)
PROTOCOLS = st.integers(0, pickle.HIGHEST_PROTOCOL)


def c_dumps(value: Any, protocol: int) -> bytes:
    return pickle.dumps(value, protocol)


def python_dumps(value: Any, protocol: int) -> bytes:
    stream = io.BytesIO()
    pickle._Pickler(stream, protocol).dump(value)
    return stream.getvalue()


# What the pickler calls to make plain values in the protocols that have no instruction for them.
MAKERS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": str.encode,
    "builtins.set": frozenset,
    "builtins.frozenset": frozenset,
    "builtins.bytes": bytes,
    "builtins.bytearray": bytearray,
}


def strings_at(data: bytes) -> dict[int, Any]:
    """Every string argument by the offset of its first byte."""
    found = {}
    operations = list(pickletools.genops(data))
    ends = [position for _, _, position in operations[1:]] + [len(data)]
    for (opcode, value, position), end in zip(operations, ends, strict=True):
        if opcode.code in "BXT\x8d\x8e\x96":
            width = 4 if opcode.code in "BXT" else 8
            found[(position or 0) + 1 + width] = value
            assert end is not None
    return found


def rebuilt(node: Any, strings: dict[int, Any]) -> Any:
    """The tree back to plain values."""

    def each(items: Sequence[Any]) -> Iterator[Any]:
        return (rebuilt(item, strings) for item in items)

    if isinstance(node, list):
        return list(each(node))
    if isinstance(node, Tuple):
        return tuple(each(node.items))
    if isinstance(node, Dict):
        return {rebuilt(key, strings): rebuilt(value, strings) for key, value in node.pairs}
    if isinstance(node, Set):
        return frozenset(each(node.items))
    if isinstance(node, Blob):
        return strings[node.start]
    if isinstance(node, Call):
        return MAKERS[node.function.qualified](*each(node.args.items))
    return node


def exact(value: Any) -> Any:
    """A value that is equal only for the same types too: `True` is no `1`, `-0.0` no `0.0`."""
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [exact(item) for item in value]
    if isinstance(value, dict):
        return "dict", [(exact(key), exact(item)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return "set", sorted(repr(exact(item)) for item in value)
    return type(value).__name__, repr(value)


def tree(data: bytes) -> Any:
    found = walk(reader(data), 0, len(data))
    assert found.end == len(data)
    return found.value


@pytest.mark.parametrize("dumps", [c_dumps, python_dumps])
@given(value=VALUES, protocol=PROTOCOLS)
@SOME
def test_tree_is_what_pickle_loads(dumps: Dumps, value: Any, protocol: int) -> None:
    data = dumps(value, protocol)
    assert exact(rebuilt(tree(data), strings_at(data))) == exact(pickle.loads(data))


@pytest.mark.parametrize("dumps", [c_dumps, python_dumps])
@given(value=VALUES, protocol=PROTOCOLS)
@SOME
def test_shared_objects_are_one_node(dumps: Dumps, value: Any, protocol: int) -> None:
    shared = [value, "some text"]
    data = dumps({"a": shared, "b": (shared, [shared])}, protocol)
    (_, first), (_, pair) = tree(data).pairs
    assert first is pair.items[0]
    assert first is pair.items[1][0]


@pytest.mark.parametrize("dumps", [c_dumps, python_dumps])
@pytest.mark.parametrize("protocol", range(6))
def test_containers_inside_themselves(dumps: Dumps, protocol: int) -> None:
    inside: list[Any] = []
    inside.append((inside, {"again": inside}))
    node = tree(dumps(inside, protocol))
    assert node[0].items[0] is node
    assert node[0].items[1].pairs == [("again", node)]


@given(value=VALUES, protocol=PROTOCOLS, window=st.integers(16, 64), before=st.integers(0, 70))
@example(value="x" * 64, protocol=0, window=16, before=3)
@example(value={"é" * 40: b"b" * 17}, protocol=4, window=16, before=0)
@SOME
def test_result_does_not_depend_on_the_window(value: Any, protocol: int, window: int, before: int) -> None:
    data = c_dumps(["p" * before, value, bytearray(b"a" * window), value], protocol)
    expected = exact(pickle.loads(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle_walk, "_WINDOW", window)
        assert exact(rebuilt(tree(data), strings_at(data))) == expected


@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_do_not_depend_on_the_window(protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = real_pickle(protocol)
    expected = tensors_of(data)
    # From the longest string on: a name that is longer than the window would stay unread.
    for window in [*range(16, 66), 100, 255, 256, 300]:
        monkeypatch.setattr(pickle_walk, "_WINDOW", window)
        assert tensors_of(data) == expected


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("beyond", [-10, -6, -5, -1, 0, 1, 5000])
def test_long_strings_stay_unread(protocol: int, beyond: int) -> None:
    length = pickle_walk._WINDOW + beyond
    value = ["before", "t" * length, ["between"], b"b" * length, bytearray(b"c" * length), {"k": 1}, "after"]
    data = c_dumps(value, protocol)
    assert exact(rebuilt(tree(data), strings_at(data))) == exact(value)
    if beyond >= 0 and protocol == 5:
        assert sum(isinstance(item, Blob) for item in tree(data)) == 3


@pytest.mark.parametrize("window", [16, 1 << 20])
def test_memo_keeps_a_long_string(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_walk, "_WINDOW", window)
    text = "t" * (window + 7)
    node = tree(c_dumps([text, text], 2))
    assert isinstance(node[0], Blob)
    assert node[0] is node[1]


@given(st.lists(st.tuples(st.sampled_from("qrp\x94hjg"), st.integers(0, 6)), max_size=30))
@MANY
def test_memo_is_numbered_in_any_order(steps: list[tuple[str, int]]) -> None:
    data = [b"\x80\x04]("]
    known: set[int] = set()
    for value, (code, number) in enumerate(steps):
        put = code in "qrp\x94"
        if code == "\x94":
            number = len(known)
        if put:
            known.add(number)
        elif number not in known:
            continue
        text, wide = b"%d\n" % number, bytes([number, 0, 0, 0])
        argument = {"q": wide[:1], "h": wide[:1], "r": wide, "j": wide, "\x94": b""}.get(code, text)
        data += [bytes([ord("K"), value]) if put else b"", code.encode("latin-1"), argument]
    stream = b"".join([*data, b"e."])
    assert tree(stream) == pickle.loads(stream)


def test_stream_may_begin_anywhere_and_go_on() -> None:
    data = b"before" + c_dumps([1], 2) + c_dumps({"a": 2}, 4) + b"after"
    first = walk(reader(data), 6, len(data))
    second = walk(reader(data), first.end, len(data))
    assert first.value == [1]
    assert second.value.pairs == [("a", 2)]
    assert data[second.end :] == b"after"


def test_what_lies_outside_the_stream() -> None:
    data = pickle.dumps(pickle.PickleBuffer(b"x"), 5, buffer_callback=lambda _: False)
    assert isinstance(tree(data), OutOfBand)
    extension = tree(b"\x80\x02\x82\x07.")
    assert isinstance(extension, OutOfBand)


class Point:
    """Pickled by reference, and never looked up by the walker."""

    def __init__(self) -> None:
        self.x = 1


@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_records_of_calls(protocol: int) -> None:
    node = tree(pickle.dumps(Point(), protocol))
    assert isinstance(node, Call)
    assert [pair for state in node.states for pair in state.pairs] == [("x", 1)]
    names = walk(reader(pickle.dumps(OrderedDict(a=1), protocol)), 0, 10_000).globals
    assert list(names) == ["collections.OrderedDict"]


# --- spans


class _Unpickler(pickle.Unpickler):
    """The standard unpickler with stand-ins for torch's functions and storages."""

    def find_class(self, module: str, name: str) -> Any:
        return lambda *args: args

    def persistent_load(self, pid: Any) -> Any:
        return "storage"


def top_of_stack(data: bytes, end: int) -> Any:
    """What the standard unpickler holds on top after the instructions before `end`."""
    # Frames promise a length, so the rest of the stream must stay there.
    return _Unpickler(io.BytesIO(data[:end] + b"." + data[end:] + b"." * 16)).load()


def tensors_of(data: bytes) -> list[Tensor]:
    found = walk(reader(data), 0, len(data))
    roots = find_roots(found, lambda key, nbytes: Storage(Path("x"), key, nbytes, nbytes, 0))
    return [tensor for root in roots for tensor in root.tensors]


def pickle_of(value: object, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def check_spans(data: bytes, tensors: list[Tensor]) -> None:
    for tensor in tensors:
        for span, value in ((tensor.shape_span, tensor.shape), (tensor.stride_span, tensor.stride)):
            assert span is not None
            piece = data[span.start : span.end]
            assert top_of_stack(data, span.end) == value
            names = [opcode.name for opcode, _, _ in pickletools.genops(piece + b".")]
            if names != ["BINGET", "STOP"]:
                assert pickle.loads(without_frames(piece) + b".") == value


def without_frames(piece: bytes) -> bytes:
    """A frame may begin in the middle of a tuple."""
    starts = [(opcode.name, position or 0) for opcode, _, position in pickletools.genops(piece + b".")]
    ends = [position for _, position in starts[1:]]
    return b"".join(piece[at:end] for (name, at), end in zip(starts, ends, strict=False) if name != "FRAME")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@given(shapes=st.lists(st.lists(st.integers(0, 5) | st.just(300), max_size=5).filter(lambda s: s.count(300) < 2)))
@SOME
def test_spans_hold_the_size_and_the_stride(protocol: int, shapes: list[list[int]]) -> None:
    state = {str(index): torch.empty(shape) for index, shape in enumerate(shapes)}
    data = pickle_of(state, protocol)
    tensors = tensors_of(data)
    assert [tensor.shape for tensor in tensors] == [tuple(shape) for shape in shapes]
    check_spans(data, tensors)


def test_spans_over_many_frames() -> None:
    data = pickle_of({f"layer{index}." + "long" * 60: torch.empty(index, 3, 1) for index in range(900)}, 4)
    frames = [position or 0 for opcode, _, position in pickletools.genops(data) if opcode.name == "FRAME"]
    assert len(frames) > 2
    tensors = tensors_of(data)
    beside = [
        tensor for tensor in tensors if any(abs(at - (tensor.shape_span or Span(0, 0)).start) < 60 for at in frames)
    ]
    assert beside
    check_spans(data, beside + tensors[::200])


def test_spans_of_a_size_from_the_memo() -> None:
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x0ctQ"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    size, stride = b"K\x04K\x03K\x01\x87q\x09", b"K\x03K\x01K\x01\x87"
    first = b"X\x01\0\0\0a" + rebuild + b"(" + storage + b"K\0" + size + stride + b"\x89NtR"
    second = b"X\x01\0\0\0b" + rebuild + b"(" + storage + b"K\0h\x09" + stride + b"\x89NtR"
    # The stride is the last item here, and the same object as the size.
    third = b"X\x01\0\0\0c" + rebuild.replace(b"_v2", b"") + b"(" + storage + b"K\0h\x09h\x09tR"
    data = b"\x80\x02}(" + first + second + third + b"u."
    tensors = tensors_of(data)
    assert [tensor.shape for tensor in tensors] == [(4, 3, 1)] * 3
    assert tensors[2].stride == (4, 3, 1)
    check_spans(data, tensors)
    spans = [tensor.shape_span for tensor in tensors[1:]] + [tensors[2].stride_span]
    assert [data[span.start : span.end] for span in spans if span] == [b"h\x09"] * 3


# --- broken and hostile streams


def real_pickle(protocol: int) -> bytes:
    return pickle_of(torch.nn.Sequential(torch.nn.Conv1d(2, 3, 1), torch.nn.Linear(3, 2)).state_dict(), protocol)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("window", [16, 1 << 20])
def test_cut_anywhere(protocol: int, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_walk, "_WINDOW", window)
    data = real_pickle(protocol)
    for length in range(len(data)):
        with pytest.raises(BrokenFile):
            walk(reader(data[:length]), 0, length)


@pytest.mark.parametrize("data", [real_pickle(2), real_pickle(4), c_dumps([{"a": {1, 2}}, (b"x", Point())], 4)])
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
@MANY
def test_changed_bytes_give_a_tree_or_an_error(data: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(data)] = value
    with suppress(ConvInspectError):
        tensors_of(bytes(changed))


@given(st.binary(max_size=60))
@MANY
def test_any_bytes_give_a_tree_or_an_error(data: bytes) -> None:
    with suppress(BrokenFile):
        walk(reader(data), 0, len(data))


def test_persistent_ids_are_kept() -> None:
    found = walk(reader(real_pickle(2)), 0, 10_000)
    assert [parts[0] for parts in found.persistent] == ["storage"] * 4
    assert isinstance(tree(b"Psome id\n."), Persistent)


AUDITED = """
import sys
from pathlib import Path
from convinspect.formats import read_contents
seen = []
sys.addaudithook(lambda event, args: seen.append((event, str(args[:1]))))
for path in sys.argv[1:]:
    try:
        read_contents(Path(path))
    except Exception as error:
        assert "convinspect" in type(error).__module__, error
names = ("antigravity", "'this'", "webbrowser")
assert not {"antigravity", "this"} & set(sys.modules), sys.modules
assert not [text for event, text in seen if event == "import" and any(name in text for name in names)]
assert not [event for event, _ in seen if event in ("os.system", "subprocess.Popen", "pickle.find_class")]
assert [event for event, _ in seen if event == "open"], "the hook must see something"
"""


def test_nothing_is_imported_or_called(tmp_path: Path) -> None:
    calls = b"cantigravity\ngeohash\n(I1\nI2\ntR0cthis\ns\n0cos\nsystem\n(S'true'\ntR0"
    instances = b"(S'true'\nios\nsystem\n0(cposix\nsystem\nS'true'\no0"
    pickled = b"\x80\x02" + calls + instances + real_pickle(2)[2:]
    plain, legacy, zipped, folder = (tmp_path / name for name in ("plain.pkl", "legacy.pt", "zip.pt", "distributed"))
    folder.mkdir()
    plain.write_bytes(pickled)
    (folder / ".metadata").write_bytes(pickled)
    head = [c_dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    legacy.write_bytes(b"".join(head) + pickled + c_dumps([], 2))
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("zip/data.pkl", pickled)
    paths = [str(path) for path in (plain, legacy, zipped, folder)]
    done = subprocess.run([sys.executable, "-c", AUDITED, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
