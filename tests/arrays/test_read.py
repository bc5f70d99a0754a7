"""Values read from files, against PyTorch: every dtype, stride, byte order and container."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convinspect.arrays import read as read_module
from convinspect.arrays import storage as storage_module
from convinspect.arrays.read import ML_DTYPES, NUMPY, Array, numpy_dtype, read_blocks, read_tensor
from convinspect.arrays.storage import Fetch
from convinspect.errors import BrokenFile, CannotShow, NotThere, RefusedFile
from convinspect.records import Storage, Tensor
from support.sampling import times

DTYPES = sorted(NUMPY | ML_DTYPES | {"complex32"})
BEFORE = 13
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning")


def random_bits(dtype: str, *shape: int) -> torch.Tensor:
    """Every bit pattern may occur, NaN and Inf too; the same ones each time."""
    torch.manual_seed(0)
    kind: torch.dtype = getattr(torch, dtype)
    if kind == torch.bool:
        return torch.randint(0, 2, shape) == 1
    if kind == torch.complex32:
        # It is widened for numpy, and which bits of a NaN survive that is no one's promise.
        return torch.randn(shape, dtype=torch.complex64).to(kind)
    return torch.randint(0, 256, (*shape, kind.itemsize), dtype=torch.uint8).view(kind).reshape(shape)


def record(values: torch.Tensor, storage: Storage | None) -> Tensor:
    name = str(values.dtype).removeprefix("torch.")
    return Tensor("w", name, tuple(values.shape), values.stride(), int(values.storage_offset()), storage)


def written(file: Path, values: torch.Tensor, byteorder: str = "little") -> Tensor:
    """The storage's bytes in a file, a few others around them, and the record that describes it."""
    raw = torch.empty(0, dtype=torch.uint8).set_(values.untyped_storage()).clone()
    if byteorder != sys.byteorder:
        raw.untyped_storage().byteswap(values.dtype)  # type: ignore[no-untyped-call]
    size = raw.numel()
    file.write_bytes(b"\xff" * BEFORE + raw.numpy().tobytes() + b"\xff" * 7)
    return record(values, Storage(file, "0", size, size, BEFORE, byteorder=byteorder))


def zipped(file: Path, values: torch.Tensor, deflated: bool = False) -> Tensor:
    """`values` saved by PyTorch, its zip packed anew when it shall be deflated."""
    torch.save(values, file)
    if deflated:
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    with zipfile.ZipFile(file) as archive:
        (member,) = (m for m in archive.infolist() if m.filename.endswith("data/0"))
    size, packed = member.file_size, member.compress_size if deflated else None
    storage = Storage(file, "data/0", size, size, member.header_offset, True, packed, member.CRC)
    return record(values, storage)


def torch_bytes(values: torch.Tensor) -> bytes:
    if values.dtype == torch.complex32:
        values = values.to(torch.complex64)
    if values.numel() == 0:
        return b""
    return values.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()


def check(tensor: Tensor, values: torch.Tensor) -> None:
    """`read_tensor` gives what PyTorch has, and `read_blocks` gives each element once."""
    ours = read_tensor(tensor)
    assert ours.shape == tuple(values.shape)
    assert ours.dtype == numpy_dtype(tensor.dtype, sys.byteorder)
    assert ours.tobytes() == torch_bytes(values)
    parts = [block.copy() for block in read_blocks(tensor, 5)]
    assert all(0 < part.size <= 5 for part in parts)
    assert elements(parts) == elements([ours.reshape(-1)])


def elements(parts: Iterable[Array]) -> list[bytes]:
    return sorted(element.tobytes() for part in parts for element in part)


def damage(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_in_both_byte_orders(tmp_path: Path, dtype: str, byteorder: str) -> None:
    values = random_bits(dtype, 6, 5)
    for view in (values, values[2:4, ::2], values.t()):
        check(written(tmp_path / "a", view, byteorder), view)


def test_dtypes_are_the_libraries_own() -> None:
    assert numpy_dtype("float32", "big") == np.dtype(">f4")
    assert numpy_dtype("bfloat16", sys.byteorder) == np.dtype(ml_dtypes.bfloat16)
    assert numpy_dtype("complex32", sys.byteorder) == np.complex64
    foreign = "big" if sys.byteorder == "little" else "little"
    with pytest.raises(CannotShow, match="bfloat16"):
        numpy_dtype("bfloat16", foreign)


@pytest.mark.parametrize("dtype", ["quint8", "qint8", "qint32", "quint4x2", "float4_e2m1fn_x2", "bits8", "no"])
def test_dtypes_without_a_reading_are_named(tmp_path: Path, dtype: str) -> None:
    tensor = (written(tmp_path / "a", torch.zeros(4, dtype=torch.uint8)))._replace(dtype=dtype)
    for function in (read_tensor, lambda t: list(read_blocks(t))):
        with pytest.raises(CannotShow, match=dtype):
            function(tensor)


BASE = torch.arange(4 * 6 * 5, dtype=torch.float32).reshape(4, 6, 5)
VIEWS = {
    "whole": BASE,
    "x[2:4, ::2]": BASE[2:4, ::2],
    "offset": BASE[1, 2:, 3],
    "transposed": BASE.transpose(0, 2),
    "permuted slice": BASE.permute(2, 0, 1)[1:4, :, ::3],
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "1×1 channels last": torch.randn(4, 3, 1, 1).to(memory_format=torch.channels_last),
    "expanded": torch.arange(3.0)[:, None].expand(3, 4),
    "expanded scalar": torch.tensor(2.5).expand(2, 3),
    "expanded slice": BASE[:, :1, ::2].expand(4, 7, 3),
    "overlapping": torch.arange(13.0).as_strided((6, 4), (1, 2), 1),
    "sliding window": torch.arange(10.0).unfold(0, 4, 1),
    "diagonal": BASE[0].as_strided((4,), (6,)),
    "0-d": torch.tensor(3.5),
    "0-d of many": BASE[3, 5, 4],
    "empty": torch.empty(0),
    "empty with sizes": BASE[:, 2:2],
    "one element": torch.ones(1, 1, 1),
}


@pytest.mark.parametrize("container", ["bytes", "big-endian bytes", "zip", "deflated zip"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_in_every_container(tmp_path: Path, view: str, container: str) -> None:
    values, file = VIEWS[view], tmp_path / "a"
    if "zip" in container:
        tensor = zipped(file, values, deflated="deflated" in container)
    else:
        tensor = written(file, values, "big" if "big" in container else "little")
    check(tensor, values)


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of any dtype after a few indexings."""
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    values = random_bits(draw(st.sampled_from(DTYPES)), *shape)
    for _ in range(draw(st.integers(0, 4))):
        if values.ndim == 0:
            values = values.expand(draw(st.integers(1, 4)))
            continue
        axis = draw(st.integers(0, values.ndim - 1))
        size = values.shape[axis]
        action = draw(st.sampled_from(["slice", "swap", "select", "expand"]))
        if action == "slice":
            start = draw(st.integers(0, size))
            index = slice(start, draw(st.integers(start, size)), draw(st.integers(1, 3)))
            values = values[(slice(None),) * axis + (index,)]
        elif action == "swap":
            values = values.transpose(axis, draw(st.integers(0, values.ndim - 1)))
        elif action == "select" and size:
            values = values.select(axis, draw(st.integers(0, size - 1)))
        elif action == "expand":
            values = values.unsqueeze(axis)
            values = values.expand(*values.shape[:axis], draw(st.integers(1, 3)), *values.shape[axis + 1 :])
    return values


@settings(max_examples=times(40, 100), deadline=None)
@given(values=views(), byteorder=st.sampled_from(["little", "big"]))
def test_any_view_reads_as_in_torch(
    tmp_path_factory: pytest.TempPathFactory, values: torch.Tensor, byteorder: str
) -> None:
    check(written(tmp_path_factory.getbasetemp() / "any", values, byteorder), values)


@settings(max_examples=times(40, 100), deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    strides=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    offset=st.integers(0, 5),
)
def test_any_strides_read_as_in_torch(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], strides: list[int], offset: int
) -> None:
    values = torch.arange(100, dtype=torch.int16).as_strided(shape, strides[: len(shape)], offset)
    check(written(tmp_path_factory.getbasetemp() / "strides", values), values)


def test_a_wide_span_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch_bytes(fetch: Fetch, storage: Storage, begin: int, size: int) -> Array:
        fetched.append(size)
        return storage_module.fetch_bytes(fetch, storage, begin, size)

    monkeypatch.setattr(read_module, "SPAN", 64)
    monkeypatch.setattr(read_module, "fetch_bytes", fetch_bytes)
    base = torch.arange(3000.0).reshape(30, 100)
    for deflated in (False, True):
        for view in (base[:, ::7], base[::2], base.t()[3:5], base[:, 5]):
            check(zipped(tmp_path / "a", view, deflated), view)
    assert max(fetched) <= 64


def test_blocks_are_bounded_and_reuse_their_buffer(tmp_path: Path) -> None:
    values = torch.arange(100_000.0)
    tensor = written(tmp_path / "a", values)
    seen = [(block.size, block.ctypes.data) for block in read_blocks(tensor, 1 << 12)]
    assert max(size for size, _ in seen) == 1 << 12
    assert len({address for _, address in seen}) == 1
    assert sum(size for size, _ in seen) == 100_000


def test_values_can_be_changed_without_changing_the_file(tmp_path: Path) -> None:
    tensor = written(tmp_path / "a", torch.ones(2, 2))
    read_tensor(tensor)[:] = 5
    assert read_tensor(tensor).tolist() == [[1, 1], [1, 1]]


# What is refused


def test_shapes_only(tmp_path: Path) -> None:
    tensor = written(tmp_path / "a", torch.ones(3))
    assert tensor.storage is not None
    for storage in (None, tensor.storage._replace(start=None)):
        with pytest.raises(CannotShow, match="only its shape"):
            read_tensor(tensor._replace(storage=storage))
    with pytest.raises(CannotShow, match="sparse_coo"):
        read_tensor(tensor._replace(layout="sparse_coo"))
    with pytest.raises(CannotShow, match="40 dimensions"):
        read_tensor(tensor._replace(shape=(1,) * 40, stride=(1,) * 40))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (4,)},
        {"offset": 1},
        {"stride": (2,)},
        {"offset": -1},
        {"stride": (-1,)},
        {"shape": (-3,)},
        {"shape": (3, 1)},
        {"shape": (10**12,), "stride": (0,)},
        {"shape": (10**6, 10**6, 3), "stride": (0, 0, 1)},
        {"shape": (10**1000,), "stride": (0,)},
        {"shape": (0, 2**47, 2**47), "stride": (1, 1, 1)},
    ],
    ids=str,
)
def test_a_hostile_shape_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    tensor = (written(tmp_path / "a", torch.ones(3)))._replace(**change)  # type: ignore[arg-type]
    for function in (read_tensor, lambda t: next(read_blocks(t), None)):
        with pytest.raises(RefusedFile) as caught:
            function(tensor)
        assert caught.value.path == tmp_path / "a"


def test_an_honest_expand_is_read(tmp_path: Path) -> None:
    values = torch.ones(1).expand(1 << 20)
    assert read_tensor(written(tmp_path / "a", values)).sum() == 1 << 20


@pytest.mark.parametrize("start", [-5, 1 << 70])
def test_a_hostile_place_is_refused(tmp_path: Path, start: int) -> None:
    tensor = written(tmp_path / "a", torch.ones(3))
    assert tensor.storage is not None
    with pytest.raises(RefusedFile, match="claims to lie"):
        read_tensor(tensor._replace(storage=tensor.storage._replace(start=start)))


# What is broken


def test_a_cut_file_says_how_much_is_there(tmp_path: Path) -> None:
    tensor = written(tmp_path / "a", torch.arange(100.0))
    assert tensor.storage is not None
    cut = tensor._replace(storage=tensor.storage._replace(available=120))
    with pytest.raises(BrokenFile, match="only 120 of its 400 bytes are in the file; download or copy"):
        read_tensor(cut)
    assert read_tensor(cut._replace(shape=(30,))).tolist() == list(range(30))


@pytest.mark.parametrize("deflated", [False, True])
def test_a_file_cut_after_it_was_listed(tmp_path: Path, deflated: bool) -> None:
    file = tmp_path / "a"
    tensor = zipped(file, torch.randn(100_000), deflated)
    file.write_bytes(file.read_bytes()[:200_000])
    for function in (read_tensor, lambda t: list(read_blocks(t))):
        with pytest.raises(BrokenFile, match=r"the file ends after \d+ of its 400000 bytes"):
            function(tensor)
    file.unlink()
    with pytest.raises(NotThere):
        read_tensor(tensor)


@pytest.mark.parametrize("deflated", [False, True])
def test_a_flipped_byte_is_noticed(tmp_path: Path, deflated: bool) -> None:
    file = tmp_path / "a"
    tensor = zipped(file, torch.randn(1000), deflated)
    assert tensor.storage is not None
    assert tensor.storage.start is not None
    damage(file, tensor.storage.start + 3000)
    for function in (
        read_tensor,
        lambda t: list(read_blocks(t, 64)),
        lambda t: read_tensor(t._replace(shape=(2, 1000), stride=(0, 1))),
    ):
        with pytest.raises(BrokenFile, match="record data/0"):
            function(tensor)
    if not deflated:
        for crc in (None, 0):
            assert read_tensor(tensor._replace(storage=tensor.storage._replace(crc=crc))).size == 1000
        assert read_tensor(tensor._replace(shape=(999,))).size == 999


def test_the_local_header_must_be_there(tmp_path: Path) -> None:
    file = tmp_path / "a"
    tensor = zipped(file, torch.randn(10))
    assert tensor.storage is not None
    for start in ((tensor.storage.start or 0) + 1, file.stat().st_size - 5):
        with pytest.raises(BrokenFile, match="no zip header"):
            read_tensor(tensor._replace(storage=tensor.storage._replace(start=start)))


def test_a_bomb_is_never_unpacked_beyond_its_claim(tmp_path: Path) -> None:
    tensor = zipped(tmp_path / "a", torch.zeros(1 << 20), deflated=True)
    assert tensor.storage is not None
    small = tensor._replace(shape=(10,), storage=tensor.storage._replace(nbytes=40, available=40, crc=None))
    assert read_tensor(small).tolist() == [0] * 10
    huge = tensor.storage._replace(nbytes=1 << 40, available=1 << 40)
    with pytest.raises(RefusedFile, match="claims to unpack"):
        read_tensor(tensor._replace(storage=huge))
