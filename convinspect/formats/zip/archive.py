"""The records of a torch zip: where each lies, and the bytes of those that are no storage.

The layout is that of PyTorch's `caffe2/serialize/inline_container.h`: every record lies below one folder,
`data.pkl` holds the object, `data/KEY` the bytes of storage KEY, `byteorder` the machine's byte order.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from convinspect.errors import BrokenFile, RefusedFile
from convinspect.formats.files import File
from convinspect.records import Storage

LOCAL_HEADER = 30
"""Bytes of a record's local header, without the name and the extra field behind it."""
_END, _END64, _LOCATOR64 = 22, 56, 20
"""Bytes of the end record, of its zip64 form, and of that form's locator."""
STORAGE = re.compile(r"data/\d+")
"""Names of the records that are storages."""

# A deflated record may not unpack to more than this many times its size: text and pickles pack 5 to 20 times.
_LARGEST_RATIO = 100
_LARGEST_RECORD = 1 << 26


def is_zip(head: bytes) -> bool:
    """True for the first bytes of a zip archive."""
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


class Record(NamedTuple):
    """What the zip's directory says of a record, by the names that `zipfile.ZipInfo` has for it."""

    header_offset: int
    compress_size: int
    file_size: int
    CRC: int
    compress_type: int
    flag_bits: int


def _record(info: zipfile.ZipInfo) -> Record:
    return Record(
        info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type, info.flag_bits
    )  # fmt: skip


class Archive:
    """The records of a torch zip, by their name below its folder.

    Raises:
        BrokenFile: The zip's directory is missing or malformed.
        RefusedFile: Two records share a name.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        try:
            self._zip = zipfile.ZipFile(_Stream(file, _archive_end(file)))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeDecodeError) as error:
            raise BrokenFile(f"its zip directory is malformed ({error})", "download or copy it again") from None
        infos = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        self.folder = _common_folder(info.filename for info in infos)
        self.records: dict[str, Record] = {}
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.filename.removeprefix(self.folder)
            if name in self.records:
                raise RefusedFile(
                    f"it holds two records named {info.filename!r}, so what it says depends on who reads it",
                    "do not load it elsewhere either",
                )
            self.records[name] = _record(info)
            if not STORAGE.fullmatch(name):
                self._infos[name] = info
        # Half a kilobyte for each of a hundred thousand storages, whose bytes are read where they lie.
        self._zip.filelist.clear()
        self._zip.NameToInfo.clear()

    def names(self) -> list[str]:
        """Whole names of all records."""
        return [self._infos[name].filename if name in self._infos else self.folder + name for name in self.records]

    def read(self, name: str) -> bytes:
        """The bytes of a record that is no storage, unpacked and checked against its CRC.

        Raises:
            BrokenFile: It is missing, damaged or cut.
            RefusedFile: It unpacks to far more than it could honestly hold.
        """
        info = self._infos.get(name)
        if info is None:
            raise BrokenFile(f"it lacks the record {name!r}", "save it again")
        honest = max(_LARGEST_RATIO * info.compress_size, 1 << 20)
        if info.file_size > min(honest, _LARGEST_RECORD) and info.compress_type != zipfile.ZIP_STORED:
            raise RefusedFile(
                f"record {name!r} of {info.compress_size:,} bytes would unpack to {info.file_size:,}",
                "do not load it elsewhere either",
            )
        if info.CRC == 0 and info.compress_type == zipfile.ZIP_STORED:
            # Written without checksums (`torch.serialization.set_crc32_options(False)`), which `zipfile` calls damaged.
            return self._complete(name, self.file.read(self.payload(name), info.file_size))
        try:
            with self._zip.open(info) as record:
                # One byte more than claimed, so that a record that goes on is noticed.
                data = record.read(min(info.file_size, self.file.size * _LARGEST_RATIO) + 1)
        except (
            zipfile.BadZipFile,
            OSError,
            EOFError,
            NotImplementedError,
            RuntimeError,
            ValueError,
        ) as error:
            raise BrokenFile(f"record {name!r} is damaged ({error})", "download or copy it again") from None
        except Exception as error:  # zlib.error, lzma.LZMAError: what the decompressors raise
            raise BrokenFile(f"record {name!r} cannot be unpacked ({error})", "download it again") from None
        return self._complete(name, data)

    def _complete(self, name: str, data: bytes) -> bytes:
        size = self.records[name].file_size
        if len(data) != size:
            raise BrokenFile(f"record {name!r} has {len(data):,} of {size:,} bytes", "download it again")
        return data

    def payload(self, name: str) -> int:
        """Offset in the file of the first byte behind a record's local header."""
        start = self.records[name].header_offset
        length = header_length(self.file.read(start, LOCAL_HEADER))
        if length is None:
            raise BrokenFile(f"record {name!r} is damaged (no header)", "download or copy it again")
        return start + length

    def storage(self, name: str, nbytes: int, byteorder: str, key: str | None = None) -> Storage:
        """The storage in record `name`, without reading it.

        Args:
            name: Of the record.
            nbytes: Its size, as the pickle says.
            byteorder: "little" or "big".
            key: What the pickle calls it; by default the last part of the record's name.
        """
        info = self.records.get(name)
        key = name.rpartition("/")[2] if key is None else key
        if info is None:
            return Storage(self.file.path, key, nbytes, 0, None, byteorder=byteorder)
        packed = info.compress_size if info.compress_type != zipfile.ZIP_STORED else None
        start = self.file.start + info.header_offset
        return Storage(
            self.file.path, key, nbytes, info.file_size, start, True, packed, info.CRC, byteorder
        )  # fmt: skip

    def byteorder(self) -> str:
        """Byte order of all storages; archives before PyTorch 2.1 do not say and are little-endian."""
        return "big" if "byteorder" in self.records and self.read("byteorder").strip() == b"big" else "little"


class _Stream(io.RawIOBase):
    """What `zipfile` needs of a file, over the first bytes of a `File`."""

    def __init__(self, file: File, size: int) -> None:
        self._file, self._size, self._at = file, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("seek before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        data = self._file.read(self._at, left if size is None or size < 0 else min(size, left))
        self._at += len(data)
        return data


def header_length(head: bytes) -> int | None:
    """Bytes of a record's local header with its name and extra field, from its first 30; None when it is none."""
    if len(head) < LOCAL_HEADER or head[:4] != b"PK\x03\x04":
        return None
    return LOCAL_HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


def first_name(file: File) -> str:
    """The name of the record that a zip begins with; "" when it begins with none."""
    head = file.read(0, LOCAL_HEADER)
    if header_length(head) is None:
        return ""
    return file.read(LOCAL_HEADER, int.from_bytes(head[26:28], "little")).decode("utf-8", "replace")


def _common_folder(names: Iterable[str]) -> str:
    """The archive's one folder with its slash; "" when the records do not share one."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    return f"{folders.pop()}/" if len(folders) == 1 else ""


def end_record(file: File) -> int | None:
    """Where the zip's end record begins: the last long enough one, as PyTorch reads it; None without one."""
    tail = file.read(max(0, file.size - _END - 0xFFFF), _END + 0xFFFF)
    # Bytes behind the archive may look like the beginning of another one.
    at = tail.rfind(b"PK\x05\x06", 0, max(0, len(tail) - _END + 4))
    return file.size - len(tail) + at if at >= 0 else None


def _archive_end(file: File) -> int:
    """Where the archive ends, with its comment; the file's end where that cannot be told."""
    at = end_record(file)
    return file.size if at is None else min(file.size, at + _END + int.from_bytes(file.read(at + 20, 2), "little"))


@dataclass(frozen=True, slots=True)
class Directory:
    """Where a zip's directory lies: bytes `start:start + size`, and the end records behind it from `end` on."""

    start: int
    size: int
    end: int


def find_directory(file: File) -> Directory | None:
    """The zip's directory, found from the file's end; None when it is gone.

    A directory counts only where its end record says it lies. Of a file that is cut, the end record of a zip stored
    inside it may be the last that is left, and its offsets are not this file's.
    """
    end = end_record(file)
    if end is None:
        return None
    size, start = struct.unpack("<LL", file.read(end + 12, 8))
    if file.read(end - _LOCATOR64, 4) == b"PK\x06\x07":
        end = int(struct.unpack("<Q", file.read(end - _LOCATOR64 + 8, 8))[0])
        record = file.read(end, _END64)
        if record[:4] != b"PK\x06\x06" or len(record) < _END64:
            return None
        size, start = struct.unpack_from("<QQ", record, 40)
    return Directory(start, size, end) if start + size == end else None


def bytes_gone(file: File) -> int:
    """How many bytes before the end records are missing, as these tell; 0 or less where they do not tell."""
    end = end_record(file)
    if end is None:
        return 0
    if file.read(end - _LOCATOR64, 4) == b"PK\x06\x07":
        claimed = int(struct.unpack("<Q", file.read(end - _LOCATOR64 + 8, 8))[0])
        lies = end - _LOCATOR64 - _END64
        return claimed - lies if file.read(lies, 4) == b"PK\x06\x06" else 0
    size, start = struct.unpack("<LL", file.read(end + 12, 8))
    return int(size + start - end)
