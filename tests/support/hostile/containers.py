"""A pickle, or a header, in each container that a checkpoint can be. Every one has the same storage, `PAYLOAD`."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.hostile.opcodes import PAYLOAD, SAMPLES, dict_of, integer, pickled, tensor, text


def zip_file(tmp_path: Path, stream: bytes, suffix: str = ".pt") -> Path:
    """`stream` as the object of a `torch.save` since 1.6."""
    return zip_of(tmp_path / f"zip{suffix}", {"data.pkl": stream})


def zip_of(path: Path, records: Mapping[str, bytes]) -> Path:
    """A torch archive of these records, plus those that every one has."""
    usual = {"byteorder": b"little", "data/0": PAYLOAD, "version": b"3\n"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**usual, **records}.items():
            archive.writestr(f"archive/{name}", data)
    return path


LEGACY_PARTS = ("magic", "protocol", "sys_info", "object", "keys")


def legacy_file(tmp_path: Path, **parts: bytes) -> Path:
    """A file as torch wrote before 1.6; `parts` replaces any of its five pickles."""
    sizes = dict_of((text("short"), integer(2)), (text("int"), integer(4)), (text("long"), integer(4)))
    usual = {
        "magic": pickled(integer(0x1950A86A20F9469CFC6C)),
        "protocol": pickled(integer(1001)),
        "sys_info": pickled(
            dict_of(
                (text("protocol_version"), integer(1001)),
                (text("little_endian"), b"\x88"),
                (text("type_sizes"), sizes),
            )
        ),
        "object": pickled(dict_of((text("conv.weight"), tensor()))),
        "keys": pickled(b"](" + text("0") + b"e"),
    }
    stream = {**usual, **parts}
    # A storage's reference has one more item here: whether it is a view of another.
    stream["object"] = stream["object"].replace(b"tQ", b"NtQ")
    path = tmp_path / "legacy.pt"
    path.write_bytes(b"".join(stream[part] for part in LEGACY_PARTS) + struct.pack("<q", SAMPLES) + PAYLOAD)
    return path


def bare_file(tmp_path: Path, stream: bytes) -> Path:
    """A pickle and nothing else."""
    path = tmp_path / "bare.pt"
    path.write_bytes(stream)
    return path


def distributed_folder(tmp_path: Path, metadata: bytes) -> Path:
    """A torch.distributed.checkpoint folder with this `.metadata`."""
    folder = tmp_path / "distributed"
    folder.mkdir()
    (folder / ".metadata").write_bytes(metadata)
    (folder / "__0_0.distcp").write_bytes(PAYLOAD)
    return folder


def safetensors_file(tmp_path: Path, header: bytes, payload: bytes = PAYLOAD, length: int | None = None) -> Path:
    """A safetensors file whose header may lie about its own length."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + payload)
    return path


@dataclass
class Member:
    """A zip member whose description need not fit its bytes.

    Attributes:
        name: Full name inside the archive.
        packed: Its bytes as they lie in the file, in pieces.
        size: Unpacked size to claim.
        packed_size: Packed size to claim; what was written when None.
        method: 0 stored, 8 deflated, or any other number.
        flags: Bit 0 claims encryption.
        hole: Zero bytes that follow `packed` without taking room on the disk.
        offset: Where the directory says that it lies; where it does when None.
    """

    name: str
    packed: Iterable[bytes]
    size: int
    packed_size: int | None = None
    method: int = 0
    flags: int = 0
    hole: int = 0
    offset: int | None = None


def raw_zip(path: Path, members: Sequence[Member]) -> Path:
    """Write members as they are described, with zip64 sizes; checksums are left 0."""
    directory = bytearray()
    with path.open("wb") as file:
        for member in members:
            start = file.tell()
            name = member.name.encode()
            header_size = 30 + len(name) + 20
            file.seek(header_size, os.SEEK_CUR)
            written = sum(file.write(piece) for piece in member.packed) + member.hole
            file.seek(start + header_size + written)
            packed_size = written if member.packed_size is None else member.packed_size
            sizes = struct.pack("<HHQQ", 1, 16, member.size, packed_size)
            common = struct.pack(
                "<HHHHHIIIHH", 45, member.flags, member.method, 0, 33, 0, 2**32 - 1, 2**32 - 1, len(name), 20
            )
            file.seek(start)
            file.write(b"PK\x03\x04" + common + name + sizes)
            file.seek(start + header_size + written)
            offset = start if member.offset is None else member.offset
            place = struct.pack("<HHHII", 0, 0, 0, 0, min(offset, 2**32 - 2))
            directory += b"PK\x01\x02" + struct.pack("<H", 45) + common + place + name + sizes
        end = file.tell()
        file.write(directory)
        count = len(members)
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), end, 0))
    return path


def stored(name: str, data: bytes) -> Member:
    """An honest member."""
    return Member(f"archive/{name}", [data], len(data))


def deflated_repeat(unit: bytes, times: int, last: bytes = b"") -> tuple[list[bytes], int]:
    """`unit` repeated and `last`, deflated without unpacked data ever being in memory; and its unpacked size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(unit) + packer.flush(zlib.Z_FULL_FLUSH)
    ending = zlib.compressobj(9, zlib.DEFLATED, -15)
    return [block] * times + [ending.compress(last) + ending.flush()], len(unit) * times + len(last)


def plain_file(tmp_path: Path, name: str, content: bytes) -> Path:
    """A file of the given bytes."""
    path = tmp_path / name
    path.write_bytes(content)
    return path
