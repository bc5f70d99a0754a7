"""File systems of other kinds, in sparse files that are mounted for a test."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FIEMAP = 0xC020660B
_HEAD, _EXTENT = struct.Struct("=QQLLLL"), struct.Struct("=QQQ16xL12x")
_SYNC, _LAST, _SHARED = 1, 1, 0x2000
_MAKERS = {"xfs": ("-q", "-m", "reflink=1"), "btrfs": ("-q",), "ext4": ("-q", "-F")}


@contextmanager
def mounted_disk(folder: Path, kind: str, nbytes: int, *options: str) -> Iterator[Path]:
    """A new file system, empty, whose files lie in one sparse file; removed at the end.

    Args:
        folder: An empty folder; the file system is mounted on a folder in it.
        kind: "xfs" (with reflinks), "btrfs" or "ext4".
        nbytes: Its size; xfs needs 300 MB, btrfs 110 MB.
        options: Further options of its `mkfs`.

    Raises:
        PermissionError: This system does not let us, or has no program that makes it.
    """
    image, place = folder / f"{kind}.img", folder / kind
    maker = shutil.which(f"mkfs.{kind}", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if maker is None:
        raise PermissionError(f"there is no mkfs.{kind}")
    with open(image, "wb") as file:
        file.truncate(nbytes)
    subprocess.run([maker, *_MAKERS[kind], *options, str(image)], check=True, capture_output=True)
    place.mkdir()
    try:
        with _mounted(place, "-o", "loop", str(image)):
            yield place
    finally:
        image.unlink()
        place.rmdir()


@contextmanager
def memory_disk(folder: Path, option: str) -> Iterator[Path]:
    """A memory file system on `folder`, which it gives.

    Args:
        folder: An empty folder.
        option: As `mount -o` takes it, such as "size=64m".

    Raises:
        PermissionError: This system does not let us.
    """
    with _mounted(folder, "-t", "tmpfs", "-o", option, "tmpfs"):
        yield folder


@contextmanager
def overlaid(folder: Path) -> Iterator[Path]:
    """An overlay of two folders, as containers have it.

    Raises:
        PermissionError: This system does not let us.
    """
    lower, upper, work, place = (folder / name for name in ("lower", "upper", "work", "merged"))
    for made in (lower, upper, work, place):
        made.mkdir()
    with _mounted(place, "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "overlay"):
        yield place


@contextmanager
def _mounted(place: Path, *arguments: str) -> Iterator[None]:
    mount = ["mount", *arguments, str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        raise PermissionError("no such file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def shared_bytes(path: Path) -> int:
    """Bytes of a file whose blocks other files have too, by FIEMAP."""
    found, at = 0, 0
    with open(path, "rb") as file:
        while True:
            answer = bytearray(_HEAD.pack(at, (1 << 63) - 1, _SYNC, 0, 256, 0) + bytes(256 * _EXTENT.size))
            fcntl.ioctl(file, _FIEMAP, answer)
            count = _HEAD.unpack_from(answer)[3]
            for number in range(count):
                logical, _, length, flags = _EXTENT.unpack_from(answer, _HEAD.size + number * _EXTENT.size)
                found += length if flags & _SHARED else 0
                at = logical + length
                if flags & _LAST:
                    return found
            if not count:
                return found
