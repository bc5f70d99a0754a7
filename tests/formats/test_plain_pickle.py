"""Pickles that `torch.save` did not write, against what `pickle.load` makes of them."""

from __future__ import annotations

import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from convinspect.arrays.read import read_blocks, read_tensor
from convinspect.checking.scan import check
from convinspect.checkpoint import Checkpoint
from convinspect.errors import BrokenFile, ConvInspectError
from convinspect.formats import read_contents
from convinspect.records import Container, Contents
from support.in_process import run

PROTOCOLS = range(6)
MODEL = nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.Conv1d(6, 5, 3, bias=False))
STATE = OrderedDict(
    **MODEL.state_dict(),
    half=torch.arange(6.0).half(),
    brain=torch.randn(3, 4).bfloat16(),
    turned=torch.arange(12.0).reshape(3, 4).T,
    part=torch.arange(300)[20:40:3],
    empty=torch.zeros(0, 3),
    scalar=torch.tensor(2.5),
    flags=torch.tensor([True, False]),
    complex=torch.tensor([1 + 2j]),
)
ARRAYS = {
    "conv.weight": np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype("f4"),
    "big": np.arange(-3, 3, dtype=">f4").reshape(2, 3),
    "bigger": np.arange(7, dtype=">i8"),
    "columns": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "permuted": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "empty": np.zeros((0, 3), "f2"),
    "scalar": np.array(2.5),
    "flags": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "bytes": np.arange(256, dtype="u1"),
    "brain": np.arange(5, dtype=ml_dtypes.bfloat16),
    "eight": np.arange(5, dtype=ml_dtypes.float8_e4m3fn),
    "one": np.array([7], "u1"),
    "same": np.array([[7]], "i1"),
}
OBJECTS = {"names": np.array(["a", None], object), "text": np.array(["abc"]), "records": np.zeros(2, "f4,i4")}


class Table(np.ndarray):
    """An array with a class of its own."""


def numbers_in(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Tensors and arrays by their dotted place."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers_in(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (torch.Tensor, np.ndarray)):
        yield path, value


def pickled(path: Path, value: object, protocol: int) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def check_numbers(contents: Contents, value: object) -> None:
    """Hold every listed tensor against what was pickled."""
    found = {f"{root.path}.{one.key}".strip("."): one for root in contents.roots for one in root.tensors}
    expected = dict(numbers_in(value))
    assert list(found) == list(expected)
    for key, theirs in expected.items():
        one = found[key]
        if isinstance(theirs, torch.Tensor):
            assert (one.dtype, one.stride) == (str(theirs.dtype).removeprefix("torch."), theirs.stride()), key
            theirs = theirs.detach()
            theirs = theirs.float().numpy() if theirs.dtype == torch.bfloat16 else theirs.numpy()
        ours = read_tensor(one)
        assert ours.shape == theirs.shape, key
        np.testing.assert_array_equal(ours.astype(theirs.dtype), theirs, err_msg=key)
        blocks = [block.copy() for block in read_blocks(one)]
        assert sum(map(len, blocks)) == theirs.size


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value", [STATE, {"model": STATE, "epoch": 3}, MODEL, {"a": {"weight": STATE["0.weight"]}}, MODEL.state_dict()]
)
def test_tensors_of_every_protocol(tmp_path: Path, value: object, protocol: int) -> None:
    path = pickled(tmp_path / "model.pkl", value, protocol)
    contents = read_contents(path)
    assert contents.container is Container.PICKLE
    assert not contents.problems
    assert not contents.foreign or isinstance(value, nn.Module)
    check_numbers(contents, value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    value = {"model": ARRAYS, "__author__": "someone", "matching_heuristics": True}
    path = pickled(tmp_path / "model.pkl", value, protocol)
    contents = read_contents(path)
    check_numbers(contents, value)
    assert contents.notes == ("its tensors are NumPy arrays",)
    assert not contents.foreign


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("by", ["pickle", "torch", "legacy"])
def test_arrays_whose_bytes_are_one_object_of_python(tmp_path: Path, by: str, protocol: int) -> None:
    """Python has one empty byte string, and one of each single byte; arrays of them share nothing."""
    fixed = np.zeros(0, "f4")
    fixed.setflags(write=False)
    value = {
        "a.weight": np.ones((2, 3), "f4"),
        "e": np.zeros((0, 3), "f4"),
        "g": np.zeros(0),
        "fixed": fixed,
        "fixed2": fixed.reshape(0, 2),
        "yes": np.array(True),
        "also": np.array(True),
        "one": np.array([1], "i1"),
        "other": np.array([[1]], "u1"),
    }
    value["same"] = value["yes"]
    path = tmp_path / "m.pkl"
    if by == "pickle":
        pickled(path, value, protocol)
    elif protocol < 2:
        pytest.skip("torch.save writes no such protocol")
    else:
        zipped = by == "torch"
        torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    contents = read_contents(path)
    check_numbers(contents, value)
    checkpoint = Checkpoint(contents)
    assert [key for key in value if checkpoint.tie(key)] == ["yes", "same"]
    target = tmp_path / "new.pt"
    assert not run("convert", path, "-o", target, "--state-dict").returncode
    new = torch.load(target, weights_only=True)
    places = {new[key].untyped_storage().data_ptr() for key in ("yes", "also", "one", "other", "same")}
    assert len(places) == 4


def test_arrays_of_modules_are_not_said_to_be_left_out(tmp_path: Path) -> None:
    """Flax keeps a dictionary for each module."""
    one = np.ones((2, 3), "f4")
    params: dict[str, Any] = {
        "Conv_0": {"kernel": one, "bias": one[0].copy()},
        "block.0": {"Dense_0": {"kernel": one, "about": "text"}, "Dense_1": {"kernel": one}},
    }
    target = tmp_path / "new.safetensors"
    for value, where in ((params, ""), ({"params": {**params, "set": {"lr": 1}}, "step": 3}, "params.")):
        done = run("convert", pickled(tmp_path / "m.pkl", value, 4), "-o", target, "--force")
        assert not done.returncode, done.stderr
        assert set(load_file(target)) == {
            f"{name}.kernel" for name in ("Conv_0", "block.0.Dense_0", "block.0.Dense_1")
        } | {"Conv_0.bias"}
        (line,) = re.findall("note: (.*) beside the tensors: not in the new file", done.stderr)
        expected = {f"{where}block.0.Dense_0.about"} | ({"step", "params.set"} if where else set())
        assert set(line.split(", ")) == expected


def test_parameters_keep_what_they_say(tmp_path: Path) -> None:
    path = pickled(tmp_path / "m.pkl", dict(MODEL.named_parameters()), 4)
    (root,) = read_contents(path).roots
    assert all(tensor.requires_grad for tensor in root.tensors)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_long_strings_stay_in_the_file(tmp_path: Path, protocol: int) -> None:
    """Those of more than a window are left where they are; the listing takes no more memory for them."""
    numbers = np.random.default_rng(0).integers(0, 256, 3 << 20).astype("u1")
    value = {"array": numbers, "tensor": torch.from_numpy(numbers), "after": torch.arange(3.0)}
    path = pickled(tmp_path / "m.pkl", value, protocol)
    contents = read_contents(path)
    check_numbers(contents, value)
    tensor = next(one for one in contents.roots[0].tensors if one.key == "array")
    part = tensor._replace(shape=(5,), offset=(3 << 20) - 5)
    np.testing.assert_array_equal(read_tensor(part), numbers[-5:])


@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_other_classes(tmp_path: Path, protocol: int) -> None:
    value = {"w": np.arange(6.0).reshape(2, 3).view(Table), "m": np.asmatrix(np.eye(2))}
    check_numbers(read_contents(pickled(tmp_path / "m.pkl", value, protocol)), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_no_numbers_are_named_and_left(tmp_path: Path, protocol: int) -> None:
    path = pickled(tmp_path / "m.pkl", {**OBJECTS, "w": np.eye(2)}, protocol)
    contents = read_contents(path)
    assert [tensor.key for tensor in contents.roots[0].tensors] == ["w"]
    what = "names (Python objects), text (text), records (records)"
    assert contents.notes[-1] == f"3 arrays of no plain numbers, left out: {what}"
    lines = run("convert", path, "-o", tmp_path / "m.safetensors").stderr
    assert "names, text, records beside the tensors: not in the new file" in lines


def test_one_array_is_one_tensor_under_two_names(tmp_path: Path) -> None:
    weight = np.arange(6.0).reshape(2, 3)
    checkpoint = Checkpoint(read_contents(pickled(tmp_path / "m.pkl", {"a": weight, "b": weight}, 4)))
    assert checkpoint.tie("a") == ("a", "b")


def test_a_buffer_out_of_band_has_a_shape_alone(tmp_path: Path) -> None:
    path, buffers = tmp_path / "m.pkl", list[pickle.PickleBuffer]()
    path.write_bytes(pickle.dumps({"w": np.eye(2), "v": np.ones(2)}, 5, buffer_callback=buffers.append))
    tensor = read_contents(path).roots[0].tensors[0]
    assert (tensor.shape, tensor.dtype, tensor.layout) == ((2, 2), "float64", "out-of-band")
    with pytest.raises(ConvInspectError, match="of which only the shape can be shown"):
        read_tensor(tensor)


def test_what_was_pickled_out_of_band_is_said(tmp_path: Path) -> None:
    """By every command, and with what to do."""
    arrays = {"fc.weight": np.ones((3, 4), np.float32), "fc.bias": np.ones(3, np.float32)}
    path, whole, buffers = tmp_path / "m.pkl", tmp_path / "whole.pkl", list[pickle.PickleBuffer]()
    path.write_bytes(pickle.dumps(arrays, 5, buffer_callback=buffers.append))
    whole.write_bytes(pickle.dumps(arrays, 5))
    listed = run("shapes", path).stdout
    assert "ambiguous" not in listed
    assert " out-of-band\n" in listed
    assert "out-of-band: its numbers are in a buffer beside the file" in listed
    refused = run("convert", path, "-o", tmp_path / "x.safetensors").stderr
    assert "into a buffer that is not in the file; pickle it again without buffer_callback" in refused
    compared = run("diff", "--values", whole, path).stdout
    assert "2 not compared" in compared
    compared = run("diff", path, whole).stdout
    assert "differ" not in compared
    assert "has no numbers in A: they were pickled out of band" in compared


@pytest.mark.parametrize("args", [b"cos\nsystem\n(VTRUE\ntNN", b"NNNN", b"cnumpy.core.multiarray\n_reconstruct\n", b""])
def test_what_dill_would_call_is_not_taken_for_an_array(tmp_path: Path, args: bytes) -> None:
    """`_create_array` calls its first argument."""
    path = tmp_path / "m.pkl"
    sound = pickle.dumps({"w": np.ones((2, 2))}, 2)
    assert sound[:3] == b"\x80\x02}"
    path.write_bytes(sound[:-1] + b"X\1\0\0\0vcdill._dill\n_create_array\n(" + args + b"tRs.")
    ended = run("shapes", path, "--all")
    assert (ended.returncode, ended.stderr.count("\n")) in ((0, 0), (2, 1)), ended
    assert "\nv " not in ended.stdout
    assert run("check", path).returncode == (1 if ended.returncode == 0 else 2)


def test_half_complex_numbers_keep_their_dtype(tmp_path: Path) -> None:
    """They lie in a byte string, at any offset, and numpy has no such numbers."""
    path, target = tmp_path / "m.pkl", tmp_path / "m.pt"
    numbers = torch.view_as_complex(torch.arange(8.0).half().view(4, 2))
    for front in range(4):
        state = {"x" * (front + 1): torch.ones(1, dtype=torch.uint8), "c": numbers, "v": numbers[1:3]}
        path.write_bytes(pickle.dumps(state))
        assert not run("convert", path, "-o", target, "--force").returncode
        new = torch.load(target)
        assert [new[key].dtype for key in ("c", "v")] == [torch.complex32] * 2
        assert torch.equal(torch.view_as_real(new["c"]), torch.view_as_real(numbers))
        assert torch.equal(torch.view_as_real(new["v"]), torch.view_as_real(numbers[1:3]))
        assert not run("verify", path, target).returncode


@pytest.mark.parametrize("value", [{("a", 1): 0, 3: 1, None: 2, b"x": 3}, {"0": 0, 0: 1}])
def test_no_tensor_takes_the_place_of_another(tmp_path: Path, value: dict[Any, int]) -> None:
    """Keys that are no text are shown as text, or by their place."""
    path = pickled(tmp_path / "m.pkl", {key: torch.full((2,), number) for key, number in value.items()}, 4)
    assert len(Checkpoint(read_contents(path)).tensors) == len(value)
    for suffix in (".pt", ".safetensors"):
        ended = run("convert", path, "-o", tmp_path / f"new{suffix}")
        assert (ended.returncode, (tmp_path / f"new{suffix}").exists()) == (2, False)
        assert "two of its tensors would be called" in ended.stderr


def test_nothing_is_written_where_no_tensor_could_be(tmp_path: Path) -> None:
    value = {"n": torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)])}
    ended = run("convert", pickled(tmp_path / "m.pkl", value, 2), "-o", tmp_path / "new.pt")
    assert (ended.returncode, (tmp_path / "new.pt").exists()) == (2, False)
    assert "it has no tensor of plain numbers to save: n;" in ended.stderr


def test_arrays_beside_tensors_are_no_modules_of_flax(tmp_path: Path) -> None:
    state = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2)}
    value = {"w": np.ones((3, 4)), "model": state, "scaler": {"mean": np.zeros(4), "std": np.ones(4)}}
    roots = read_contents(pickled(tmp_path / "m.pkl", value, 4)).roots
    assert {root.path: [tensor.key for tensor in root.tensors] for root in roots} == {
        "": ["w"], "model": ["0.weight", "0.bias"], "scaler": ["mean", "std"]
    }  # fmt: skip


def test_arrays_among_tensors_are_counted(tmp_path: Path) -> None:
    path = pickled(tmp_path / "m.pkl", {"a": np.ones((2, 2)), "b": torch.ones(3), "c": np.ones(2)}, 4)
    assert "2 of its tensors are NumPy arrays" in read_contents(path).notes
    path = pickled(tmp_path / "m.pkl", {"a": np.ones((2, 2)), "b": torch.ones(3)}, 4)
    assert "1 of its tensors is a NumPy array" in read_contents(path).notes


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    """What Python 2.7 with NumPy 1.16 wrote of `{"w": numpy.arange(3, dtype="f4")}`, by protocols 0 and 2."""
    of_2 = (
        b"\x80\x02}q\x01U\x01wcnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87R"
        b"q\x04(K\x01K\x03\x85cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01\x87Rq\x06(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x0c\x00\x00\x00\x00\x00\x00\x80?\x00\x00\x00@tbs."
    )
    of_0 = (
        b"(dp0\nS'w'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n"
        b"(I1\n(I3\ntp8\ncnumpy\ndtype\np9\n(S'f4'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\n"
        b"S'\\x00\\x00\\x00\\x00\\x00\\x00\\x80?\\x00\\x00\\x00@'\np15\ntp16\nbs."
    )
    for stream in (of_2, of_0):
        expected = pickle.loads(stream, encoding="latin1")["w"]
        (tmp_path / "m.pkl").write_bytes(stream)
        (tensor,) = read_contents(tmp_path / "m.pkl").roots[0].tensors
        assert tensor.key == "w"
        np.testing.assert_array_equal(read_tensor(tensor), expected)


# --- the commands


VALUES: list[Any] = [STATE, {"model": dict(numbers_in(MODEL))}, {"model": ARRAYS}, MODEL]
WRITTEN: list[tuple[list[str], str]] = [
    (words, end) for words in ([], ["--to", "linear"]) for end in (".pt", ".safetensors")
]


@pytest.mark.parametrize(
    ("value", "protocol", "words", "suffix"),
    # Each two of these values together in one case or another.
    [(VALUES[row], (0, 2, 5)[column], *WRITTEN[(row + column) % 4]) for row in range(4) for column in range(3)],
)
def test_a_state_dict_is_written_with_the_same_numbers(
    tmp_path: Path, value: Any, protocol: int, words: list[str], suffix: str
) -> None:
    if isinstance(value, dict) and value.get("model") is ARRAYS:
        # safetensors has no complex128.
        value = {"model": {**ARRAYS, "conv.weight": ARRAYS["conv.weight"][:, :, 0, :1]}}
        del value["model"]["complex"]
    source, target = pickled(tmp_path / "model.pkl", value, protocol), tmp_path / f"new{suffix}"
    done = run("convert", source, "-o", target, *words)
    assert not done.returncode, done.stderr
    new = load_file(target) if suffix == ".safetensors" else torch.load(target, weights_only=True)
    expected = {key.removeprefix("model."): one for key, one in numbers_in(value)}
    assert set(new) == set(expected)
    for key, theirs in expected.items():
        array = (
            new[key].float().numpy() if new[key].dtype in (torch.bfloat16, torch.float8_e4m3fn) else new[key].numpy()
        )
        theirs = theirs.detach().float() if getattr(theirs, "dtype", None) == torch.bfloat16 else theirs
        flat = np.asarray(theirs.detach() if isinstance(theirs, torch.Tensor) else theirs)
        np.testing.assert_array_equal(array.reshape(flat.shape), flat.astype(array.dtype), err_msg=key)
    assert not words or any(len(one.shape) == 2 and "weight" in key for key, one in new.items())
    assert run("verify", source, target).returncode == 0


@pytest.mark.parametrize("words", [["-o", "new.pkl"], ["-o", "new"], ["--in-place"]])
def test_it_is_not_written_itself(tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickled(Path("model.pkl"), STATE, 4)
    before = Path("model.pkl").read_bytes()
    done = run("convert", "model.pkl", "--to", "linear", *words)
    assert done.returncode == 2
    remedy = "end -o in .safetensors or .pt, and its tensors are written as a plain state_dict"
    assert done.stderr == f"error: model.pkl: no pickle is written here, anew or in place; {remedy}\n"
    assert (Path("model.pkl").read_bytes(), len(list(tmp_path.iterdir()))) == (before, 1)


def test_a_dry_run_plans_the_new_file(tmp_path: Path) -> None:
    done = run("convert", pickled(tmp_path / "m.pkl", MODEL, 4), "--to", "linear", "--dry-run")
    assert not done.returncode
    assert "0      Conv1d  Linear  (6, 4, 1)  (6, 4)" in done.stdout


def test_diff_offers_a_command_that_works(tmp_path: Path) -> None:
    torch.save({**STATE, "0.weight": STATE["0.weight"].squeeze(-1)}, tmp_path / "new.pt")
    source = pickled(tmp_path / "m.pkl", STATE, 4)
    lines = run("diff", source, tmp_path / "new.pt").stdout
    (command,) = re.findall(r"convinspect (convert .*)", lines)
    done = run(*command.split())
    assert not done.returncode, done.stderr
    assert run("diff", tmp_path / "m_converted.safetensors", tmp_path / "new.pt").returncode == 0


# --- check


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [STATE, {"model": ARRAYS}])
def test_check_finds_nothing(tmp_path: Path, value: object, protocol: int) -> None:
    report = check(pickled(tmp_path / "m.pkl", value, protocol), values=True)
    assert report.container is Container.PICKLE
    assert {one.code for one in report.findings} <= {"nan"}


def test_check_names_a_class_of_its_own(tmp_path: Path) -> None:
    report = check(pickled(tmp_path / "m.pkl", {"w": np.eye(2).view(Table)}, 4))
    assert [(one.code, one.subject) for one in report.findings] == [("global-unknown", f"{__name__}.Table")]


@pytest.mark.parametrize("protocol", [0, 4])
def test_check_says_what_follows_the_pickle(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(STATE, protocol) + pickle.dumps(STATE, protocol))
    if protocol == 4:
        assert [one.code for one in check(path).findings] == ["trailing-bytes"]
        assert any("follow its pickle" in note for note in read_contents(path).notes)


def nested(content: bytes) -> bytes:
    """A pickle of a tensor whose storage is this byte string."""
    stream = pickle.dumps({"w": torch.arange(3.0)}, 4, fix_imports=False)
    start = stream.index(b"B\x05\x01\0\0") if b"B\x05\x01\0\0" in stream else stream.index(b"B")
    length = int.from_bytes(stream[start + 1 : start + 5], "little")
    before, after = stream[2 + 9 : start], stream[start + 5 + length :]
    return b"\x80\x04" + before + b"B" + len(content).to_bytes(4, "little") + content + after


def stream_of_a_storage(numel: int, count: int, numbers: bytes, info: bytes = b"}.") -> bytes:
    parts = [b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"M\xe9\x03.", info]
    parts.append(
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu\x8a\x09"
        + numel.to_bytes(9, "little")
        + b"NtQ."
    )
    parts.append(b"]X\x01\0\0\x000a.")
    return b"".join(b"\x80\x02" + part for part in parts) + count.to_bytes(8, "little") + numbers


def test_a_storage_is_read_from_its_stream(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(nested(stream_of_a_storage(3, 3, np.arange(3, dtype="f4").tobytes())))
    (tensor,) = read_contents(path).roots[0].tensors
    np.testing.assert_array_equal(read_tensor(tensor), [0, 1, 2])


@pytest.mark.parametrize(
    "content",
    [
        stream_of_a_storage(3, 4, bytes(12)),
        stream_of_a_storage(1 << 60, 1 << 60, bytes(12)),
        stream_of_a_storage(3, 3, bytes(11)),
        stream_of_a_storage(3, 3, bytes(13)),
        stream_of_a_storage(3, 3, bytes(12), info=b"cos\nsystem\n(X\x04\0\0\0truetR."),
        stream_of_a_storage(3, 3, bytes(12))[:-30],
        b"",
        b"\x80",
        b"PK\3\4" + bytes(100),
        pickle.dumps(STATE["0.weight"], 2),
    ],
)
def test_a_stream_of_anything_else_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(nested(content))
    with pytest.raises(BrokenFile) as caught:
        read_contents(path)
    assert "\n" not in str(caught.value)
    report = check(path)
    assert report.exit_code == 2
    assert "unreadable" in {one.code for one in report.findings}


def test_a_stream_that_calls_something_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(nested(stream_of_a_storage(3, 3, bytes(12), info=b"cos\nsystem\n(X\x04\0\0\0truetR.")))
    subjects = {one.subject for one in check(path).findings if one.code == "global-executes"}
    assert subjects == {"os.system", "torch.storage._load_from_bytes"}


def array_pickle(shape: tuple[Any, ...], content: object, dtype: str = "f4") -> bytes:
    """A pickle of an array of this state, whatever it says."""

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            rebuild = np.zeros(1).__reduce__()
            return (*rebuild[:2], (1, shape, np.dtype(dtype), False, content))

    return pickle.dumps({"w": Hostile(), "v": np.eye(2)}, 4)


@pytest.mark.parametrize(
    ("shape", "content"),
    [
        ((3,), bytes(11)),
        ((3,), bytes(13)),
        ((1 << 60,), bytes(4)),
        ((1 << 31, 1 << 31, 1 << 31), bytes(4)),
        ((-3,), bytes(12)),
        ((3.0,), bytes(12)),
        ((1,) * 65, bytes(4)),
        (("3",), bytes(12)),
    ],
)
def test_an_array_whose_shape_and_bytes_disagree_is_one_line(
    tmp_path: Path, shape: tuple[Any, ...], content: bytes
) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(array_pickle(shape, content))
    done = run("shapes", path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'w'" in done.stderr
    assert check(path).exit_code == 2


@pytest.mark.parametrize("content", [None, 3, [1, 2], "текст", "abcabcabcabc", {"a": 1}])
def test_an_array_of_no_bytes_is_one_line(tmp_path: Path, content: object) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(array_pickle((3,), content))
    with pytest.raises(BrokenFile, match="array 'w' has no bytes where its numbers should be"):
        read_contents(path)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_cut_pickle_is_one_line(tmp_path: Path, protocol: int, cut: float) -> None:
    content = pickle.dumps({"model": STATE, "arrays": ARRAYS}, protocol)
    path = tmp_path / "m.pkl"
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(ConvInspectError):
        read_contents(path)
    assert check(path).exit_code == 2 or protocol == 0


def test_the_listing_as_json(tmp_path: Path) -> None:
    found = json.loads(run("shapes", pickled(tmp_path / "m.pkl", MODEL, 4), "--format", "json").stdout)
    assert found["format"] == "pickle"


def test_of_two_states_the_last_counts(tmp_path: Path) -> None:
    class Twice:
        def __reduce__(self) -> Any:
            return np.arange(3.0).__reduce__()

    stream = pickle.dumps([Twice()], 2)
    state = pickle.dumps((1, (2,), np.dtype("f8"), False, np.ones(2).tobytes()), 2)[2:-1]
    at = stream.rindex(b"b") + 1
    twice = stream[:at] + state + b"b" + stream[at:]
    np.testing.assert_array_equal(pickle.loads(twice)[0], [1, 1])
    (tmp_path / "m.pkl").write_bytes(twice)
    (tensor,) = read_contents(tmp_path / "m.pkl").roots[0].tensors
    np.testing.assert_array_equal(read_tensor(tensor), [1, 1])


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_masked_arrays_are_left_with_the_reason(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "m.pkl"
    masked = np.ma.masked_array(np.ones((3, 4), np.float32), mask=np.eye(3, 4, dtype=bool))
    path.write_bytes(pickle.dumps({"w": masked, "x": np.ones((2, 2), np.float32)}, protocol))
    contents = read_contents(path)
    assert [tensor.key for tensor in contents.roots[0].tensors] == ["x"]
    assert "1 array of no plain numbers, left out: w (numbers with a mask)" in contents.notes
