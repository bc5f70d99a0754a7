"""What `.metadata` of a distributed checkpoint says of its pieces, against PyTorch that unpickles it."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_saver import save

from convinspect.errors import RefusedFile
from convinspect.formats import read_contents
from convinspect.formats.torch.distributed_pieces import Pieces, pieces_in
from convinspect.records import Span

pytestmark = pytest.mark.filterwarnings("ignore")


def state() -> dict[str, Any]:
    model = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Linear(4, 2).to(torch.bfloat16), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    more = {"empty": torch.zeros(0, 3), "deep": torch.zeros(1, 2, 1, 2, 1), "epoch": 3, "big": torch.zeros(70_000)}
    return {"model": {**model.state_dict(), **more}, "optimizer": optimizer.state_dict()}


def read(folder: Path) -> tuple[Pieces, bytes, Metadata]:
    contents = read_contents(folder, keep_pickles=True)
    ((path, kept),) = contents.pickles.items()
    raw = path.read_bytes()
    return pieces_in(kept.tree, folder, spans=True), raw, FileSystemReader(folder).read_metadata()


def value_of(raw: bytes, span: Span | None) -> Any:
    """What the bytes of a span push; a frame may lie between them."""
    assert span is not None
    code = raw[slice(*span)]
    return pickle.loads(b"\x80\x04" + code + b".")


def every_piece(pieces: Pieces, raw: bytes, stored: Metadata, folder: Path) -> None:
    tensors = {key: one for key, one in stored.state_dict_metadata.items() if isinstance(one, TensorStorageMetadata)}
    assert [one.key for one in pieces.tensors] == list(tensors)
    assert {one.key for one in pieces.objects} == stored.state_dict_metadata.keys() - tensors.keys()
    for one in pieces.tensors:
        said = tensors[one.key]
        assert (one.dtype, one.shape) == (str(said.properties.dtype).removeprefix("torch."), tuple(said.size))
        assert value_of(raw, one.shape_span) == one.shape
        assert len(one.chunks) == len(said.chunks)
        for chunk, meant in zip(one.chunks, said.chunks, strict=True):
            assert (chunk.begin, chunk.shape) == (tuple(meant.offsets), tuple(meant.sizes))
            place, info = chunk.place, stored.storage_data[MetadataIndex(one.key, meant.offsets)]
            assert place is not None
            assert place[:3] == (folder / info.relative_path, info.offset, info.length)
            assert place.transforms == tuple(info.transform_descriptors or ())
            assert value_of(raw, chunk.begin_span) == value_of(raw, chunk.index_span) == chunk.begin
            assert value_of(raw, chunk.shape_span) == chunk.shape
            assert value_of(raw, place.offset_span) == place.offset
            assert value_of(raw, place.length_span) == place.length
    for thing in pieces.objects:
        place, info = thing.place, stored.storage_data[MetadataIndex(thing.key)]
        assert place is not None
        assert place[:3] == (folder / info.relative_path, info.offset, info.length)
        assert value_of(raw, place.offset_span) == place.offset


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("protocol", [None, 2, 5])
def test_pieces_and_their_spans(tmp_path: Path, single: bool, protocol: int | None) -> None:
    save(state(), storage_writer=FileSystemWriter(tmp_path, single_file_per_rank=single), no_dist=True)
    if protocol is not None:
        (tmp_path / ".metadata").write_bytes(pickle.dumps(FileSystemReader(tmp_path).read_metadata(), protocol))
    every_piece(*read(tmp_path), tmp_path)


def test_spans_among_frames(tmp_path: Path) -> None:
    """Pickles of many tensors are cut into frames, which may begin within a span."""
    weights = {f"layers.{at}.weight": torch.zeros(2, 3, 1, 1) for at in range(700)}
    save(weights, checkpoint_id=tmp_path, no_dist=True)
    pieces, raw, stored = read(tmp_path)
    assert sum(code.name == "FRAME" for code, _, _ in pickletools.genops(raw)) > 2
    every_piece(pieces, raw, stored, tmp_path)


def test_a_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    save({"w": torch.zeros(2)}, checkpoint_id=tmp_path, no_dist=True)
    stored = FileSystemReader(tmp_path).read_metadata()
    for info in stored.storage_data.values():
        info.relative_path = "../a.distcp"
    buffer = io.BytesIO()
    pickle.dump(stored, buffer)
    (tmp_path / ".metadata").write_bytes(buffer.getvalue())
    with pytest.raises(RefusedFile):
        read_contents(tmp_path)
