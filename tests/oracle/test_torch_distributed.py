"""Folders that PyTorch's distributed writers make, in one process and in two, and what PyTorch takes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from convinspect import convert, verify
from convinspect.checkpoint import open_checkpoint
from support.in_process import run
from support.makers import assert_same_numbers, linear_in_place, numbers, said, true
from support.processes import NATIVE, PIECES, WHOLE, gathered, model, write_all
from support.program import assert_one_line

ORIGINALS = [*PIECES, *WHOLE]


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("one" if request.param == 1 else "two")
    write_all(path, request.param)
    return path


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", [*NATIVE, "asynchronous", "fsdp1 sharded", "columns"])
def test_a_distributed_folder_is_read_whole(folder: Path, tmp_path: Path, name: str) -> None:
    front = "model." if name == "columns" else ""
    before = {front + key: one for key, one in model().state_dict().items()}
    assert front or said(folder / name) == true(model())
    assert_same_numbers(numbers(folder / name), before)
    assert_same_numbers(numbers(folder / name / ".metadata"), before)
    assert run("check", folder / name).returncode == 0
    dcp_to_torch_save(folder / name, tmp_path / "one.pt")
    assert verify(folder / name, tmp_path / "one.pt", root="model" if front else None).equal
    done = run("convert", folder / name / ".metadata", "-o", tmp_path / "b.safetensors", "--to", "linear")
    assert done.returncode == 0, done.stderr
    after = load_file(tmp_path / "b.safetensors")
    assert after[f"{front}0.weight"].shape == (4, 6)
    assert_same_numbers({key: after[key].reshape(one.shape) for key, one in before.items()}, before)
    assert verify(folder / name, tmp_path / "b.safetensors").equal


def test_the_state_of_training_is_read(folder: Path) -> None:
    path = folder / "with an optimizer"
    listed = FileSystemReader(str(path)).read_metadata().state_dict_metadata
    truth = {key: torch.zeros(one.size) for key, one in listed.items() if isinstance(one, TensorStorageMetadata)}
    load(truth, checkpoint_id=path, no_dist=True)
    found: dict[str, torch.Tensor] = {}
    for root in (None, "optimizer"):
        opened = open_checkpoint(path, root)
        found |= {opened[name].key: torch.from_numpy(opened.read(name)) for name in opened}
    assert_same_numbers(found, truth)


SHARDED = [*NATIVE, "asynchronous", "fsdp1 sharded", "columns", "with an optimizer"]


def test_a_converted_folder_loads_in_any_sharding(folder: Path, tmp_path: Path) -> None:
    """By one process and by two, in parts along either axis, whatever the parts were at saving; and there and back."""
    (tmp_path / "there").mkdir()
    names = [*SHARDED, *list(PIECES)[:2], "of one process"]
    for name in names:
        source, there, back = folder / name, tmp_path / "there" / name, tmp_path / f"back {name}"
        convert(source, there, to="linear")
        convert(there, back, like=source)
        assert _files(back) == _files(source)
        assert run("check", there).returncode == 0
        reader = HuggingFaceStorageReader(str(there)) if name in PIECES else FileSystemReader(str(there))
        listed = reader.read_metadata().state_dict_metadata
        whole = {key: torch.zeros(one.size) for key, one in listed.items() if isinstance(one, TensorStorageMetadata)}
        load(whole, storage_reader=reader, no_dist=True)
        _assert_linear({key: one for key, one in whole.items() if one.dim()})
    if folder.name.startswith("one"):
        return
    every = gathered(tmp_path / "there", 2, tmp_path / "gathered.pt")
    assert len(every) == 2 * len(names)
    for found in every.values():
        _assert_linear(found)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _assert_linear(found: dict[str, torch.Tensor]) -> None:
    """The weights of `model()` with its pointwise convolutions as Linear, and the state of `AdamW` if it is there."""
    shapes = linear_in_place(model()).state_dict()
    front = "model." if "model.0.weight" in found else ""
    for name, one in model().state_dict().items():
        wanted = one.reshape(shapes[name].shape)
        assert torch.equal(found[front + name], wanted)
        state = found.get(f"optim.state.{name}.exp_avg")
        assert state is None or torch.allclose(state, wanted * 0.1)
    assert "0.weight" in found or len(found) in (len(shapes), 3 * len(shapes))


def _loaded(path: Path) -> dict[str, torch.Tensor]:
    """By PyTorch's reader of pieces, or where there is an index by safetensors alone."""
    if path.is_file():
        return dict(torch.load(path, weights_only=True))
    if (path / "model.safetensors.index.json").exists():
        return {name: one for file in path.glob("*.safetensors") for name, one in load_file(file).items()}
    state = {name: torch.zeros_like(one) for name, one in linear_in_place(model()).state_dict().items()}
    load(state, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    return state


@pytest.mark.parametrize("name", [*ORIGINALS, "full.pt", "fsdp1.pt"])
def test_what_is_converted_loads_and_computes_the_same(folder: Path, tmp_path: Path, name: str) -> None:
    source, target = folder / name, tmp_path / name
    assert said(source) == true(model())
    assert_same_numbers(numbers(source), model().state_dict())
    done = run("convert", source, "-o", target, "--to", "linear")
    assert done.returncode == 0, done.stderr
    other = linear_in_place(model())
    assert said(target) == true(other)
    other.load_state_dict(_loaded(target), strict=True)
    x = torch.randn(2, 6, 5)
    rows = other[:3](x.movedim(1, -1)).movedim(-1, 1)
    assert torch.allclose(other[3:](rows), model()(x), atol=1e-6)
    assert verify(source, target).equal
    assert run("check", target).returncode == 0


def test_parts_that_were_written_over_each_other_are_named(folder: Path, tmp_path: Path) -> None:
    """What comes of the writer's default, which expects a full state_dict of one process, with parts of two."""
    done = run("convert", folder / "over each other", "-o", tmp_path / "b", "--to", "linear")
    if folder.name.startswith("one"):
        assert done.returncode == 0, done.stderr
        return
    assert_one_line(done, "parts of tensors", "save_distributed=True")
    assert not (tmp_path / "b").exists()
    listed = run("shapes", folder / "over each other")
    assert "parts of tensors" in listed.stdout + listed.stderr
    assert run("check", folder / "over each other").returncode == 1


def test_malformed_places_of_an_index_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for file in (folder / "whole").iterdir():
        if file.suffix == ".safetensors":
            save_file(load_file(file), tmp_path / "a" / file.name, metadata={"DCP_SHARDING_INFO": "{oops"})
        else:
            (tmp_path / "a" / file.name).write_bytes(file.read_bytes())
    assert_one_line(run("convert", tmp_path / "a", "-o", tmp_path / "b", "--to", "linear"), "DCP_SHARDING_INFO")
