"""`.npy` and `.npz`, written by NumPy and read by it for comparison."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from safetensors.numpy import load_file

from convinspect.arrays.read import read_tensor
from convinspect.checking.scan import check
from convinspect.checkpoint import open_checkpoint
from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.errors import BrokenFile, CannotConvert, CutShort, NotACheckpoint, RefusedFile
from convinspect.formats import read_contents
from convinspect.records import Container
from support.in_process import call_main

_RANDOM = np.random.default_rng(5)
ARRAYS: dict[str, Any] = {
    "conv.weight": _RANDOM.standard_normal((8, 4, 1)).astype("f4"),
    "conv.bias": _RANDOM.standard_normal(8),
    "fc.weight": np.asfortranarray(_RANDOM.standard_normal((3, 8)).astype(">f4")),
    "half": _RANDOM.standard_normal((2, 3, 4)).astype("f2").transpose(2, 0, 1),
    "truths": np.array([[True], [False]]),
    "steps": np.int64(7),
    "bytes": np.arange(250, dtype="u1"),
    "big": np.arange(12, dtype=">i8").reshape(3, 4),
    "wave": (_RANDOM.standard_normal(6) + 1j).astype(">c16"),
    "empty": np.zeros((0, 5), "f8"),
    "params/Dense_0/kernel": _RANDOM.standard_normal((4, 6)).astype("f4"),
}
OTHERS: dict[str, Any] = {
    "words": np.array(["a", "bc"]),
    "objects": np.array({"a": 1}, dtype=object),
    "records": np.zeros(3, [("a", "f4"), ("b", "i4", (2,))]),
    "day": np.array("2020-01-01", "M8[D]"),
    "long": np.zeros(2, np.longdouble),
}


def equal_to_numpys(path: Path) -> None:
    """Every array of plain numbers, its dtype, shape and strides are those that NumPy reads."""
    checkpoint = open_checkpoint(path)
    with np.load(path, allow_pickle=True) as archive:
        listed = {tensor.key: tensor for tensor in checkpoint.root.tensors}
        assert {*listed, *(other.key for other in checkpoint.root.others)} == set(archive.files)
        for key, tensor in listed.items():
            array = archive[key]
            read = read_tensor(tensor)
            assert tensor.shape == array.shape, key
            assert str(read.dtype) == array.dtype.name == tensor.dtype, key
            assert read.tobytes() == array.astype(read.dtype).tobytes(), key
            if array.ndim > 1 and array.size:
                assert tuple(step * array.itemsize for step in tensor.stride) == array.strides, key


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_read_as_numpy_reads_them(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "model.npz"
    save(path, **ARRAYS, **OTHERS)
    equal_to_numpys(path)
    contents = read_contents(path)
    assert contents.container is Container.NUMPY_ARCHIVE
    assert not contents.problems
    assert [other.key for other in contents.roots[0].others] == [*OTHERS]
    assert all(name in contents.notes[0] for name in [*OTHERS][:3])


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_arrays_of_each_version(tmp_path: Path, name: str, version: tuple[int, int]) -> None:
    path = tmp_path / f"{name.replace('/', '.')}.npy"
    with path.open("wb") as file:
        npy.write_array(file, np.asarray(ARRAYS[name]), version)
    (tensor,) = open_checkpoint(path).root.tensors
    assert tensor.key == name.replace("/", ".")
    assert np.array_equal(read_tensor(tensor), np.load(path))


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_arrays_that_are_no_numbers_are_named(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "x.npy", OTHERS[name])
    with pytest.raises(NotACheckpoint, match="not of plain numbers"):
        open_checkpoint(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", **{name: OTHERS[name]})
    with pytest.raises(NotACheckpoint, match="without arrays of plain numbers"):
        open_checkpoint(tmp_path / "x.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_floats_of_8_bits_that_numpy_writes_and_cannot_read(tmp_path: Path, save: Any) -> None:
    array = np.arange(12, dtype="f4").reshape(3, 4).astype(ml_dtypes.float8_e5m2)
    save(tmp_path / "x.npz", **{"fc.weight": array})
    checkpoint = open_checkpoint(tmp_path / "x.npz")
    assert checkpoint["fc.weight"].dtype == "float8_e5m2"
    assert np.array_equal(checkpoint.read("fc.weight").astype("f4"), array.astype("f4"))


@pytest.mark.parametrize("protocol", ["now", 2])
def test_a_dictionary_of_arrays_saved_as_one_array(tmp_path: Path, protocol: Any) -> None:
    """As `caffe-tensorflow` and many a script of that time keep weights."""
    state = {"conv": {"weight": ARRAYS["conv.weight"], "bias": ARRAYS["conv.bias"]}, "fc.weight": ARRAYS["fc.weight"]}
    path = tmp_path / "weights.npy"
    np.save(path, np.array(state, dtype=object))
    if protocol != "now":
        content = path.read_bytes()
        path.write_bytes(content[: content.index(b"\n") + 1] + pickle.dumps(np.array(state, dtype=object), protocol))
    loaded = np.load(path, allow_pickle=True).item()
    tensors = {tensor.key: tensor for tensor in read_contents(path).roots[0].tensors}
    assert np.array_equal(read_tensor(tensors["conv.weight"]), loaded["conv"]["weight"])
    assert np.array_equal(read_tensor(tensors["conv.bias"]), loaded["conv"]["bias"])
    assert np.array_equal(read_tensor(tensors["fc.weight"]), loaded["fc.weight"])
    assert call_main("convert", path, "-o", tmp_path / "x.pt")[0] == 0
    assert call_main("verify", path, tmp_path / "x.pt")[0] == 0
    assert check(path).exit_code < 2


def test_a_header_of_python_2_with_long_sizes(tmp_path: Path) -> None:
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }"
    (tmp_path / "x.npy").write_bytes(
        b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + np.ones(6, "f4").tobytes()
    )
    (tensor,) = open_checkpoint(tmp_path / "x.npy").root.tensors
    assert np.array_equal(read_tensor(tensor), np.load(tmp_path / "x.npy"))


def test_a_header_that_is_no_multiple_of_the_elements(tmp_path: Path) -> None:
    """Other writers do not pad, and in a compressed archive the elements lie behind the header in one stream."""
    array = np.arange(24, dtype="f8").reshape(4, 6)
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (4, 6)}"
    content = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + array.tobytes()
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
            archive.writestr("fc.weight.npy", content)
        equal_to_numpys(tmp_path / "x.npz")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("options", [Options(), Options(to="linear")])
def test_converted_to_plain_state_dicts(tmp_path: Path, suffix: str, save: Any, options: Options) -> None:
    path, target = tmp_path / "model.npz", tmp_path / f"model{suffix}"
    # safetensors has no complex128.
    arrays = {name: array for name, array in ARRAYS.items() if suffix == ".pt" or name != "wave"}
    save(path, **arrays, **OTHERS)
    job = convert(path, target, options)
    assert any("words" in note for note in job.notes)
    loaded = load_file(target) if suffix != ".pt" else torch.load(target, weights_only=True)
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        wanted = array.reshape(8, 4) if options.to and name == "conv.weight" else array
        assert np.array_equal(np.asarray(loaded[name]), wanted), name
    assert call_main("verify", path, target)[0] == 0
    code, out, _ = call_main("diff", path, target, "--values")
    assert "numbers differ" not in out
    assert code == 1


@pytest.mark.parametrize("target", ["other.npz", None, "other"])
def test_no_archive_of_arrays_is_written(tmp_path: Path, target: str | None) -> None:
    path = tmp_path / "model.npz"
    np.savez(path, **ARRAYS)
    for options in (Options(to="linear"), Options()):
        options = Options(to=options.to, in_place=target is None)
        with pytest.raises(CannotConvert) as raised:
            convert(path, tmp_path / target if target else None, options)
        assert ".safetensors or .pt" in raised.value.remedy
    assert [one.name for one in tmp_path.iterdir()] == ["model.npz"]


def test_what_wrote_arrays_of_objects_is_looked_at(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            import os

            return os.system, ("true",)

    for save, name in ((np.savez, "x.npz"), (np.savez_compressed, "y.npz")):
        save(tmp_path / name, w=np.ones((2, 2)), o=np.array([Harm()], dtype=object))
        report = check(tmp_path / name)
        assert "global-executes" in [found.code for found in report.findings]
        assert any("allow_pickle" in note for note in report.notes)
    np.save(tmp_path / "z.npy", np.array([Harm()], dtype=object))
    assert "global-executes" in [found.code for found in check(tmp_path / "z.npy").findings]


def test_checked_without_a_finding(tmp_path: Path) -> None:
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **ARRAYS, **OTHERS)
        report = check(tmp_path / "x.npz")
        assert (report.container, report.findings) == (Container.NUMPY_ARCHIVE, ())
        assert report.looked["records"] == len(ARRAYS) + len(OTHERS)
        assert report.looked["pickles"] == 1
    np.save(tmp_path / "x.npy", ARRAYS["fc.weight"])
    assert check(tmp_path / "x.npy").exit_code == 0


def test_names_that_differ_in_case_alone_are_two_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", W=np.ones((2, 2)), w=np.ones(2))
    assert not check(tmp_path / "x.npz").findings
    assert len(open_checkpoint(tmp_path / "x.npz")) == 2


def test_cut_files_say_so(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones((4, 4)))
    whole = path.read_bytes()
    for size in range(7, 128):
        path.write_bytes(whole[:size])
        with pytest.raises((CutShort, NotACheckpoint)):
            open_checkpoint(path)
    path.write_bytes(whole[:-5])
    assert "5 are missing" in open_checkpoint(path).problems[0]
    assert check(path).exit_code == 1
    path.write_bytes(whole + b"123")
    assert [found.code for found in check(path).findings] == ["trailing-bytes"]
    np.savez(tmp_path / "x.npz", w=np.ones((4, 4)))
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:-60])
    with pytest.raises(CutShort):
        open_checkpoint(tmp_path / "x.npz")


def _headed(text: str) -> bytes:
    return b"\x93NUMPY\2\0" + struct.pack("<I", len(text)) + text.encode("latin-1") + bytes(64)


HOSTILE = {
    "negative size": ("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4)}", RefusedFile),
    "2^60 elements": (f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({1 << 60},)}}", RefusedFile),
    "a size of 4,000 digits": (f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'9' * 4000},)}}", RefusedFile),
    "a size of 9,000 digits": (f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'9' * 9000},)}}", BrokenFile),
    "deep brackets": ("[" * 9_000, BrokenFile),
    "many signs": ("-" * 9_000 + "1", BrokenFile),
    "a call": ("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': ()}", BrokenFile),
    "sizes that are no numbers": ("{'descr': '<f4', 'fortran_order': False, 'shape': (2.5,)}", BrokenFile),
    "sizes that are truths": ("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", BrokenFile),
    "other keys": ("{'descr': '<f4'}", BrokenFile),
    "a set": ("{'descr', 'fortran_order', 'shape'}", BrokenFile),
    "an order that is none": ("{'descr': '<f4', 'fortran_order': 1, 'shape': ()}", BrokenFile),
    "a long header": ("{'descr': '<f4', 'fortran_order': False, 'shape': ()}" + " " * 10_000, RefusedFile),
    "a zero byte": ("{'descr': '<f4',\0}", BrokenFile),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_headers_that_lie_are_one_line(tmp_path: Path, name: str) -> None:
    text, error = HOSTILE[name]
    (tmp_path / "x.npy").write_bytes(_headed(text))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("w.npy", _headed(text))
    for path in (tmp_path / "x.npy", tmp_path / "x.npz"):
        with pytest.raises(error):
            open_checkpoint(path)
        for command in ("shapes", "check"):
            code, _, err = call_main(command, path)
            assert code == 2, command
            assert command == "check" or err.count("\n") == 1, err


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_the_way_to_what_numpy_keeps_as_raw_bytes_works(tmp_path: Path, dtype: Any, monkeypatch: Any) -> None:
    """The expression in the message gives the numbers."""
    monkeypatch.chdir(tmp_path)
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save("a.npy", numbers.astype(dtype))
    np.savez("a.npz", a=numbers.astype(dtype), b=numbers)
    said = call_main("shapes", "a.npy").err.rpartition("; save ")[2].replace(" (or the float8 that it was)", "")
    given = eval(said, {"numpy": np, "ml_dtypes": ml_dtypes})
    assert given.dtype == np.float32
    assert np.array_equal(given, numbers)
    line = next(note for note in open_checkpoint(Path("a.npz")).notes if "as plain numbers" in note)
    assert f"numpy.load(…)['a'].view(ml_dtypes.{np.dtype(dtype).name})" in line
