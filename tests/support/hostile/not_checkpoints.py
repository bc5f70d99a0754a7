"""What is no checkpoint at all.

NOT_CHECKPOINTS    name → (builder(tmp_path), a word that the message must hold, in any case)
"""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from support.hostile.containers import plain_file
from support.hostile.opcodes import PAYLOAD

LFS_SIZE = 1_234_567_890
LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size " + str(LFS_SIZE).encode() + b"\n"
)
HTML_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n"
ONNX_MODEL = (
    b'\x08\x07\x12\x07pytorch\x1a\x061.13.0:\x83\x01\n\x1b\n\x01x\n\x01w\x12\x01y\x1a\x04conv"\x04Conv' + bytes(64)
)
GGUF_MODEL = b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(64)
HDF5_FILE = b"\x89HDF\r\n\x1a\n" + bytes(8) + b"\x00\x08\x08\x00\x04\x00\x10\x00" + bytes(64)


def tar_file(tmp_path: Path, suffix: str = ".pth.tar", mode: str = "w") -> Path:
    """A real tar without a checkpoint inside."""
    path = tmp_path / f"model{suffix}"
    content = b"no weights here"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("model/notes.txt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


def npz_file(tmp_path: Path) -> Path:
    """An archive of arrays of NumPy that are texts."""
    path = tmp_path / "names.npz"
    array = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<U6', 'fortran_order': False, 'shape': (4,), }".ljust(117)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("names.npy", array + b"\n" + PAYLOAD)
    return path


def other_zip(tmp_path: Path) -> Path:
    """A zip of something else."""
    path = tmp_path / "notes.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no weights here")
    return path


def folder_without_weights(tmp_path: Path) -> Path:
    """A folder of a model's other files."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("# A model\n")
    return folder


def empty_folder(tmp_path: Path) -> Path:
    """A folder of nothing."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


NOT_CHECKPOINTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "lfs_pointer_pt": (partial(plain_file, name="model.pt", content=LFS_POINTER), "git-lfs"),
    "lfs_pointer_safetensors": (partial(plain_file, name="model.safetensors", content=LFS_POINTER), "git-lfs"),
    "lfs_pointer_size": (partial(plain_file, name="model.pt", content=LFS_POINTER), f"{LFS_SIZE:,}"),
    "html": (partial(plain_file, name="model.pth", content=HTML_PAGE), "HTML"),
    "html_safetensors": (partial(plain_file, name="model.safetensors", content=b"\n " + HTML_PAGE.lower()), "HTML"),
    "empty": (partial(plain_file, name="model.pt", content=b""), "empty"),
    "zeros": (partial(plain_file, name="model.pt", content=bytes(4096)), "zero"),
    "zeros_safetensors": (partial(plain_file, name="model.safetensors", content=bytes(4096)), "zero"),
    "tar": (tar_file, "tar"),
    "tar_gz": (partial(tar_file, suffix=".tar.gz", mode="w:gz"), "gzip"),
    "onnx": (partial(plain_file, name="model.onnx", content=ONNX_MODEL), "ONNX"),
    "gguf": (partial(plain_file, name="model.gguf", content=GGUF_MODEL), "GGUF"),
    "hdf5": (partial(plain_file, name="model.h5", content=HDF5_FILE), "HDF5"),
    "npz": (npz_file, "NumPy"),
    "other_zip": (other_zip, "zip"),
    "json": (partial(plain_file, name="config.json", content=b'{"hidden_size": 8}'), "JSON"),
    "text": (partial(plain_file, name="model.pt", content=b"see the wiki for the weights\n"), "text"),
    "folder_without_weights": (folder_without_weights, "folder"),
    "empty_folder": (empty_folder, "folder"),
}
