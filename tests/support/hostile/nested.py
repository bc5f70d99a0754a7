"""Archives that hold what means harm, or are harmful themselves: odd tar headers, links, nests, bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from support.hostile.calls import BOMBS
from support.hostile.opcodes import beside_a_layer, dict_of, pickled, tensor, text

_NAME = "model/weights.pth"


def tar_of(content: bytes, name: str = _NAME, **fields: object) -> bytes:
    """A tar of one member; `fields` are set in its header whatever its bytes are."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return (
        info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512) + bytes(1024)
    )


def zip_of(content: bytes, name: str = _NAME, method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of one member."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(name, content)
    return out.getvalue()


WRAPS: dict[str, Callable[[bytes], bytes]] = {
    "tar": tar_of,
    "zip": zip_of,
    "zip_deflated": partial(zip_of, method=zipfile.ZIP_DEFLATED),
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zlib": zlib.compress,
    "tar_gz": lambda content: gzip.compress(tar_of(content)),
}


def wrapped_bomb(tmp_path: Path, marker: Path, wrap: str) -> Path:
    """A checkpoint whose pickle executes, in an archive."""
    call = next(iter(BOMBS.values()))(marker)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("model/data.pkl", beside_a_layer(call))
        archive.writestr("model/data/0", bytes(96))
        archive.writestr("model/version", "3\n")
    return written(tmp_path, WRAPS[wrap](whole.getvalue()))


def written(tmp_path: Path, content: bytes, name: str = "model.bundle") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def sound() -> bytes:
    """A small `torch.save` file."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("model/data.pkl", pickled(dict_of((text("conv.weight"), tensor()))))
        archive.writestr("model/data/0", bytes(96))
        archive.writestr("model/version", "3\n")
    return whole.getvalue()


def tar_with(tmp_path: Path, marker: Path, make: Callable[[], bytes]) -> Path:
    """A tar as `make` has it."""
    return written(tmp_path, make(), "model.nemo")


def _header(content: bytes, at: int, new: bytes) -> bytes:
    """The first header with other bytes in it, and the right checksum."""
    head = bytearray(content[:512])
    head[at : at + len(new)] = new
    total = sum(head[:148]) + 256 + sum(head[156:])
    head[148:156] = f"{total:06o}\0 ".encode()
    return bytes(head) + content[512:]


TARS: dict[str, Callable[[], bytes]] = {
    "name_outside": lambda: tar_of(sound(), "../../w.pth"),
    "name_absolute": lambda: tar_of(sound(), "/etc/w.pth"),
    "name_escape": lambda: tar_of(sound(), "\x1b[31mw.pth"),
    "name_of_marks": lambda: tar_of(sound(), "!!w!.pth"),
    "name_no_text": lambda: _header(tar_of(sound()), 0, b"\xff\xfe.pth\0"),
    "link_out": lambda: tar_of(b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard_link": lambda: tar_of(b"", type=tarfile.LNKTYPE, linkname="../secret"),
    "device": lambda: tar_of(b"", type=tarfile.CHRTYPE),
    "sparse": lambda: tar_of(sound(), type=tarfile.GNUTYPE_SPARSE),
    "size_beyond": lambda: _header(tar_of(sound()), 124, b"77777777777\0"),
    "size_2_62": lambda: _header(tar_of(sound()), 124, b"\x80" + (1 << 62).to_bytes(11, "big")),
    "size_negative": lambda: _header(tar_of(sound()), 124, b"\xff" * 12),
    "size_no_number": lambda: _header(tar_of(sound()), 124, b"9x9\0"),
    "checksum_wrong": lambda: tar_of(sound())[:148] + b"0000000\0" + tar_of(sound())[156:],
    "pax_of_2_62": lambda: _header(tar_of(b"x", type=tarfile.XHDTYPE), 124, b"\x80" + (1 << 62).to_bytes(11, "big")),
    "pax_size": lambda: tar_of(b"20 size=99999999999\n", type=tarfile.XHDTYPE)[:1024] + tar_of(sound()),
    "pax_size_digits": lambda: tar_of(b"9" * 5000 + b" size=1\n", type=tarfile.XHDTYPE)[:-1024] + tar_of(sound()),
    "pax_without_end": lambda: tar_of(b"11 path=a\n" * 3, type=tarfile.XHDTYPE)[:-1024] * 50 + tar_of(sound()),
    "long_name_of_nothing": lambda: tar_of(b"", type=tarfile.GNUTYPE_LONGNAME)[:512] * 99 + tar_of(sound()),
    "cut": lambda: tar_of(sound())[:900],
    "twice": lambda: tar_of(sound())[:-1024] + tar_of(b"other"),
    "in_itself": lambda: tar_of(tar_of(tar_of(tar_of(tar_of(tar_of(sound(), "w.pt"), "a.tar"), "b.tar"), "c.tar"))),
}


def nest(tmp_path: Path, marker: Path, depth: int, wrap: str) -> Path:
    """Archives within each other."""
    content = sound()
    for level in range(depth):
        content = WRAPS[wrap](content) if wrap != "zip" else zip_of(content, f"{level}.zip" if level else "w.pth")
    return written(tmp_path, content)


def _gzip_of(before: bytes, megabytes: int) -> bytes:
    """One gzip stream of these bytes and of zeros, of which one megabyte is packed: packing all takes seconds."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(before) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum, size = zlib.crc32(bytes(megabytes << 20), zlib.crc32(before)), len(before) + (megabytes << 20)
    ends = struct.pack("<II", checksum, size & 0xFFFFFFFF)
    return b"\x1f\x8b\x08\0\0\0\0\0\2\xff" + first + megabytes * piece + packer.flush() + ends


def compressed_zeros(tmp_path: Path, marker: Path, wrap: str, nbytes: int = 200 << 20) -> Path:
    """What begins as a checkpoint and unpacks to hundreds of megabytes of zeros."""
    if wrap == "gzip":
        return written(tmp_path, _gzip_of(sound()[:64], nbytes >> 20))
    if wrap == "tar_gz":
        # The last megabyte is the tar's own end.
        header = tar_of(b"", size=len(sound()) + nbytes)[:512]
        return written(tmp_path, _gzip_of(header + sound(), (nbytes >> 20) + 1))
    if wrap.startswith(("zip", "tar")):
        return written(tmp_path, WRAPS[wrap](sound() + bytes(nbytes)))
    return written(tmp_path, WRAPS[wrap](sound()[:64] + bytes(nbytes)))


NESTED: dict[str, Callable[[Path, Path], Path]] = {
    **{f"bomb_in_{wrap}": partial(wrapped_bomb, wrap=wrap) for wrap in WRAPS},
    **{f"tar_{name}": partial(tar_with, make=make) for name, make in TARS.items()},
    **{f"nest_of_{wrap}": partial(nest, depth=8, wrap=wrap) for wrap in ("zip", "gzip", "tar")},
    **{
        f"zeros_in_{wrap}": partial(compressed_zeros, wrap=wrap) for wrap in ("gzip", "bzip2", "zip_deflated", "tar_gz")
    },
}
