"""Both containers of `torch.save` against `torch.load`: tensors, whole modules, and odd tensors."""

from __future__ import annotations

import pickle
import struct
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from convinspect.formats import read_contents
from convinspect.formats.pickle.safe_globals import classify_global
from convinspect.formats.torch.archive import USUAL_GLOBALS
from convinspect.records import Contents, Root, Tensor
from support.sampling import times

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SOME = settings(deadline=None, max_examples=times(40, 100), suppress_health_check=[HealthCheck.function_scoped_fixture])
CONTAINERS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])


def saved(folder: Path, value: object, zipped: bool = True, protocol: int = 2) -> Path:
    path = folder / "model.pt"
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return path


def flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested containers by its dotted path."""
    if isinstance(value, torch.Tensor):
        yield ".".join(path), value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from flat(item, (*path, str(index)))


def listed(contents: Contents) -> dict[str, Tensor]:
    """Every tensor that was found by its dotted path."""
    return {
        ".".join(part for part in (root.path, tensor.key) if part): tensor
        for root in contents.roots
        for tensor in root.tensors
    }


def facts(tensor: torch.Tensor) -> tuple[object, ...]:
    name = str(tensor.dtype).removeprefix("torch.")
    return name, tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.requires_grad


def recorded(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.shape, tensor.stride, tensor.offset, tensor.requires_grad


def check(path: Path, protocol: int = 2) -> Contents:
    """Compare all that was found with what PyTorch loads."""
    contents = read_contents(path)
    loaded = dict(flat(torch.load(path, weights_only=protocol < 4)))
    found = listed(contents)
    assert {key: recorded(tensor) for key, tensor in found.items()} == {k: facts(t) for k, t in loaded.items()}
    keys: dict[str, set[int]] = {}
    for key, tensor in found.items():
        storage, real = tensor.storage, loaded[key].untyped_storage()
        assert storage is not None
        assert (storage.nbytes, storage.available) == (real.nbytes(), real.nbytes())
        if storage.nbytes:
            keys.setdefault(storage.key, set()).add(real.data_ptr())
    # The same key means the same storage, and different ones different storages.
    assert all(len(places) == 1 for places in keys.values())
    assert len({place for places in keys.values() for place in places}) == len(keys)
    assert not contents.problems
    return contents


# --- tensors


OLD_DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]
OLD_DTYPES += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
# PyTorch writes these into the stream of before 1.6 too, but cannot load them from there.
NEW_DTYPES = [torch.complex32, torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2]
NEW_DTYPES += [torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2]

VIEWS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda x: x,
    lambda x: x.permute(*reversed(range(x.dim()))),
    lambda x: x[2:4, ::2] if x.dim() > 1 else x[1:],
    lambda x: x[0],
    lambda x: x[1:][None].expand(3, *x[1:].shape),
    lambda x: x.narrow(0, 1, x.shape[0] - 1),
    lambda x: x[:0],
    lambda x: x.flatten()[3],
    lambda x: x.as_strided((2, 2), (1, 1), 1),
    lambda x: x.unsqueeze(-1),
]


def base(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(*shape[:-1], shape[-1] * dtype.itemsize, dtype=torch.uint8).view(dtype)


@st.composite
def checkpoints(draw: st.DrawFn, dtypes: list[torch.dtype]) -> Any:
    """Nested containers whose tensors are views of a few shared storages."""
    shapes = st.lists(st.integers(4, 6), min_size=1, max_size=4)
    bases = [base(draw(shapes), draw(st.sampled_from(dtypes))) for _ in range(draw(st.integers(1, 4)))]

    def make(which: int, view: int, wrap: int) -> torch.Tensor:
        tensor = VIEWS[view](bases[which % len(bases)].detach())
        floating = tensor.is_floating_point() or tensor.is_complex()
        if wrap == 3:
            return nn.Parameter(tensor, requires_grad=floating)
        # PyTorch cannot load a bare tensor of the new dtypes that requires a gradient.
        return tensor.detach().requires_grad_(wrap == 2 and floating and tensor.dtype in OLD_DTYPES)

    tensors = st.builds(make, st.integers(0, 3), st.integers(0, len(VIEWS) - 1), st.integers(0, 3))
    keys = st.sampled_from(["weight", "bias", "state_dict", "net", "conv1", "running_mean", "x y"])
    # A number and its text are the same path.
    names = keys | st.integers(-2, 300)
    leaves = tensors | st.integers() | st.text(max_size=5) | st.none() | st.floats(allow_nan=False)
    containers = st.recursive(
        st.dictionaries(names, leaves, max_size=4),
        lambda inner: (
            st.dictionaries(names, inner | leaves, max_size=4)
            | st.dictionaries(names, inner | leaves, max_size=4).map(OrderedDict)
            | st.lists(inner | leaves, max_size=3)
            | st.lists(inner | leaves, max_size=3).map(tuple)
        ),
        max_leaves=12,
    )
    return draw(containers)


@given(value=checkpoints(OLD_DTYPES + NEW_DTYPES), protocol=st.integers(2, 5))
@SOME
def test_nested_checkpoints(tmp_path: Path, value: Any, protocol: int) -> None:
    check(saved(tmp_path, value, True, protocol), protocol)


@given(value=checkpoints(OLD_DTYPES), protocol=st.integers(2, 5))
@SOME
def test_nested_checkpoints_before_1_6(tmp_path: Path, value: Any, protocol: int) -> None:
    check(saved(tmp_path, value, False, protocol), protocol)


@CONTAINERS
@pytest.mark.parametrize("dtype", OLD_DTYPES + NEW_DTYPES, ids=str)
def test_every_dtype(tmp_path: Path, zipped: bool, dtype: torch.dtype) -> None:
    value = {"a": base([2, 4], dtype), "b": base([4, 4], dtype)[1:, ::2]}
    path = saved(tmp_path, value, zipped)
    found = listed(check(path) if zipped or dtype in OLD_DTYPES else read_contents(path))
    assert {key: recorded(tensor) for key, tensor in found.items()} == {key: facts(t) for key, t in value.items()}
    assert found["a"].nbytes == 8 * dtype.itemsize


@CONTAINERS
@pytest.mark.parametrize("value", [torch.ones(2, 3), [torch.ones(2)], (torch.ones(2), {"a": torch.ones(1)})])
def test_no_dictionary_at_the_top(tmp_path: Path, zipped: bool, value: object) -> None:
    check(saved(tmp_path, value, zipped))


@CONTAINERS
def test_many_tensors(tmp_path: Path, zipped: bool) -> None:
    # Over a megabyte of pickle, so that it is read in several windows; long names make it with fewer records.
    name = "encoder.layer{}." + "block." * 200 + "weight"
    state = {name.format(index): torch.empty(2, 3, 1, 1) for index in range(1000)}
    check(saved(tmp_path, state, zipped))


def test_records_without_a_checksum(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, {"a": torch.ones(2, 3)})
    finally:
        torch.serialization.set_crc32_options(True)
    check(path)


def test_stream_of_a_big_endian_machine(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.arange(6.0)}, zipped=False)
    little, big = b"little_endianq\x02\x88", b"little_endianq\x02\x89"
    assert little in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(little, big))
    found = check(path).roots[0].tensors[0]
    assert found.storage is not None
    # PyTorch stores this stream's numbers little-endian on every machine.
    assert found.storage.byteorder == "little"
    assert torch.equal(torch.load(path)["a"], torch.arange(6.0))


@CONTAINERS
def test_same_container_under_two_names(tmp_path: Path, zipped: bool) -> None:
    shared = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    check(saved(tmp_path, {"a": shared, "b": shared, "c": [shared["weight"]]}, zipped))


# --- odd tensors


SQUARE = torch.tensor([[1.0, 0, 2, 0], [0, 0, 3, 0], [0, 4, 0, 0], [5, 0, 0, 6]])
COMPLEX = torch.ones(4, 4, dtype=torch.complex64)
# name → how to make it, its layout's name
ODD: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "coo": (SQUARE.to_sparse, "sparse_coo"),
    "csr": (SQUARE.to_sparse_csr, "sparse_csr"),
    "csc": (SQUARE.to_sparse_csc, "sparse_csc"),
    "bsr": (lambda: SQUARE.to_sparse_bsr((2, 2)), "sparse_bsr"),
    "bsc": (lambda: SQUARE.to_sparse_bsc((2, 2)), "sparse_bsc"),
    "sparse parameter": (lambda: nn.Parameter(SQUARE.to_sparse()), "sparse_coo"),
    "per tensor": (lambda: torch.quantize_per_tensor(SQUARE, 0.1, 0, torch.qint8), "quantized"),
    "per channel": (
        lambda: torch.quantize_per_channel(SQUARE, torch.ones(4), torch.zeros(4), 0, torch.quint8),
        "quantized",
    ),
    "meta": (lambda: torch.empty(4, 6, device="meta").t(), "meta"),
    "conjugated": (COMPLEX.conj, "conjugated"),
    "negated": (lambda: COMPLEX.conj().imag, "negated"),
    "negated view": (lambda: COMPLEX.t().conj().imag[1:], "negated"),
}


@CONTAINERS
@pytest.mark.parametrize("name", ODD)
def test_odd_tensors(tmp_path: Path, zipped: bool, name: str) -> None:
    make, layout = ODD[name]
    tensor = make()
    (found,) = listed(read_contents(saved(tmp_path, {"odd": tensor}, zipped))).values()
    assert (found.key, found.shape, found.layout) == ("odd", tuple(tensor.shape), layout)
    assert found.dtype == str(tensor.dtype).removeprefix("torch.")
    if "sparse" not in layout:
        assert found.stride == tensor.stride()


class Marked(torch.Tensor):
    """A subclass as libraries make them."""


class MarkedParameter(nn.Parameter):
    """A parameter of its own class."""


@CONTAINERS
def test_subclasses(tmp_path: Path, zipped: bool) -> None:
    marked = torch.ones(2, 3).as_subclass(Marked)
    own = MarkedParameter(torch.ones(3))
    extra = torch.ones(4, 1)
    extra.note = "kept in the pickle"  # type: ignore[attr-defined]
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    value = {"marked": marked, "own": own, "extra": extra, "frozen": frozen, "buffer": nn.Buffer(torch.ones(1))}
    found = listed(read_contents(saved(tmp_path, value, zipped)))
    assert {key: (t.shape, t.requires_grad) for key, t in found.items()} == {
        key: (tuple(tensor.shape), tensor.requires_grad) for key, tensor in value.items()
    }
    assert [found[key].subclass for key in value] == [f"{__name__}.Marked", None, None, None, None]


@CONTAINERS
def test_tied_tensors_have_one_storage(tmp_path: Path, zipped: bool) -> None:
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    net[1].weight = net[0].weight
    for value in (net.state_dict(), net):
        first, second = listed(read_contents(saved(tmp_path, value, zipped))).values()
        assert first.storage == second.storage
        assert first.storage is not None


# --- whole modules


@contextmanager
def vanishing(source: str) -> Iterator[Any]:
    """A module `gone` that can be pickled inside the block and does not exist after it."""
    module = types.ModuleType("gone")
    sys.modules["gone"] = module
    try:
        exec(source, module.__dict__)
        yield module
    finally:
        del sys.modules["gone"]


NET = """
from torch import nn
class Net(nn.Module):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.depthwise = nn.Conv2d(4, 4, 3, stride=2, padding="same" if False else 1, groups=4, dilation=2)
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 4, 1, stride=3, padding="valid", bias=False)
        self.fc = nn.Linear(4, 2)
        self.block = Net.Block()
        self.blocks = nn.ModuleList([nn.Sequential(nn.ConvTranspose1d(4, 2, 3, output_padding=1, stride=2), nn.ReLU())])
        self.norm = nn.BatchNorm1d(4)
        self.again = self.fc
        self.names = {"a": [1, 2]}
        self.register_buffer("kept", nn.Parameter(self.fc.weight.detach() + 1, requires_grad=False).data)
        self.register_buffer("hidden", self.kept + 1, persistent=False)
        self.register_parameter("absent", None)
"""
HYPERPARAMETERS: tuple[str, ...] = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
)
HYPERPARAMETERS += ("in_features", "out_features", "num_embeddings", "output_padding", "padding_mode")

SHAPES_OF: dict[str, Callable[[nn.Module], object]] = {
    "alone": lambda net: net,
    "in a dictionary": lambda net: {"epoch": 3, "model": net},
    "in a list": lambda net: [net],
    "half": lambda net: net.half(),
    "parallel": nn.DataParallel,
    "evaluated": lambda net: net.eval().requires_grad_(False),
}


def check_module(root: Root, net: nn.Module) -> None:
    state = net.state_dict(keep_vars=True)
    assert {t.key: recorded(t) for t in root.tensors} == {key: facts(tensor) for key, tensor in state.items()}
    assert [tensor.key for tensor in root.tensors] == list(state)
    modules = dict(net.named_modules(remove_duplicate=False))
    assert list(root.modules) == list(modules)
    for name, module in modules.items():
        found = root.modules[name]
        assert found.class_name == f"{type(module).__module__}.{type(module).__qualname__}"
        for attribute in HYPERPARAMETERS:
            assert found.attributes.get(attribute) == getattr(module, attribute, None), (name, attribute)


@pytest.mark.parametrize(
    ("how", "zipped", "protocol"),
    # Each two of these values together once.
    [(how, zipped, (2, 4)[(at + zipped) % 2]) for at, how in enumerate(SHAPES_OF) for zipped in (True, False)],
)
def test_whole_module_without_its_class(tmp_path: Path, zipped: bool, protocol: int, how: str) -> None:
    with vanishing(NET) as gone:
        net = gone.Net()
        value = SHAPES_OF[how](net)
        path = saved(tmp_path, value, zipped, protocol)
        expected = value if isinstance(value, nn.Module) else net
    contents = read_contents(path)
    (root,) = contents.roots
    assert root.path == {"in a dictionary": "model", "in a list": "0"}.get(how, "")
    check_module(root, expected)
    assert "gone.Net" in contents.foreign
    assert "gone" not in sys.modules
    assert not contents.problems


@CONTAINERS
def test_module_of_torch(tmp_path: Path, zipped: bool) -> None:
    net = nn.Sequential(
        OrderedDict(a=nn.Conv3d(2, 4, 1, groups=2), b=nn.Embedding(3, 2), c=nn.GRU(2, 3), d=nn.Identity())
    )
    contents = read_contents(saved(tmp_path, net, zipped))
    check_module(contents.roots[0], net)
    assert contents.foreign == ()


def test_module_holds_itself(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 3))
    net.parents = [net]  # type: ignore[assignment]
    check_module(read_contents(saved(tmp_path, net)).roots[0], net)


# --- Python 2


def python_2_pickle() -> bytes:
    """`OrderedDict([['conv.weight', tensor], ['conv.bias', tensor]])`, as Python 2 wrote it at protocol 2."""

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    def tensor(key: str, numel: int, size: bytes, stride: bytes) -> bytes:
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + b"K" + bytes([numel])
        return b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"NtQK\0" + size + stride + b"tR"

    first = b"](" + text("conv.weight") + tensor("1", 6, b"K\x02K\x03K\x01\x87", b"K\x03K\x01K\x01\x87") + b"e"
    second = b"](" + text("conv.bias") + tensor("2", 2, b"K\x02\x85", b"K\x01\x85") + b"e"
    return b"\x80\x02ccollections\nOrderedDict\n](" + first + second + b"e\x85R."


def test_python_2_stream(tmp_path: Path) -> None:
    facts_of_system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, facts_of_system)]
    payload = struct.pack("<q6f", 6, *range(6)) + struct.pack("<q2f", 2, 7, 8)
    path = tmp_path / "python2.pth"
    path.write_bytes(b"".join(head) + python_2_pickle() + pickle.dumps(["1", "2"], 2) + payload)
    (root,) = read_contents(path).roots
    loaded = torch.load(path, weights_only=False)
    assert [(t.key, t.shape, t.stride) for t in root.tensors] == [
        (key, tuple(tensor.shape), tensor.stride()) for key, tensor in loaded.items()
    ]
    assert list(loaded) == ["conv.weight", "conv.bias"]


@pytest.mark.parametrize("name", sorted(USUAL_GLOBALS))
def test_what_is_passed_over_unjudged_is_admitted(name: str) -> None:
    """Names that are not looked up in the lists of what a name does are ones that safe loading takes."""
    assert classify_global(name).kind == "admitted"
