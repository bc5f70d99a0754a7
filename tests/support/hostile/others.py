"""Archives of other kinds, and what is no plain file."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
from pathlib import Path

from support.hostile.calls import bomb
from support.hostile.containers import legacy_file, plain_file, zip_file, zip_of
from support.hostile.opcodes import beside_a_layer


def tar_block(kind: bytes, size: int) -> bytes:
    """A tar header of before POSIX, which has no magic number, only a sum."""
    head = bytearray(512)
    head[:4], head[100:108], head[124:136], head[156:157] = b"evil", b"0000644\0", b"%011o\0" % size, kind
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def tar_of_records(tmp_path: Path, marker: Path) -> Path:
    """A PAX record that a regular expression is slow on."""
    content = b"1" * 500_000
    return plain_file(tmp_path, "model.pt", tar_block(b"x", len(content)) + content + bytes(12 + 1024))


def tar_in_lzma(tmp_path: Path, marker: Path) -> Path:
    """The same of a gigabyte, of which a fifth is there, packed by a method without a magic number."""
    packer = lzma.LZMACompressor(lzma.FORMAT_ALONE, preset=0)
    pieces = [packer.compress(tar_block(b"x", 2**30))]
    pieces += [packer.compress(bytes(2**20)) for _ in range(210)]
    return plain_file(tmp_path, "model.pt", b"".join([*pieces, packer.flush()]))


def archive_in(tmp_path: Path, marker: Path, magic: bytes) -> Path:
    """A pickle behind another archive's first bytes, for scanners that go by names or by magic numbers."""
    return plain_file(tmp_path, "model.pt", magic + beside_a_layer(bomb(marker)))


def zip_in_zip(tmp_path: Path, marker: Path) -> Path:
    """A checkpoint in a zip."""
    inner = zip_file(tmp_path, beside_a_layer(bomb(marker))).read_bytes()
    return zip_of(tmp_path / "nested.pt", {"model.pt": inner})


def pickle_then_zip(tmp_path: Path, marker: Path) -> Path:
    """A pickle to one reader, a zip to another, which goes by the end."""
    inner = zip_file(tmp_path, beside_a_layer(bomb(marker))).read_bytes()
    return plain_file(tmp_path, "model.pt", beside_a_layer(bomb(marker)) + inner)


def legacy_then_zip(tmp_path: Path, marker: Path) -> Path:
    """A sound stream of before 1.6 with a zip of another at its end."""
    inner = zip_file(tmp_path, beside_a_layer(bomb(marker))).read_bytes()
    return plain_file(tmp_path, "model.pt", legacy_file(tmp_path).read_bytes() + inner)


def tar_with_pickles(tmp_path: Path, marker: Path, form: int) -> Path:
    """What torch wrote before 0.1.10: a tar of pickles."""
    path = tmp_path / "model.pt"
    with tarfile.open(path, "w", format=form) as archive:
        for name in ("sys_info", "pickle", "storages", "tensors", "é" * 40):
            member = tarfile.TarInfo(name)
            member.size = len(beside_a_layer(bomb(marker)))
            archive.addfile(member, io.BytesIO(beside_a_layer(bomb(marker))))
    return path


def pipe(tmp_path: Path, marker: Path) -> Path:
    """A named pipe, on which reading would wait for ever."""
    path = tmp_path / "pipe.pt"
    os.mkfifo(path)
    return path


def link_to_itself(tmp_path: Path, marker: Path) -> Path:
    """A symbolic link that leads nowhere but back."""
    path = tmp_path / "link.pt"
    path.symlink_to(path)
    return path


def nested_folders(tmp_path: Path, marker: Path) -> Path:
    """A folder that holds a link to itself."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inner").symlink_to(folder)
    return folder
