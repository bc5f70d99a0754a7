"""joblib's files, written by joblib, and read by it for comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convinspect.arrays.read import read_tensor
from convinspect.checking.scan import check
from convinspect.checkpoint import open_checkpoint
from convinspect.formats import read_contents
from convinspect.records import Container
from support.in_process import call_main

joblib = pytest.importorskip("joblib", reason="needs joblib")

_RANDOM = np.random.default_rng(3)
ARRAYS: dict[str, Any] = {
    "conv.weight": _RANDOM.standard_normal((8, 4, 1)).astype("f4"),
    "conv.bias": np.arange(8, dtype="f8"),
    "fc.weight": np.asfortranarray(_RANDOM.standard_normal((3, 8)).astype(">f8")),
    "turned": _RANDOM.standard_normal((3, 8, 2)).transpose(2, 0, 1),
    "truths": np.array([[True], [False]]),
    "bytes": np.arange(250, dtype="u1").astype("u1"),
    "empty": np.zeros((0, 3), "f4"),
    "scalar": np.array(3, "i8"),
}
OTHERS: dict[str, Any] = {
    "words": np.array(["ab", "c"]),
    "objects": np.array([{"a": 1}, None], dtype=object),
    "records": np.zeros(3, [("a", "f4"), ("o", "O")]),
    "plain_records": np.zeros(3, [("a", "f4"), ("b", "i8")]),
    "day": np.array("2020-01-01", "M8[D]"),
    "epoch": 5,
}


def equal_to_joblibs(path: Path) -> None:
    """Every array of numbers is the one that joblib loads."""
    loaded = joblib.load(path)
    checkpoint = open_checkpoint(path)
    listed = {tensor.key: tensor for tensor in checkpoint.root.tensors}
    assert {*ARRAYS} <= {*listed}
    for key in ARRAYS:
        array, tensor = loaded[key], listed[key]
        read = read_tensor(tensor)
        assert tensor.shape == array.shape, key
        assert np.array_equal(read, array), key
        assert str(read.dtype) == array.dtype.name, key


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_files(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump({**ARRAYS, **OTHERS}, path, protocol=protocol)
    equal_to_joblibs(path)
    contents = read_contents(path)
    assert contents.container is Container.JOBLIB
    assert not contents.problems
    report = check(path)
    assert not [found for found in report.findings if found.level == "error"]
    assert report.exit_code < 2


@pytest.mark.parametrize("method", ["zlib", "gzip", "bz2", "lzma", "xz", "lz4"])
def test_compressed_files(tmp_path: Path, method: str) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump({**ARRAYS, **OTHERS}, path, compress=(method, 3))
    equal_to_joblibs(path)
    assert call_main("shapes", path)[0] == 0
    assert call_main("check", path)[0] in (0, 1)
    assert call_main("convert", path, "-o", tmp_path / "x.pt")[0] == 0


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("options", [(), ("--to", "linear")])
def test_converted_to_plain_state_dicts(tmp_path: Path, suffix: str, options: tuple[str, ...]) -> None:
    path, target = tmp_path / "model.joblib", tmp_path / f"model{suffix}"
    joblib.dump(ARRAYS, path)
    code, _, err = call_main("convert", path, "-o", target, *options)
    assert code == 0, err
    assert call_main("verify", path, target)[0] == 0
    new = open_checkpoint(target)
    assert all(np.array_equal(new.read(name).ravel(), array.ravel()) for name, array in ARRAYS.items())
    if suffix == ".pt":
        assert set(torch.load(target, weights_only=True)) == set(ARRAYS)
    code, _, err = call_main("convert", path, "--to", "linear", "--in-place")
    assert (code, err.count("\n")) == (2, 1)


def test_lists_and_models_beside_the_arrays(tmp_path: Path) -> None:
    joblib.dump(
        {"model": {"fc.weight": ARRAYS["fc.weight"], "fc.bias": np.ones(3)}, "history": [1.0] * 500}, tmp_path / "a"
    )
    checkpoint = open_checkpoint(tmp_path / "a")
    assert list(checkpoint) == ["fc.weight", "fc.bias"]
