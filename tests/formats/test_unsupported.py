"""What is recognized and not read: named for what it is, never called damaged, with a way that works."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import re
import shlex
import struct
import subprocess
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from convinspect.arrays.read import read_tensor
from convinspect.checking.scan import check
from convinspect.checkpoint import Checkpoint
from convinspect.errors import BrokenFile, ConvInspectError, CutShort, NotACheckpoint, NotThere
from convinspect.formats import read_contents
from convinspect.formats.unsupported import kinds
from support.in_process import run

STATE = nn.Sequential(nn.Conv1d(3, 6, 1), nn.Linear(6, 4)).state_dict()
ARRAYS = {name: tensor.numpy() for name, tensor in STATE.items()}


def saved(path: Path) -> Path:
    torch.save(STATE, path)
    return path


def said(path: Path) -> ConvInspectError:
    """What every command says of the path, which `check` says too."""
    with pytest.raises(ConvInspectError) as raised:
        Checkpoint(read_contents(path))
    assert raised.value.problem in {finding.message for finding in check(path).findings}
    return raised.value


@pytest.mark.parametrize("magic", kinds.MAGICS, ids=lambda magic: magic.magic[:8])
def test_bytes_at_a_fixed_place(tmp_path: Path, magic: kinds.Magic) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x1c\0\0\0"[: magic.at] + magic.magic + bytes(100))
    error = said(path)
    assert isinstance(error, NotACheckpoint)
    assert (error.problem, error.remedy) == (f"it is {magic.what}", magic.remedy)


# --- compressed


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "xz": lzma.compress, "bzip2": bz2.compress}


@pytest.mark.parametrize("name", COMPRESS)
def test_the_command_for_a_compressed_file_unpacks_it(tmp_path: Path, name: str) -> None:
    kind = next(kind for kind in kinds.COMPRESSIONS if kind.name == name)
    content = b"1,2,3\n" * 999
    for where in ("table.csv" + kind.suffix, "odd name.nemo"):
        (tmp_path / where).write_bytes(COMPRESS[name](content))
        error = said(tmp_path / where)
        assert isinstance(error, NotACheckpoint)
        assert f"{name}-compressed" in error.problem
        assert "tar" not in error.problem
        command = error.remedy.removeprefix("unpack it first: ")
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        unpacked = tmp_path / shlex.split(command)[-1]
        assert unpacked.read_bytes() == content


@pytest.mark.parametrize("name", COMPRESS)
def test_a_compressed_tar_is_a_tar(tmp_path: Path, name: str) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("notes.txt")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"notes"))
    path = tmp_path / "model.nemo"
    path.write_bytes(COMPRESS[name](archive.getvalue()))
    error = said(path)
    assert f"a tar archive, {name}-compressed" in error.problem
    command = re.search(r"\((tar .*?)\)", error.remedy)
    assert command is not None
    subprocess.run(command[1], shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "notes.txt").read_bytes() == b"notes"


@pytest.mark.parametrize(
    "content", [b"\x1f\x8b", b"\x1f\x8b\x08" + bytes(60), b"\xfd7zXZ\0\0\1", b"BZh9" + bytes(9), b"x\x9c"]
)
def test_what_only_begins_compressed_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    assert isinstance(said(path), NotACheckpoint)


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "w.pt.gz"
    with gzip.open(path, "wb") as stream:
        for _ in range(64):
            stream.write(bytes(1 << 20))
    assert "gzip-compressed" in said(path).problem


# --- pickles


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"names": np.array(["a", None], object)}, "a plain pickle of NumPy arrays, of which none is of plain numbers"),
        ({"lr": 0.1}, "a plain pickle, without tensors"),
        ([1, "text", (2.5, None)], "a plain pickle, without tensors"),
        (Fraction(1, 3), "a plain pickle (it asks for 'fractions.Fraction'"),
    ],
)
def test_pickles_of_every_protocol(tmp_path: Path, protocol: int, value: object, what: str) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    error = said(path)
    assert isinstance(error, NotACheckpoint)
    assert what in error.problem


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_cut_pickle_is_cut_short(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pkl"
    content = pickle.dumps(ARRAYS, protocol)
    path.write_bytes(content[: len(content) // 2])
    assert isinstance(said(path), CutShort)


@pytest.mark.parametrize("content", [b"N.", b"I01\n.", b"It is in the wiki.", b"(lp0\n is what I see.", b"}."])
def test_a_text_that_ends_like_a_pickle_is_no_damaged_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    assert isinstance(said(path), NotACheckpoint)


def save_arrays_now(path: Path) -> None:
    torch.save({"names": np.array(["a", None], object)}, path)


def save_arrays_then(path: Path) -> None:
    torch.save([np.array(["a"]), {"mean": np.float64(2)}], path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [save_arrays_now, save_arrays_then])
def test_arrays_in_a_torch_save_file_are_named(tmp_path: Path, save: Callable[[Path], None]) -> None:
    path = tmp_path / "w.pt"
    save(path)
    with pytest.raises(NotACheckpoint, match="NumPy arrays, without tensors") as raised:
        Checkpoint(read_contents(path))
    assert "weights_only=False" in raised.value.remedy
    assert raised.value.problem in check(path).notes


def test_what_has_neither_tensors_nor_arrays(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "rng": (1, 2)}, tmp_path / "w.pt")
    with pytest.raises(NotACheckpoint, match="it holds no tensors"):
        Checkpoint(read_contents(tmp_path / "w.pt"))
    assert "it holds no tensors" in check(tmp_path / "w.pt").notes
    saved(tmp_path / "s.pt")
    assert not any("no tensors" in note for note in check(tmp_path / "s.pt").notes)


# --- protobufs, without the libraries that write them


def field(number: int, content: bytes | int) -> bytes:
    def varint(value: int) -> bytes:
        low = value & 127
        return bytes([low]) if value < 128 else bytes([low | 128]) + varint(value >> 7)

    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


NODE = field(1, b"x") + field(2, b"Placeholder")
GRAPH = field(1, NODE) + field(1, NODE) + field(4, field(1, 1087))
META_INFO = field(2, field(1, field(1, b"AddV2"))) + field(4, b"serve") + field(5, b"2.21.0")
SIGNATURE = field(1, b"serving_default") + field(2, field(3, b"tensorflow/serving/predict"))
WRITTEN = field(1, META_INFO) + field(2, GRAPH) + field(3, field(1, b"save/Const:0")) + field(5, SIGNATURE)
"""The fields of a MetaGraphDef as TensorFlow 2.21 writes it, by `tf.saved_model.save` with field 7 beside them."""
SUMS = b"".join(field(number, 2**63 - number) for number in range(1, 6))
META_GRAPH = field(1, field(4, b"serve")) + field(2, GRAPH)
PROTOBUFS = {
    "onnx": (field(1, 7) + field(2, b"pytorch") + field(7, bytes(500)) + field(8, field(2, 17)), kinds.ONNX),
    "onnx without a producer": (field(1, 7) + field(7, bytes(500)) + field(8, field(2, 17)), kinds.ONNX),
    "onnx without a version": (field(7, bytes(500)) + field(8, field(2, 17)), kinds.ONNX),
    "core ml network": (field(1, 4) + field(2, bytes(300)) + field(500, bytes(9)), kinds.CORE_ML),
    "core ml program": (field(1, 7) + field(2, bytes(300)) + field(502, bytes(9)), kinds.CORE_ML),
    "saved model of tensorflow 2.21": (field(1, 1) + field(2, WRITTEN), kinds.SAVED_MODEL),
    "saved model with objects": (field(1, 1) + field(2, WRITTEN + field(7, field(1, b""))), kinds.SAVED_MODEL),
    "fingerprint.pb": (SUMS + field(6, field(1, 4)) + field(7, b"1177218569751"), kinds.FINGERPRINT),
    "fingerprint.pb of 2.12": (SUMS + field(6, field(1, 1)), kinds.FINGERPRINT),
    "saved model": (field(1, 1) + field(2, META_GRAPH), kinds.SAVED_MODEL),
    "frozen graph": (GRAPH, kinds.FROZEN_GRAPH),
}


TABLE_END = bytes(38) + bytes.fromhex("57fb808b247547db")


def test_the_index_of_a_tensorflow_checkpoint(tmp_path: Path) -> None:
    """Its table begins with an empty key, as TensorFlow 2.21 writes it; other tables of LevelDB do not."""
    path = tmp_path / "variables.index"
    path.write_bytes(bytes.fromhex("00000608011a02080100011377080112081202080312020804") + TABLE_END)
    assert said(path).problem == f"it is {kinds.TF_INDEX.what}"
    assert check_problem(path) == said(path).problem
    path.write_bytes(b"\0\x0b\6some_key" + bytes(30) + TABLE_END)
    assert said(path).problem == f"it is {kinds.UNKNOWN.what}"


@pytest.mark.parametrize(
    "content", [b"\0" * 4096, b"\x1f\x8b\x08\0" * 20, struct.pack("<64f", *range(64)), b"\x81\xa5model"]
)
@pytest.mark.parametrize("index", [True, False])
def test_the_values_of_a_tensorflow_checkpoint_are_known_by_their_name(
    tmp_path: Path, content: bytes, index: bool
) -> None:
    """They are numbers without anything before them, whatever these begin with."""
    path = tmp_path / "model.ckpt-3.data-00000-of-00001"
    path.write_bytes(content)
    if index:
        (tmp_path / "model.ckpt-3.index").touch()
    kind = kinds.TF_PART if index else kinds.TF_PART_ALONE
    assert said(path).problem == f"it is {kind.what}"
    assert check_problem(path) == said(path).problem


def test_a_page_in_place_of_the_values_of_a_tensorflow_checkpoint_is_a_page(tmp_path: Path) -> None:
    path = tmp_path / "model.data-00000-of-00001"
    path.write_bytes(b"<!DOCTYPE html><html>")
    assert said(path).problem == f"it is {kinds.HTML.what}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 12\n")
    assert "git-lfs" in said(path).problem


@pytest.mark.parametrize("name", PROTOBUFS)
def test_protobufs_are_told_apart(tmp_path: Path, name: str) -> None:
    content, kind = PROTOBUFS[name]
    path = tmp_path / "model.pb"
    path.write_bytes(content)
    assert said(path).problem == f"it is {kind.what}"


@pytest.mark.parametrize(
    "content", [b"\x08" * 50, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x08\x07\x12\x80\x80", b"\xff" * 99]
)
def test_what_is_no_protobuf_is_not_taken_for_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    assert said(path).problem == f"it is {kinds.UNKNOWN.what}"


# --- folders


def check_problem(path: Path) -> str:
    (only,) = check(path).findings
    return only.message


@pytest.mark.parametrize("sizes", [[(4, 4)] * 3, [(4, 4)], [(64, 64), (4, 4), (4, 4)]], ids=str)
def test_pieces_of_one_size_are_no_whole_file(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    """Where the last of several zips points into the first, as far as its own bytes go, it could be read as a whole."""
    state = {f"{number}.weight": torch.rand(size) for number, size in enumerate(sizes)}
    save_distributed(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    (piece,) = (tmp_path / "dcp").glob("*.distcp")
    (tmp_path / "dcp" / ".metadata").unlink()
    (root,) = read_contents(piece).roots
    assert [tensor.shape for tensor in root.tensors] == sizes
    assert [list(read_tensor(tensor).ravel()) for tensor in root.tensors] == [list(t.ravel()) for t in state.values()]


@pytest.mark.parametrize(
    "words",
    [["weights"], ["compare", "--layer", "0", "--repeats", "3"], ["explain", "0"], ["convert", "--to", "linear"]],
)
def test_commands_take_a_distributed_checkpoint(tmp_path: Path, words: list[str]) -> None:
    model = nn.Sequential(nn.Conv1d(6, 4, 1))
    save_distributed(model.state_dict(), checkpoint_id=tmp_path / "d c p", no_dist=True)
    more = ["-o", str(tmp_path / "b.pt")] if words[0] == "convert" else []
    result = run(words[0], tmp_path / "d c p", *words[1:], *more)
    assert result.returncode == 0, result.stderr
    if words[0] == "convert":
        assert torch.equal(torch.load(tmp_path / "b.pt")["0.weight"], model.state_dict()["0.weight"].squeeze(-1))


def test_a_distributed_checkpoint_without_metadata(tmp_path: Path) -> None:
    save_distributed(STATE, checkpoint_id=tmp_path / "dcp", no_dist=True)
    (tmp_path / "dcp" / ".metadata").unlink()
    error = said(tmp_path / "dcp")
    assert "without its .metadata" in error.problem
    assert "copy .metadata" in error.remedy


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["saved_model.pb", "variables/variables.index"], "TensorFlow SavedModel"),
        (["model.ckpt-3.index", "model.ckpt-3.data-00000-of-00001"], "TensorFlow checkpoint"),
        (["Manifest.json", "Data/com.apple.CoreML/model.mlmodel"], "Core ML"),
        (["manifest.ocdbt", "d/0"], "Orbax"),
        (["model.onnx", "README.md"], "model.onnx"),
        (["config.json"], "the folder holds no checkpoint"),
    ],
)
def test_folders_of_other_libraries(tmp_path: Path, names: list[str], what: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"0")
    error = said(tmp_path)
    assert what in error.problem
    assert "{" not in error.remedy


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["parakeet.nemo", "README.md", ".gitattributes"], ["parakeet.nemo"]),
        (["m.npz", "all.tar.gz", "model.onnx"], ["m.npz"]),
        (["b.joblib", "a.npz", "rng_state_0.pkl.txt", "x.npy"], ["a.npz", "b.joblib"]),
    ],
)
def test_a_folder_names_what_may_hold_its_weights(tmp_path: Path, names: list[str], found: list[str]) -> None:
    """A repository of NeMo's models has an archive and nothing else."""
    for name in names:
        (tmp_path / name).write_bytes(b"0")
    error = said(tmp_path)
    assert error.problem == f"the folder has no file with a usual name of weights, but {', '.join(found)}"
    one = "one: " if len(found) > 1 else ""
    assert error.remedy == f"give {one}{', '.join(str(tmp_path / name) for name in found)}"


def test_the_index_of_a_keras_model(tmp_path: Path) -> None:
    path = tmp_path / "model.weights.json"
    path.write_text('{"metadata": {}, "weight_map": {"/layers/dense/vars": ["model_00000.weights.h5"]}}')
    assert "Keras" in said(path).problem
    path = tmp_path / "model.index.json"
    path.write_text('{"weight_map": {"a": ["b"]}}')
    assert isinstance(said(path), BrokenFile)


# --- what is no file here


@pytest.mark.parametrize("name", ["C:/w.pt", "no/such.pt", "a:b/w.pt"])
def test_a_path_is_no_address(name: str) -> None:
    with pytest.raises(NotThere, match="no such file"):
        read_contents(Path(name))


def test_a_flatbuffer_is_known_by_its_own_words() -> None:
    """The sizes that precede the bytes of a flatbuffer's kind are of four bytes."""
    assert {magic.at for magic in kinds.MAGICS} == {0, struct.calcsize("<I")}
