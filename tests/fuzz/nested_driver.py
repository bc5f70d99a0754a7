"""Driver of archives that hold checkpoints: what holds them is changed, or what they hold."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from lz4_frames import lz4_frame

_PACKERS: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: gzip.compress(data, 1, mtime=0),
    lambda data: bz2.compress(data, 1),
    lambda data: lzma.compress(data, preset=0),
    lambda data: zlib.compress(data, 1),
    lz4_frame,
)
_NAMES = ("w.ckpt", "./w.pt", "a/b/w.safetensors", "d" * 130 + "/w.pth", "w.bin", "../w.pt", "x.tar", "y.zip", "w!1.pt")


def nested(random: Random, folder: Path, checkpoints: Sequence[bytes]) -> Path:
    """Up to three archives or compressions around a checkpoint, of which any may be damaged."""
    data = random.choice(checkpoints)
    if random.random() < 0.2:
        data = _damaged(random, data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice((_tar, _tar, _zip, _packed))(random, data)
        if random.random() < 0.6:
            data = _damaged(random, data)
    path = folder / random.choice(("m.nemo", "m.zip", "m.tar.gz", "m.mar", "m.bin", "m"))
    path.write_bytes(data)
    return path


def in_archive(random: Random, folder: Path, below: Path) -> Path:
    """An archive of the folder `below`, which is a checkpoint, sometimes beside another; any of it may be damaged.

    Args:
        random: Decides.
        folder: Where the archive is written.
        below: The checkpoint, which is taken away.

    Returns:
        The archive, or a path into it.
    """
    files = {
        path.relative_to(below).as_posix(): path.read_bytes() for path in sorted(below.rglob("*")) if path.is_file()
    }
    shutil.rmtree(below)
    prefix = random.choice(("", "ckpt/", "./ckpt/", "a/b/", "w!1/", "../"))
    named = [(prefix + name, data) for name, data in files.items()]
    if random.random() < 0.2:
        named += [(f"other/{name}", data) for name, data in files.items()]
    if random.random() < 0.2:
        random.shuffle(named)
    out = io.BytesIO()
    if random.random() < 0.5:
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data in named:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, data in named:
                archive.writestr(zipfile.ZipInfo(name), data, method)
    content = out.getvalue()
    if random.random() < 0.2:
        content = _damaged(random, content)
    if random.random() < 0.2:
        content = _packed(random, content)
    path = folder / random.choice(("m.tar", "m.zip", "m.nemo", "m"))
    path.write_bytes(content)
    inside = random.choice(("", "", prefix, prefix, prefix.rstrip("/"), f"{prefix}{random.choice([*files, 'x'])}"))
    return Path(f"{path}!{inside}") if inside else path


def _tar(random: Random, data: bytes) -> bytes:
    out = io.BytesIO()
    form = random.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for content in random.choice(([data], [b"c" * 600, data], [data, data], [data, b""])):
            info = tarfile.TarInfo(random.choice(_NAMES) if form != tarfile.USTAR_FORMAT else "w.ckpt")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    changed = bytearray(out.getvalue())
    if random.random() < 0.5:
        _change_headers(random, changed)
    return bytes(changed)


def _change_headers(random: Random, data: bytearray) -> None:
    """Change fields of headers, and make their checksums right again."""
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] != b"ustar" or random.random() < 0.5:
            continue
        for _ in range(random.randint(1, 3)):
            place = random.choice((0, 124, 124, 135, 156, 156, 157, 345)) + random.randrange(3)
            data[at + place] = random.choice((*b"\x00\x80\xff01579LKxgS7", random.randrange(256)))
        head = data[at : at + 512]
        total = sum(head[:148]) + 256 + sum(head[156:])
        data[at + 148 : at + 156] = f"{total:06o}\0 ".encode()


def _zip(random: Random, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name in random.choice((["w.pth"], ["config.yaml", "w.pth"], ["a.pt", "b.pt"], [random.choice(_NAMES)])):
            archive.writestr(zipfile.ZipInfo(name), b"name: x" if name.endswith("yaml") else data)
    return out.getvalue()


def _packed(random: Random, data: bytes) -> bytes:
    return random.choice(_PACKERS)(data)


def _damaged(random: Random, data: bytes) -> bytes:
    """Some bytes changed, most of them at the ends, where headers are; or a part of it left out or repeated."""
    changed = bytearray(data)
    kind = random.random()
    if kind < 0.15:
        return bytes(changed[: random.randrange(len(changed) + 1)])
    if kind < 0.25:
        at = random.randrange(len(changed) + 1)
        return bytes(changed[:at] + changed[at + random.randrange(600) :])
    for _ in range(random.randint(1, 8)):
        if not changed:
            break
        near = min(len(changed), 600)
        at = random.choice((random.randrange(len(changed)), random.randrange(near), -1 - random.randrange(near)))
        changed[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    return bytes(changed)
