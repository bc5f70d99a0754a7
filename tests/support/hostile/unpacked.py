"""Unpacked files of `torch.save` that name files elsewhere, or whose files are links."""

from __future__ import annotations

from pathlib import Path

from support.hostile.opcodes import PAYLOAD, Value, beside_a_layer, dict_of, pickled, tensor, text

KEYS = {
    "outside": "../../secret",
    "absolute": "/etc/passwd",
    "empty": "",
    "folder": ".",
    "zero": "0\0",
    "pickle": "../data.pkl",
    "long": "0" * 5_000,
    "escape": "\x1b[31m",
}


def unpacked_folder(tmp_path: Path, stream: bytes) -> Path:
    """`stream` as the `data.pkl` of an unpacked file."""
    folder = tmp_path / "unpacked"
    (folder / "data").mkdir(parents=True)
    (folder / "data.pkl").write_bytes(stream)
    (folder / "data" / "0").write_bytes(PAYLOAD)
    (folder / "version").write_text("3\n")
    (tmp_path / "secret").write_bytes(PAYLOAD)
    return folder


def in_unpacked(tmp_path: Path, marker: Path, make: Value) -> Path:
    """A value beside a sound kernel."""
    return unpacked_folder(tmp_path, beside_a_layer(make(marker)))


def unpacked_key(tmp_path: Path, marker: Path, key: str) -> Path:
    """A storage whose key is none of a file in the folder."""
    stream = pickled(dict_of((text("conv.weight"), tensor())))
    assert text("0") in stream
    return unpacked_folder(tmp_path, stream.replace(text("0"), text(key)))


def unpacked_link(tmp_path: Path, marker: Path, name: str) -> Path:
    """A file of the folder, or one of its folders, that is a link to something else."""
    folder = unpacked_folder(tmp_path, pickled(dict_of((text("conv.weight"), tensor()))))
    if name == "folder":
        (folder / "data").rename(tmp_path / "elsewhere")
        (folder / "data").symlink_to(tmp_path / "elsewhere")
        return folder
    place = folder / ("data.pkl" if name == "pickle" else "data/0")
    to = place if name == "itself" else tmp_path / "secret"
    place.unlink()
    place.symlink_to(to)
    return folder
