"""Numbers of distributed checkpoints, put together from pieces that PyTorch wrote, against what PyTorch loads."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint._extension import StreamTransformExtension
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, SerializationFormat
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from convinspect import verify
from convinspect.arrays import gathered
from convinspect.arrays.equality import same_bits
from convinspect.arrays.read import read_blocks, read_tensor
from convinspect.arrays.storage import Files, opened
from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.errors import BrokenFile, CannotShow, ConvInspectError
from convinspect.formats.torch import distributed_items
from support.in_process import run
from support.program import assert_one_line

Box = tuple[tuple[int, ...], tuple[int, ...]]


class Cut(torch.Tensor):
    """A tensor that PyTorch's planner cuts into boxes, as it asks a DTensor for its own one."""

    boxes: Sequence[Box]

    def __create_write_items__(self, fqn: str, _: Any) -> list[WriteItem]:
        whole = self.as_subclass(torch.Tensor)
        return [
            WriteItem(
                MetadataIndex(fqn, torch.Size(begin)),
                WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    ChunkStorageMetadata(torch.Size(begin), torch.Size(shape)),
                    TensorProperties.create_from_tensor(whole),
                    whole.size(),
                ),
            )
            for begin, shape in self.boxes
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> torch.Tensor:
        assert index.offset is not None
        shape = next(shape for begin, shape in self.boxes if begin == tuple(index.offset))
        place = tuple(slice(b, b + n) for b, n in zip(index.offset, shape, strict=True))
        return self.as_subclass(torch.Tensor)[place].clone()


def cut(tensor: torch.Tensor, boxes: Sequence[Box]) -> torch.Tensor:
    made = tensor.as_subclass(Cut)
    made.boxes = boxes
    return made


def boxes(shape: tuple[int, ...], cuts: Sequence[Sequence[int]]) -> list[Box]:
    """A grid: in each dimension where it is cut."""
    found: list[Box] = [((), ())]
    for size, at in zip(shape, cuts, strict=True):
        edges = [0, *at, size]
        found = [
            ((*begin, low), (*inner, high - low)) for begin, inner in found for low, high in itertools.pairwise(edges)
        ]
    return found


def split(box: Box, random_: random.Random, times: int) -> list[Box]:
    """Boxes that make a box, as no grid does."""
    begin, shape = box
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    if not times or not axes:
        return [box]
    axis = random_.choice(axes)
    at = random_.randrange(1, shape[axis])
    low = (begin, (*shape[:axis], at, *shape[axis + 1 :]))
    high = (
        (*begin[:axis], begin[axis] + at, *begin[axis + 1 :]),
        (*shape[:axis], shape[axis] - at, *shape[axis + 1 :]),
    )
    return [*split(low, random_, times - 1), *split(high, random_, times - 1)]


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    raw = torch.randint(0, 100, shape)
    return raw.to(torch.float32).to(dtype)


def state() -> dict[str, torch.Tensor]:
    random_ = random.Random(1)
    grids: dict[str, tuple[torch.Tensor, Sequence[Sequence[int]]]] = {
        "rows": (numbers(10, 7), [[3, 4], []]),
        "columns": (numbers(10, 7), [[], [5]]),
        "both": (numbers(9, 11), [[4], [3, 7]]),
        "inner": (numbers(4, 3, 8, 2, dtype=torch.float64), [[], [1], [3], []]),
        "last": (numbers(5, 4, 6), [[], [], [1, 2]]),
        "one long row": (numbers(1, 300_001), [[], [131_072, 200_000]]),
        "bfloat16": (numbers(33, 65, dtype=torch.bfloat16), [[16], [32]]),
        "float8": (numbers(33, 65, dtype=torch.float8_e4m3fn), [[16], [32]]),
        "complex": (torch.randn(6, 6, dtype=torch.complex128), [[1], [2]]),
        "bool": (numbers(6, 6) > 50, [[1], [2]]),
        "large": (numbers(700, 300), [[300], [100, 101]]),
        "channels last": (numbers(8, 6, 3, 3).to(memory_format=torch.channels_last), [[3], [], [], []]),
        "channels last, inner": (numbers(8, 6, 3, 3).to(memory_format=torch.channels_last), [[], [2], [], []]),
    }
    made = {name: cut(one, boxes(tuple(one.shape), cuts)) for name, (one, cuts) in grids.items()}
    for at in range(6):
        shape = tuple(random_.choices(range(1, 9), k=random_.randrange(1, 5)))
        made[f"random {at}"] = cut(numbers(*shape), split(((0,) * len(shape), shape), random_, 4))
    plain = {
        "whole": numbers(3, 4), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "turned": numbers(5, 6).t(),
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2), "int64": torch.arange(5), "k.weight": numbers(6, 4, 1),
    }  # fmt: skip
    return {**made, **plain}


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module", params=[True, False], ids=["one file", "a file for each piece"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("gathered") / "a"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = state()
        save(whole, storage_writer=FileSystemWriter(path, single_file_per_rank=request.param), no_dist=True)
        found = {key: torch.zeros(one.shape, dtype=one.dtype) for key, one in whole.items()}
        load(found, checkpoint_id=path, no_dist=True)
    assert all(bits(one) == bits(found[key]) for key, one in whole.items())
    return path, found


def bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.as_subclass(torch.Tensor).contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def test_every_number_is_that_which_pytorch_loads(saved: tuple[Path, dict[str, Any]]) -> None:
    checkpoint = open_checkpoint(saved[0])
    assert not checkpoint.problems
    assert set(checkpoint) == set(saved[1])
    for name, one in saved[1].items():
        read = checkpoint.read(name)
        assert read.shape == tuple(one.shape)
        assert np.ascontiguousarray(read).tobytes() == bits(one), name
        blocks = b"".join(block.tobytes() for block in read_blocks(checkpoint[name], 1000))
        assert blocks == bits(one), name


def test_any_run_of_bytes(saved: tuple[Path, dict[str, Any]]) -> None:
    random_ = random.Random(2)
    checkpoint = open_checkpoint(saved[0])
    for name in ("both", "inner", "one long row", "float8", "complex", "random 0", "random 3", "turned", "large"):
        storage, raw = checkpoint[name].storage, bits(saved[1][name])
        assert storage is not None
        with opened(storage) as fetch:
            for _ in range(20):
                begin = random_.randrange(len(raw))
                block = bytearray(random_.randrange(1, min(len(raw) - begin, 5000) + 1))
                fetch(begin, memoryview(block))
                assert block == raw[begin : begin + len(block)], (name, begin, len(block))


def test_views_of_the_whole(saved: tuple[Path, dict[str, Any]]) -> None:
    """A Linear's transpose, a kernel without its last dimension, a band of rows."""
    tensor, one = open_checkpoint(saved[0])["both"], saved[1]["both"]
    turned = tensor._replace(shape=tensor.shape[::-1], stride=tensor.stride[::-1])
    assert read_tensor(turned).tolist() == one.t().tolist()
    band = tensor._replace(shape=(3, 4), offset=2 * 11 + 5)
    assert read_tensor(band).tolist() == one[2:5, 5:9].tolist()


def test_few_files_are_open_at_once(saved: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "_MOST_OPEN", 2)
    checkpoint = open_checkpoint(saved[0])
    assert all(np.ascontiguousarray(checkpoint.read(name)).tobytes() == bits(one) for name, one in saved[1].items())


def test_commands_read_them(saved: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    torch.save(saved[1], tmp_path / "whole.pt")
    report = verify(saved[0], tmp_path / "whole.pt")
    assert (report.equal, report.strength) == (True, "bits")
    assert run("diff", saved[0], tmp_path / "whole.pt", "--values").returncode == 0
    other = {**saved[1], "both": saved[1]["both"].clone()}
    other["both"][-1, -1] += 1
    torch.save(other, tmp_path / "other.pt")
    assert not verify(saved[0], tmp_path / "other.pt").equal
    differs = run("diff", saved[0], tmp_path / "other.pt", "--values", "--format", "json")
    assert differs.returncode == 1
    (row,) = [row for row in json.loads(differs.stdout)["tensors"] if row["difference"] != "same"]
    assert row["name"] == "both"
    shown = run("weights", saved[0], "both", "--format", "json")
    assert shown.returncode == 0, shown.stderr
    assert run("check", saved[0], "--values").returncode == 0
    assert run("convert", saved[0], "-o", tmp_path / "b.pt", "--to", "linear").returncode == 0
    assert verify(saved[0], tmp_path / "b.pt").equal
    assert run("convert", tmp_path / "b.pt", "-o", tmp_path / "c.pt", "--like", saved[0]).returncode == 0
    assert verify(saved[0], tmp_path / "c.pt").equal


def test_a_listing_opens_metadata_and_one_piece(
    saved: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = os.open, list[str]()

    def noted(path: Any, *more: Any) -> int:
        asked.append(Path(path).name)
        return real(path, *more)

    monkeypatch.setattr(os, "open", noted)
    open_checkpoint(saved[0])
    assert asked[0] == ".metadata"
    assert len(asked) <= 2


def test_pieces_are_looked_for_once_however_many_blocks_are_read(
    saved: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(saved[0])
    located: list[str] = []
    real = distributed_items.item_of

    def noted(file: Any, tensor: Any, chunk: Any) -> Any:
        located.append(tensor.key)
        return real(file, tensor, chunk)

    monkeypatch.setattr(gathered, "item_of", noted)
    tensors = [t for t in checkpoint.tensors.values() if t.storage is not None and t.storage.pieces and t.nbytes > 8]
    with Files() as files:
        for tensor in tensors:
            assert tensor.storage is not None
            assert tensor.storage.pieces is not None
            raw = bytearray(tensor.nbytes)
            block = max(8, len(raw) // 100)
            for begin in range(0, len(raw), block):
                files.fetch(tensor.storage, len(raw))(begin, memoryview(raw)[begin : begin + block])
            assert len(located) <= len(tensor.storage.pieces.chunks)
            located.clear()
            with opened(tensor.storage) as fetch:
                again = bytearray(len(raw))
                fetch(0, memoryview(again))
            assert again == raw
            located.clear()
    assert len(tensors) > 3


# --- as safetensors


def test_as_safetensors(tmp_path: Path) -> None:
    """PyTorch keeps one piece of a tensor in each file, under the tensor's key."""
    whole = numbers(6, 4)
    writer = FileSystemWriter(
        tmp_path / "a", single_file_per_rank=False, serialization_format=SerializationFormat.SAFETENSORS
    )
    save({"w": cut(whole, boxes((6, 4), [[2], [1]])), "b": numbers(3)}, storage_writer=writer, no_dist=True)
    checkpoint = open_checkpoint(tmp_path / "a")
    assert checkpoint.read("w").tolist() == whole.tolist()
    assert "safetensors" in checkpoint.notes[0]


def test_pieces_that_pytorch_lost_are_not_made_up(tmp_path: Path) -> None:
    """Of several pieces of a tensor in one file, PyTorch writes the last alone."""
    writer = FileSystemWriter(tmp_path / "a", serialization_format=SerializationFormat.SAFETENSORS)
    save({"w": cut(numbers(4, 4), boxes((4, 4), [[2], []]))}, storage_writer=writer, no_dist=True)
    with pytest.raises(BrokenFile, match="holds another piece"):
        open_checkpoint(tmp_path / "a").read("w")
    found = json.loads(run("check", tmp_path / "a", "--format", "json").stdout)
    assert "piece-differs" in json.dumps(found)


# --- what is wrong


def one_tensor(tmp_path: Path, **options: Any) -> Path:
    weights = {"w": cut(torch.arange(24.0).view(6, 4), boxes((6, 4), [[2], []])), "b": torch.ones(3)}
    save(weights, storage_writer=FileSystemWriter(tmp_path / "a", **options), no_dist=True)
    return tmp_path / "a"


def rewritten(folder: Path, change: Callable[[Metadata], None]) -> None:
    stored = FileSystemReader(folder).read_metadata()
    change(stored)
    (folder / ".metadata").write_bytes(pickle.dumps(stored))


def the_line(path: Path, name: str = "w") -> str:
    """What reading says; the command says the same in one line."""
    with pytest.raises(ConvInspectError) as raised:
        open_checkpoint(path).read(name)
    done = run("weights", path, name)
    assert_one_line(done)
    return str(raised.value)


class Inverted(StreamTransformExtension):
    """Such an extension as PyTorch's own ZStandard, for which a package is missing here."""

    @staticmethod
    def from_descriptor(version: str) -> Inverted:
        return Inverted()

    @staticmethod
    def registry_name() -> str:
        return "stream.inverted"

    def get_descriptor(self) -> str:
        return "stream.inverted/1"

    def transform_to(self, output: IO[bytes]) -> IO[bytes]:
        class Writer(io.RawIOBase):
            def write(self, data: Any) -> int:
                return output.write(bytes(255 - byte for byte in bytes(data)))

        return Writer()  # type: ignore[return-value]

    def transform_from(self, input: IO[bytes]) -> IO[bytes]:
        return io.BytesIO(bytes(255 - byte for byte in input.read()))


def test_extensions_are_pytorchs_alone(tmp_path: Path) -> None:
    folder = one_tensor(tmp_path, _extensions=[Inverted()])
    assert "stream.inverted/1" in open_checkpoint(folder).notes[0]
    with pytest.raises(CannotShow, match=r"stream\.inverted/1, which PyTorch alone undoes"):
        open_checkpoint(folder).read("w")
    assert "dcp_to_torch" in the_line(folder)
    assert "stream.inverted/1" in run("check", folder).stdout
    assert_one_line(run("convert", folder, "-o", tmp_path / "b.pt"), "stream.inverted/1")
    assert not (tmp_path / "b.pt").exists()


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    folder = one_tensor(tmp_path, single_file_per_rank=False)
    lost = sorted(folder.glob("*.distcp"))[0]
    lost.unlink()
    assert f"{lost.name}, which holds some of it, is not there" in open_checkpoint(folder).problems[0]
    assert_one_line(run("verify", folder, folder), lost.name)
    assert_one_line(run("convert", folder, "-o", tmp_path / "b.pt"), lost.name)
    assert "shard-missing" in run("check", folder, "--format", "json").stdout


def test_the_file_of_a_piece_is_missing(tmp_path: Path) -> None:
    """Either piece of the tensor takes more in its file than its numbers; their sum says nothing."""
    weights = {"w": cut(torch.randn(64, 64), boxes((64, 64), [[32], []]))}
    save(weights, storage_writer=FileSystemWriter(tmp_path / "a", single_file_per_rank=False), no_dist=True)
    lost, last = sorted((tmp_path / "a").glob("*.distcp"))
    lost.unlink()
    assert f"{lost.name}, which holds some of it, is not there" in the_line(tmp_path / "a")
    last.unlink()
    (tmp_path / "a/another.distcp").touch()
    assert f"only its shape: {lost.name} is not there" in the_line(tmp_path / "a")


def test_a_file_that_is_cut(tmp_path: Path) -> None:
    folder = one_tensor(tmp_path)
    (file,) = folder.glob("*.distcp")
    file.write_bytes(file.read_bytes()[:-100])
    assert "100 bytes are missing at the end of __0_0.distcp" in open_checkpoint(folder).problems[0]
    assert_one_line(run("verify", folder, folder), "100 bytes are missing")
    assert "storage-short" in run("check", folder, "--format", "json").stdout


def test_metadata_alone(tmp_path: Path) -> None:
    folder = one_tensor(tmp_path)
    next(folder.glob("*.distcp")).unlink()
    checkpoint = open_checkpoint(folder)
    assert not checkpoint.problems
    assert "no file with its numbers" in checkpoint.notes[0]
    assert "only its shape: __0_0.distcp is not there" in the_line(folder)


def other_shape(stored: Metadata) -> None:
    chunks = stored.state_dict_metadata["b"].chunks  # type: ignore[union-attr]
    chunks[0].sizes = stored.state_dict_metadata["b"].size = torch.Size([4])  # type: ignore[union-attr]


def other_dtype(stored: Metadata) -> None:
    stored.state_dict_metadata["b"].properties.dtype = torch.int32  # type: ignore[union-attr]


def places_exchanged(stored: Metadata) -> None:
    first, second = (index for index in stored.storage_data if index.fqn == "w")
    stored.storage_data[first], stored.storage_data["b"] = stored.storage_data[second], None
    del stored.storage_data["b"]
    (alone,) = (index for index in stored.storage_data if index.fqn == "b")
    stored.storage_data[alone] = stored.storage_data[second]


def within_another(stored: Metadata) -> None:
    (alone,) = (index for index in stored.storage_data if index.fqn == "b")
    stored.storage_data[alone].offset -= 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_shape, "it holds float32 (3,), where .metadata says float32 (4,)"),
        (other_dtype, "it holds float32 (3,), where .metadata says int32 (3,)"),
        (places_exchanged, "it holds float32 (4, 4), where .metadata says float32 (3,)"),
        (within_another, "no file of torch.save begins there"),
    ],
)
def test_metadata_that_disagree_with_a_piece(tmp_path: Path, change: Callable[[Metadata], None], said: str) -> None:
    folder = one_tensor(tmp_path)
    rewritten(folder, change)
    assert said in the_line(folder, "b")
    found = json.loads(run("check", folder, "--format", "json").stdout)
    assert run("check", folder).returncode == 1
    assert "piece-differs" in json.dumps(found)


def overlapping(stored: Metadata) -> None:
    _moved(stored, 1)


def with_a_hole(stored: Metadata) -> None:
    stored.state_dict_metadata["w"].size = torch.Size([7, 4])  # type: ignore[union-attr]


def beyond(stored: Metadata) -> None:
    _moved(stored, 3)


def _moved(stored: Metadata, to: int) -> None:
    second = stored.state_dict_metadata["w"].chunks[1]  # type: ignore[union-attr]
    info = stored.storage_data.pop(MetadataIndex("w", second.offsets))
    second.offsets = torch.Size([to, 0])
    stored.storage_data[MetadataIndex("w", second.offsets)] = info


def unsaid(stored: Metadata) -> None:
    del stored.storage_data[MetadataIndex("w", torch.Size([2, 0]))]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (overlapping, "overlap, those that begin at [0, 0] and [1, 0]"),
        (with_a_hole, "leave 4 of its numbers out"),
        (beyond, "ends at [7, 4], outside its shape (6, 4)"),
        (unsaid, ".metadata does not say where"),
    ],
)
def test_pieces_that_make_no_whole(tmp_path: Path, change: Callable[[Metadata], None], said: str) -> None:
    folder = one_tensor(tmp_path)
    rewritten(folder, change)
    assert said in " ".join(open_checkpoint(folder).problems)
    with pytest.raises(BrokenFile):
        open_checkpoint(folder).read("w")
    assert_one_line(run("verify", folder, folder), said)
    found = json.loads(run("check", folder, "--format", "json").stdout)
    assert "piece-missing" in json.dumps(found)


def test_damaged_numbers_are_seen_by_their_sum(tmp_path: Path) -> None:
    folder = one_tensor(tmp_path)
    (file,) = folder.glob("*.distcp")
    raw = file.read_bytes()
    at = raw.index(torch.arange(8.0, 24.0).numpy().tobytes())
    file.write_bytes(raw[:at] + b"\x01" + raw[at + 1 :])
    assert "CRC-32 does not match" in the_line(folder)
    assert run("check", folder).returncode == 1


def test_a_piece_that_is_another_object(tmp_path: Path) -> None:
    folder = one_tensor(tmp_path)
    buffer = io.BytesIO()
    torch.save(["no tensor"], buffer)
    _behind(folder, buffer.getvalue(), (3,))
    assert "it holds no tensor" in the_line(folder, "b")


def test_claims_of_sizes_are_not_believed(tmp_path: Path) -> None:
    """No room is made for numbers that no file has."""

    def huge(stored: Metadata) -> None:
        entry = stored.state_dict_metadata["b"]
        entry.size = entry.chunks[0].sizes = torch.Size([1 << 45])  # type: ignore[union-attr]

    folder = one_tensor(tmp_path)
    rewritten(folder, huge)
    with pytest.raises(ConvInspectError):
        open_checkpoint(folder).read("b")


def _behind(folder: Path, raw: bytes, shape: tuple[int, ...]) -> None:
    """Put bytes behind all others, as the one piece of `b`."""
    (file,) = folder.glob("*.distcp")
    stored = FileSystemReader(folder).read_metadata()
    entry = stored.state_dict_metadata["b"]
    entry.size = entry.chunks[0].sizes = torch.Size(shape)  # type: ignore[union-attr]
    info = stored.storage_data[MetadataIndex("b", torch.Size([0]))]
    info.offset, info.length = file.stat().st_size, len(raw)
    (folder / ".metadata").write_bytes(pickle.dumps(stored))
    with file.open("ab") as end:
        end.write(raw)


def test_an_expanded_piece_is_no_room_for_numbers(tmp_path: Path) -> None:
    """Few bytes that claim to be many numbers: PyTorch's writer copies such a tensor."""
    folder, buffer = one_tensor(tmp_path), io.BytesIO()
    torch.save(torch.ones(1).expand(1 << 40), buffer)
    _behind(folder, buffer.getvalue(), (1 << 40,))
    tensor = open_checkpoint(folder)["b"]
    for asked in (tensor, tensor._replace(shape=(10,))):
        with pytest.raises(ConvInspectError):
            read_tensor(asked)


def test_deflated_pieces_are_refused(tmp_path: Path) -> None:
    folder = one_tensor(tmp_path)
    buffer = io.BytesIO()
    torch.save(torch.ones(3), buffer)
    packed = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    _behind(folder, packed.getvalue(), (3,))
    assert "deflated" in the_line(folder, "b")


def test_pieces_are_compared_by_bits(tmp_path: Path) -> None:
    whole = numbers(8, 5, dtype=torch.bfloat16)
    found: list[Checkpoint] = []
    every: list[list[list[int]]] = [[[4], []], [[], [2]], [[], []]]
    for at, cuts in enumerate(every):
        save({"w": cut(whole, boxes((8, 5), cuts))}, checkpoint_id=tmp_path / str(at), no_dist=True)
        found.append(open_checkpoint(tmp_path / str(at)))
    assert all(same_bits(a["w"], b["w"]) for a in found for b in found)
