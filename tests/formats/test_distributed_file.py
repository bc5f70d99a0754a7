"""One file of a distributed checkpoint by itself, with and without the `.metadata` beside it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, SerializationFormat
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import save

from convinspect.arrays.read import read_tensor
from convinspect.checking.scan import check
from convinspect.checkpoint import open_checkpoint
from convinspect.errors import ConvInspectError, NotACheckpoint
from convinspect.formats import read_contents
from convinspect.records import Container
from support.in_process import call_main

STATE: dict[str, Any] = {
    "model": {
        "conv.weight": torch.randn(8, 4, 1),
        "conv.bias": torch.randn(8),
        "fc.weight": torch.randn(3, 8, dtype=torch.bfloat16),
        "turned": torch.randn(4, 6).T,
        "empty": torch.zeros(0, 4),
        "step": torch.tensor(3),
    },
    "optim": {"state": {"conv.weight": {"exp_avg": torch.randn(8, 4, 1)}}},
    "epoch": 3,
    "schedule": {"name": "cosine", "lrs": [0.1] * 3_000},
}
FLAT = {
    **{f"model.{key}": tensor for key, tensor in STATE["model"].items()},
    "optim.state.conv.weight.exp_avg": STATE["optim"]["state"]["conv.weight"]["exp_avg"],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save(STATE, checkpoint_id=tmp_path / "dcp", no_dist=True)
    (file,) = (tmp_path / "dcp").glob("*.distcp")
    return file


def numbers(tensor: Any) -> torch.Tensor:
    array = read_tensor(tensor)
    return torch.from_numpy(array.astype("float64"))


def test_by_the_names_in_metadata(file: Path) -> None:
    contents = read_contents(file)
    assert contents.container is Container.DISTRIBUTED_PART
    assert not contents.problems
    found = {tensor.key: tensor for root in contents.roots for tensor in root.tensors}
    assert found.keys() == FLAT.keys()
    for key, tensor in FLAT.items():
        assert found[key].shape == tuple(tensor.shape)
        assert found[key].dtype == str(tensor.dtype).removeprefix("torch.")
        assert torch.equal(numbers(found[key]), tensor.double()), key
    assert not check(file).findings


def test_by_number_and_place_without_metadata(file: Path) -> None:
    places = FileSystemReader(file.parent).read_metadata().storage_data
    wanted = {places[index].offset: FLAT[index.fqn] for index in places if index.fqn in FLAT}
    (file.parent / ".metadata").unlink()
    contents = read_contents(file)
    found = {int(tensor.key.partition("@")[2]): tensor for tensor in contents.roots[0].tensors}
    assert found.keys() == wanted.keys()
    for at, tensor in wanted.items():
        assert found[at].shape == tuple(tensor.shape)
        assert torch.equal(numbers(found[at]), tensor.double()), at
    checkpoint = open_checkpoint(file)
    assert not any(checkpoint.tie(name) for name in checkpoint)
    assert "no .metadata is beside it" in contents.notes[0]
    assert "pickled object" in contents.notes[1]
    report = check(file)
    assert not report.findings
    assert report.looked["records"] > 0
    assert check(file, values=True).looked["tensors"] == len(
        [one for one in FLAT.values() if one.is_floating_point() and one.numel()]
    )
    target = file.with_name("saved.safetensors")
    assert call_main("convert", file, "-o", target)[0] == 0
    rescued = load_file(target)
    assert all(torch.equal(rescued[f"{key}"].double(), numbers(checkpoint[key])) for key in rescued)
    assert call_main("verify", file, target)[0] == 0
    code, _, err = call_main("convert", file, "--to", "linear", "--in-place")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("metadata", ["broken", "other files"])
def test_metadata_that_are_none_of_its_own(file: Path, tmp_path: Path, metadata: str) -> None:
    if metadata == "broken":
        os.truncate(file.parent / ".metadata", 100)
    else:
        file = file.rename(file.with_name("renamed.distcp"))
    contents = read_contents(file)
    assert len(contents.roots[0].tensors) == len(FLAT)
    assert "the .metadata beside it" in contents.notes[0]
    assert not check(file).findings


def _halved(folder: Path) -> torch.Tensor:
    """Save "conv.weight" in two chunks of rows, as two processes do; returns the whole."""
    whole = torch.randn(6, 4, 1)
    save({"one": whole[:2].clone(), "two": whole[2:].clone()}, checkpoint_id=folder, no_dist=True)
    read = FileSystemReader(folder).read_metadata()
    tensor: Any = read.state_dict_metadata.pop("one")
    del read.state_dict_metadata["two"]
    places = {index.fqn: info for index, info in read.storage_data.items()}
    tensor.size, tensor.chunks, read.storage_data = whole.size(), [], {}
    for name, begin, sizes in (("one", [0, 0, 0], [2, 4, 1]), ("two", [2, 0, 0], [4, 4, 1])):
        tensor.chunks.append(ChunkStorageMetadata(torch.Size(begin), torch.Size(sizes)))
        read.storage_data[MetadataIndex("conv.weight", torch.Size(begin))] = places[name]
    read.state_dict_metadata["conv.weight"] = tensor
    (folder / ".metadata").write_bytes(pickle.dumps(read))
    return whole


def test_parts_of_a_tensor_are_no_whole_one(tmp_path: Path) -> None:
    whole = _halved(tmp_path / "dcp")
    (file,) = (tmp_path / "dcp").glob("*.distcp")
    contents = read_contents(file)
    found = {tensor.key: tensor for tensor in contents.roots[0].tensors}
    assert {key: tensor.shape for key, tensor in found.items()} == {
        "conv.weight@0,0,0": (2, 4, 1),
        "conv.weight@2,0,0": (4, 4, 1),
    }
    assert torch.equal(numbers(found["conv.weight@2,0,0"]), whole[2:].double())
    assert any("parts of tensors" in problem for problem in contents.problems)
    code, _, err = call_main("convert", file, "-o", tmp_path / "x.safetensors", "--to", "linear")
    assert (code, err.count("\n")) == (2, 1)
    assert "open the folder" in err
    assert [found.code for found in check(file).findings] == ["piece"]
    assert not check(tmp_path / "dcp").findings


def test_as_safetensors(tmp_path: Path) -> None:
    writer = FileSystemWriter(tmp_path / "dcp", serialization_format=SerializationFormat.SAFETENSORS)
    wanted = {key: tensor for key, tensor in STATE["model"].items() if key != "turned"}
    save(wanted | {"epoch": 3}, storage_writer=writer, no_dist=True)
    for file in (tmp_path / "dcp").glob("*.distcp"):
        for beside in (True, False):
            if not beside:
                (tmp_path / "dcp" / ".metadata").unlink()
            found = {tensor.key: tensor for tensor in read_contents(file).roots[0].tensors}
            assert all(torch.equal(numbers(found[key]), tensor.double()) for key, tensor in wanted.items())


def test_files_cut_anywhere_show_what_is_left(file: Path) -> None:
    whole = file.read_bytes()
    places = FileSystemReader(file.parent).read_metadata().storage_data
    ends = {places[index].offset + places[index].length for index in places}
    inside = sorted(places[index].offset for index in places if index.fqn in FLAT)
    (file.parent / ".metadata").unlink()
    for size in range(1, len(whole), 211):
        file.write_bytes(whole[:size])
        try:
            contents = read_contents(file)
        except ConvInspectError:
            assert size < inside[0] + 2_000
            continue
        listed = [int(tensor.key.partition("@")[2]) for tensor in contents.roots[0].tensors]
        assert listed == inside[: len(listed)]
        assert len(listed) >= sum(end <= size for end in ends) - (len(ends) - len(inside))
        assert bool(contents.problems) == (size not in ends)


def test_a_file_of_objects_alone(tmp_path: Path) -> None:
    save({"epoch": 3, "name": "x"}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    for file in (tmp_path / "dcp").glob("*.distcp"):
        with pytest.raises(NotACheckpoint, match="no piece of a tensor"):
            read_contents(file)
        (tmp_path / "dcp" / ".metadata").unlink()
        with pytest.raises(NotACheckpoint, match="no piece of a tensor"):
            read_contents(file)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"(\xb5/\xfd\x04\x00", b"\x80\x02N.", bytes(99)])
def test_what_is_no_file_of_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(content)
    with pytest.raises(ConvInspectError):
        read_contents(tmp_path / "__0_0.distcp")
    assert check(tmp_path / "__0_0.distcp").exit_code == 2
