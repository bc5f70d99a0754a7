"""NumPy arrays in what `torch.save` wrote, against what `torch.load` makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from convinspect.arrays.read import read_tensor
from convinspect.formats import read_contents
from support.in_process import run

WEIGHTS = {"conv.weight": torch.randn(6, 4, 1), "conv.bias": torch.randn(6)}
ARRAYS = {key: tensor.numpy() for key, tensor in WEIGHTS.items()} | {
    "bytes": np.arange(256, dtype="u1").repeat(3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(5, dtype=">i4"),
}
STATE = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"params": [0]}]}


@pytest.fixture(params=["zip", "legacy", "deflated"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def save(value: object, name: str = "w.pt", protocol: int = 2) -> Path:
        path = tmp_path / name
        zipped = request.param != "legacy"
        torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        if request.param == "deflated":
            with ZipFile(path) as old, ZipFile(tmp_path / "packed.pt", "w", ZIP_DEFLATED) as new:
                for item in old.namelist():
                    new.writestr(item, old.read(item))
            path = (tmp_path / "packed.pt").replace(path)
        return path

    return save


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_dictionary_of_arrays_is_listed(saved: Any, protocol: int) -> None:
    path = saved({"model": ARRAYS, "epoch": 3}, protocol=protocol)
    contents = read_contents(path)
    (root,) = contents.roots
    assert (root.path, root.role, [tensor.key for tensor in root.tensors]) == ("model", "model", list(ARRAYS))
    assert contents.notes == ("its tensors are NumPy arrays",)
    if all(tensor.layout == "compressed" for tensor in root.tensors):
        # Text within deflated bytes is not decoded.
        assert protocol == 2
        return
    for tensor in root.tensors:
        np.testing.assert_array_equal(read_tensor(tensor), ARRAYS[tensor.key], err_msg=tensor.key)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_its_tensors_are_written_as_a_state_dict(saved: Any, tmp_path: Path, suffix: str) -> None:
    path, target = saved({"model": ARRAYS}, protocol=4), tmp_path / f"new{suffix}"
    done = run("convert", path, "-o", target, "--to", "linear", "--state-dict")
    assert not done.returncode, done.stderr
    new = load_file(target) if suffix == ".safetensors" else torch.load(target, weights_only=True)
    assert new["conv.weight"].shape == (6, 4)
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(new[key].numpy().reshape(array.shape), array)
    assert run("verify", path, target).returncode == 0
    assert "_reconstruct" not in done.stderr


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_written_of_it_verifies(saved: Any, tmp_path: Path, suffix: str) -> None:
    """Numbers beside the arrays, and how arrays are rebuilt, are no part of a plain state_dict."""
    value = {"fc.weight": np.ones((4, 3), "f4"), "lr": np.float32(0.1), "step": 3}
    path, target = saved(value, protocol=4), tmp_path / f"x{suffix}"
    assert not run("convert", path, "-o", target, "--state-dict").returncode
    done = run("verify", path, target)
    assert not done.returncode, done.stdout
    assert "different kinds, so objects beside the tensors were not compared" in done.stdout
    assert not run("verify", path, path).returncode
    other = tmp_path / "other.pt"
    torch.save(value | {"step": 4}, other, pickle_protocol=4)
    done = run("verify", path, other)
    assert done.returncode == 1
    assert "step: an object beside the tensors differs" in done.stdout
    assert "fc.weight" not in done.stdout


def test_its_header_is_not_edited(saved: Any, tmp_path: Path) -> None:
    """An array's pickle has no size of it that could change, so that a new file is a plain state_dict."""
    path, target = saved(ARRAYS, protocol=4), tmp_path / "new.pt"
    told = (
        "its tensors are NumPy arrays, whose shapes cannot be edited in the file: they are saved as a plain state_dict"
    )
    for arguments in (["--dry-run"], ["-o", target]):
        done = run("convert", path, "--to", "linear", *arguments)
        assert not done.returncode, done.stderr
        assert told in " ".join((done.stdout + done.stderr).split())
    new = torch.load(target, weights_only=True)
    assert new["conv.weight"].shape == (6, 4)
    np.testing.assert_array_equal(new["conv.weight"].numpy(), ARRAYS["conv.weight"].squeeze(-1))
    np.testing.assert_array_equal(new["columns"].numpy(), ARRAYS["columns"])
    before = path.read_bytes()
    for arguments in (["--in-place"], ["--in-place", "--dry-run"]):
        done = run("convert", path, "--to", "linear", *arguments)
        assert done.returncode == 2
        assert "its tensors are NumPy arrays, whose shapes cannot be edited in place" in done.stderr
    assert path.read_bytes() == before


def test_nothing_is_saved_where_no_array_changes(saved: Any, tmp_path: Path) -> None:
    done = run("convert", saved({"a": np.ones((2, 3, 5))}, protocol=4), "-o", tmp_path / "new.pt", "--to", "linear")
    assert done.returncode == 2
    assert not (tmp_path / "new.pt").exists()


def test_arrays_among_tensors_stay_objects(saved: Any) -> None:
    value = {"state_dict": {**WEIGHTS, "mean": np.arange(3.0)}, "rng": np.random.get_state(), "seen": np.arange(4)}
    contents = read_contents(saved(value))
    model, others = contents.roots
    assert [tensor.key for tensor in model.tensors] == list(WEIGHTS)
    assert [(other.key, other.what) for other in model.others] == [("mean", "NumPy array")]
    assert (others.role, [tensor.key for tensor in others.tensors]) == ("other", ["rng.1", "seen"])
    (note,) = contents.notes
    assert note == ("1 NumPy array beside the tensors is not listed: state_dict.mean (load_state_dict takes no arrays)")


def test_arrays_that_stay_objects_are_named(saved: Any, tmp_path: Path) -> None:
    path = saved({**WEIGHTS, "arr.weight": np.ones((3, 4), "f4"), "arr.bias": np.ones(3, "f4")}, protocol=4)
    done = run("shapes", path)
    told = "2 NumPy arrays beside the tensors are not listed: arr.weight, arr.bias (load_state_dict takes no arrays)"
    assert told in " ".join(done.stdout.split())
    done = run("convert", path, "-o", tmp_path / "new.safetensors")
    assert "arr.weight, arr.bias beside the tensors: not in the new file" in " ".join(done.stderr.split())
    assert set(load_file(tmp_path / "new.safetensors")) == set(WEIGHTS)


def test_arrays_of_a_random_generator_are_no_news(saved: Any) -> None:
    assert not read_contents(saved({"model": WEIGHTS, "rng": np.random.get_state()})).notes


def test_a_file_that_has_both_is_converted_as_before(saved: Any, tmp_path: Path) -> None:
    value = {"state_dict": WEIGHTS, "seen": np.arange(4), "optimizer": STATE, "ema": {**ARRAYS}}
    path = saved(value)
    done = run("convert", path, "-o", tmp_path / "new.pt", "--to", "linear", "--layer", "conv")
    if done.returncode:
        assert "compressed" in done.stderr or "size to edit" in done.stderr
        return
    new = torch.load(tmp_path / "new.pt", weights_only=False)
    assert new["state_dict"]["conv.weight"].shape == (6, 4)
    np.testing.assert_array_equal(new["seen"], value["seen"])


def test_a_changed_array_beside_tensors_is_found(saved: Any) -> None:
    before = saved({"state_dict": WEIGHTS, "seen": np.arange(4)}, "a.pt")
    after = saved({"state_dict": WEIGHTS, "seen": np.arange(1, 5)}, "b.pt")
    done = run("verify", before, after)
    assert done.returncode == 1
    assert "seen" in done.stdout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor"])
def test_tensors_that_are_kept_as_arrays(
    saved: Any, name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `Tensor._reduce_ex_internal` reduces those of XLA: bfloat16 as float32."""
    rebuild = torch._utils._rebuild_device_tensor_from_numpy
    if name != rebuild.__name__:
        original: Any = rebuild

        def named(*arguments: Any) -> Any:
            return original(*arguments)

        named.__module__, named.__qualname__ = "torch._utils", name
        monkeypatch.setattr(torch._utils, name, named, raising=False)
        rebuild = named

    class OnXla:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __reduce__(self) -> tuple[Any, ...]:
            return rebuild, (self.tensor.float().numpy(), dtype, "xla:0", True)

    path = saved({"model": {key: OnXla(tensor) for key, tensor in WEIGHTS.items()}})
    contents = read_contents(path)
    (root,) = contents.roots
    for tensor in root.tensors:
        assert (tensor.device, tensor.requires_grad, tensor.dtype) == ("xla:0", True, "float32")
        if tensor.layout == "compressed":
            continue
        np.testing.assert_array_equal(read_tensor(tensor), WEIGHTS[tensor.key].numpy())
    if all(tensor.layout != "compressed" for tensor in root.tensors):
        target = path.parent / "new.pt"
        done = run("convert", path, "-o", target, "--to", "linear")
        assert not done.returncode, done.stderr
        new = torch.load(target, weights_only=True)
        assert new["conv.weight"].shape == (6, 4)
    told = "conv.weight, conv.bias: PyTorch turns the array into bfloat16 when it loads it"
    assert (told in contents.notes) == (dtype == torch.bfloat16)
