"""Folders that PyTorch's distributed writers make, in one process and in two, and what PyTorch takes back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from convinspect import verify
from convinspect.checkpoint import open_checkpoint
from support.makers import assert_same_numbers, linear_in_place, numbers, said, true
from support.processes import NATIVE, PIECES, WHOLE, model, write_all
from support.program import assert_one_line, run

ORIGINALS = [*PIECES, *WHOLE]


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("one" if request.param == 1 else "two")
    write_all(path, request.param)
    return path


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", [*NATIVE, "asynchronous", "fsdp1 sharded", "columns"])
def test_a_distributed_folder_is_read_whole(folder: Path, tmp_path: Path, name: str) -> None:
    assert said(folder / name) == true(model())
    assert_same_numbers(numbers(folder / name), model().state_dict())
    assert_same_numbers(numbers(folder / name / ".metadata"), model().state_dict())
    assert run("check", folder / name).returncode == 0
    dcp_to_torch_save(folder / name, tmp_path / "one.pt")
    assert verify(folder / name, tmp_path / "one.pt").equal
    done = run("convert", folder / name / ".metadata", "-o", tmp_path / "b.safetensors", "--to", "linear")
    assert done.returncode == 0, done.stderr
    after = load_file(tmp_path / "b.safetensors")
    assert after["0.weight"].shape == (4, 6)
    before = model().state_dict()
    assert_same_numbers({key: after[key].reshape(one.shape) for key, one in before.items()}, before)
    assert verify(folder / name, tmp_path / "b.safetensors").equal


@pytest.mark.parametrize("role", ["model", "optimizer"])
def test_the_state_of_training_is_read(folder: Path, role: str) -> None:
    root = open_checkpoint(folder / "training", root="optimizer" if role == "optimizer" else None)
    truth = torch.load(folder / "training.pt")
    found = {root[name].key: torch.from_numpy(root.read(name)) for name in root}
    assert {
        key: one for key, one in truth.items() if key.startswith("optim") == (role == "optimizer")
    }.keys() == found.keys()
    assert all(torch.equal(one, truth[key]) for key, one in found.items())


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
