"""`torch.save` since PyTorch 1.6: a zip of one pickle and one record per storage; also TorchScript archives.

The layout is that of PyTorch's `caffe2/serialize/inline_container.h`: every record lies below one folder,
`data.pkl` holds the object, `data/KEY` the bytes of storage KEY, `byteorder` the machine's byte order.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convinspect.admitted import judged
from convinspect.errors import BrokenFile, ConvInspectError, CutShort, NotACheckpoint, RefusedFile
from convinspect.formats import torchscript
from convinspect.formats.files import File, cut_short
from convinspect.formats.pickle_walk import Walk, reader, walk
from convinspect.formats.torch_tree import find_roots
from convinspect.records import Contents, Module, Root, Storage

_ALIGNMENT = 64
_PAYLOAD_PER_STORAGE = 6_400
"""Bytes beside the pickle that allow it as many instructions as a storage does."""
_LOCAL, _END, _END64, _LOCATOR64 = 30, 22, 56, 20
"""Bytes of a local header, of the end record, of its zip64 form, and of that form's locator."""
SMALL_STORAGE = 512
"""Bytes of the storages of a checkpoint on average at least, where they cannot be counted beforehand."""

# A deflated record may not unpack to more than this many times its size: text and pickles pack 5 to 20 times.
_LARGEST_RATIO = 100
_LARGEST_RECORD = 1 << 26
_LARGE_PICKLE = 1 << 24

PLAIN_GLOBALS = ("collections.OrderedDict", "torch._utils._rebuild_", "torch.")


class Archive:
    """The records of a torch zip, by their name below its folder.

    Raises:
        BrokenFile: The zip's directory is missing or malformed.
        RefusedFile: Two records share a name.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        try:
            self._zip = zipfile.ZipFile(_Stream(file))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeDecodeError) as error:
            raise BrokenFile(f"its zip directory is malformed ({error})", "download or copy it again") from None
        infos = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        self.folder = _common_folder(info.filename for info in infos)
        self.records: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.filename.removeprefix(self.folder)
            if name in self.records:
                raise RefusedFile(
                    f"it holds two records named {info.filename!r}, so what it says depends on who reads it",
                    "do not load it elsewhere either",
                )
            self.records[name] = info

    def read(self, name: str) -> bytes:
        """A record's bytes, unpacked and checked against its CRC.

        Raises:
            BrokenFile: It is missing, damaged or cut.
            RefusedFile: It unpacks to far more than it could honestly hold.
        """
        info = self.records.get(name)
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
        length = _header_length(self.file.read(start, _LOCAL))
        if length is None:
            raise BrokenFile(f"record {name!r} is damaged (no header)", "download or copy it again")
        return start + length

    def storage(self, name: str, nbytes: int, byteorder: str) -> Storage:
        """The storage in record `name`, without reading it."""
        info = self.records.get(name)
        key = name.rpartition("/")[2]
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
    """What `zipfile` needs of a file, over a `File`."""

    def __init__(self, file: File) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise OSError("seek before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        data = self._file.read(self._at, self._file.size if size is None or size < 0 else size)
        self._at += len(data)
        return data


def _header_length(head: bytes) -> int | None:
    """Bytes of a record's local header with its name and extra field, from its first 30; None when it is none."""
    if len(head) < _LOCAL or head[:4] != b"PK\x03\x04":
        return None
    return _LOCAL + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


def _common_folder(names: Iterable[str]) -> str:
    """The archive's one folder with its slash; "" when the records do not share one."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    return f"{folders.pop()}/" if len(folders) == 1 else ""


def is_zip(head: bytes) -> bool:
    """True for the first bytes of a zip archive."""
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def read_torch_zip(file: File) -> Contents:
    """List a `torch.save` zip or a TorchScript archive.

    Raises:
        ConvInspectError: It is cut short, malformed, hostile, or another kind of zip.
    """
    return read_archive(file, Archive(file))


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
    tail = file.read(max(0, file.size - _END - 0xFFFF), _END + 0xFFFF)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END:
        return None
    end = file.size - len(tail) + at
    size, start = struct.unpack_from("<LL", tail, at + 12)
    if file.read(end - _LOCATOR64, 4) == b"PK\x06\x07":
        end = int(struct.unpack("<Q", file.read(end - _LOCATOR64 + 8, 8))[0])
        record = file.read(end, _END64)
        if record[:4] != b"PK\x06\x06" or len(record) < _END64:
            return None
        size, start = struct.unpack_from("<QQ", record, 40)
    return Directory(start, size, end) if start + size == end else None


def read_archive(file: File, archive: Archive) -> Contents:
    """`read_torch_zip` of an archive that is open already."""
    if "data.pkl" not in archive.records:
        raise _other_zip(archive)
    tree = walked(archive)
    byteorder = archive.byteorder()
    script = any(name.startswith("code/") for name in archive.records)
    roots = find_roots(tree, lambda key, nbytes: archive.storage(f"data/{key}", nbytes, byteorder))
    if script:
        roots = _with_script_constants(roots, archive)
    if script and not any(root.tensors for root in roots):
        raise NotACheckpoint(
            "it is TorchScript that keeps its weights as constants without names, as torch.jit.freeze makes it",
            "give the model as it was before freezing",
        )
    problems = _missing_records(roots)
    return Contents(
        file.path,
        "TorchScript" if script else "torch.save (zip)",
        roots,
        file.size,
        problems,
        module_notes(roots),
        foreign=foreign_globals(tree),
    )


def walked(archive: Archive) -> Walk:
    """The archive's pickle; a large one is read in pieces, so that what else lies in it need not fit into memory."""
    info = archive.records["data.pkl"]
    # A vocabulary of hundreds of thousands of words is pickled beside the embedding that it names: the larger the
    # payload, the more may be said of it.
    storages = len(archive.records) + max(0, archive.file.size - info.file_size) // _PAYLOAD_PER_STORAGE
    if info.compress_type == zipfile.ZIP_STORED and info.file_size > _LARGE_PICKLE:
        start = archive.payload("data.pkl")
        end = min(info.file_size, archive.file.size - start)
        return walk(archive.file.part(start), 0, end, storages)
    data = archive.read("data.pkl")
    return walk(reader(data), 0, len(data), storages)


def _with_script_constants(roots: tuple[Root, ...], archive: Archive) -> tuple[Root, ...]:
    """Hyperparameters stand in the archive's code, as constants of each class or in its call of the operator."""
    sources = (
        (name, archive.read(name).decode("utf-8", "replace"))
        for name in archive.records
        if name.startswith("code/") and name.endswith(".py")
    )
    constants = torchscript.class_constants(sources, archive.file.size)
    return tuple(
        replace(root, modules={name: _known(module, constants) for name, module in root.modules.items()})
        for root in roots
    )


def _known(module: Module, constants: Mapping[str, dict[str, Any]]) -> Module:
    attributes = {**module.attributes, **constants.get(module.class_name, {})}
    return replace(module, class_name=torchscript.class_name(module.class_name), attributes=attributes)


def foreign_globals(tree: Walk) -> tuple[str, ...]:
    """Names that the pickle mentions beyond those of tensors and torch's own modules, in stored order."""
    plain = (*PLAIN_GLOBALS, "__torch__.")
    return tuple(
        name
        for name in tree.globals
        if (not name.startswith(plain) and name != "builtins.set") or judged(name).kind == "executes"
    )


def _missing_records(roots: tuple[Root, ...]) -> tuple[str, ...]:
    """One line for the tensors whose record is absent or too short."""
    short = [tensor for root in roots for tensor in root.tensors if not tensor.whole]
    if not short:
        storages = [
            t.storage for root in roots for t in root.tensors if t.storage is not None and t.storage.start is not None
        ]
        claims = next((one for one in storages if one.available < one.nbytes), None)
        if claims is None:
            return ()
        return (
            f"storage {claims.key} has {claims.available:,} of the {claims.nbytes:,} bytes that the pickle claims;"
            " download or copy it again",
        )
    more = f" and {len(short) - 1:,} more" if len(short) > 1 else ""
    return (f"the bytes of tensor {short[0].key!r}{more} are missing from the file; download or copy it again",)


def module_notes(roots: tuple[Root, ...]) -> tuple[str, ...]:
    """One line for each whole module in the file, naming its class."""
    names = [root.modules[""].class_name for root in roots if "" in root.modules]
    # Of a model in a wrapper such as DataParallel the model's own class is what a user looks for.
    names += [
        one.class_name for root in roots for one in root.modules.values() if not one.class_name.startswith("torch.")
    ][:3]
    return tuple(f"whole module {name}; its code was neither needed nor run" for name in dict.fromkeys(names))


def headless(file: File) -> ConvInspectError:
    """A zip without its directory, which stands at the end: say how much is missing, from the pickle at its start."""
    expected = None
    with suppress(ConvInspectError):
        expected = _expected_size(file)
    if expected is None or expected <= file.size:
        return cut_short(file.size, None, ", and the zip directory at its end is gone")
    return CutShort(
        f"it is cut short: {file.size:,} bytes of about {expected:,} expected"
        f" (about {expected - file.size:,} are missing)",
        "download or copy it again",
    )


def _expected_size(file: File) -> int | None:
    """Size in bytes of the whole archive, near enough: each storage with its header and padding."""
    head = file.read(0, _LOCAL)
    start = _header_length(head)
    name = file.read(_LOCAL, int.from_bytes(head[26:28], "little"))
    if start is None or not name.endswith(b"/data.pkl"):
        return None
    tree = walk(file.part(start), 0, file.size - start, file.size // SMALL_STORAGE)
    sizes: dict[str, int] = {}

    def storage_of(key: str, nbytes: int) -> Storage:
        sizes[key] = nbytes
        return Storage(file.path, key, nbytes, 0, None)

    find_roots(tree, storage_of)
    directory = 100
    return start + tree.end + sum(size + _ALIGNMENT + len(name) + directory for size in sizes.values())


def _other_zip(archive: Archive) -> ConvInspectError:
    names = archive.records
    if ".data/extern_modules" in names:
        return NotACheckpoint(
            "it is a torch.package archive, which brings its model's code along",
            "where you trust it, load it with torch.package.PackageImporter and torch.save the model's state_dict",
        )
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if pickles:
        return BrokenFile(
            f"it holds {len(pickles)} checkpoints ({', '.join(pickles[:3])}), and which is meant cannot be told"
            if len(pickles) > 1
            else f"its records lie in several folders, and only {pickles[0]!r} in its place",
            "unpack it, and pack one folder again",
        )
    payload = [name for name in names if re.fullmatch(r"data/\d+", name)]
    if payload:
        what = "record" if len(payload) == 1 else "records"
        return BrokenFile(
            f"it holds {len(payload):,} {what} of numbers, and no data.pkl, which says what they are",
            "download or save it again",
        )
    if "model.json" in names:
        return NotACheckpoint(
            "it is a TorchScript archive of PyTorch 1.3 or older",
            "load and save it once with PyTorch 1.4 or newer",
        )
    if any(name.endswith((".npy", ".npz")) for name in names):
        return NotACheckpoint("it is a NumPy archive (.npz)", "open it with numpy.load")
    if any(name.endswith(("config.json", "model.weights.h5")) for name in names):
        return NotACheckpoint("it is a Keras archive", "open it with Keras")
    inside = [name for name in names if Path(name).suffix in {".pt", ".pth", ".ckpt", ".bin", ".safetensors"}]
    if inside:
        return NotACheckpoint(f"it is a zip archive that holds {inside[0]!r}", "unpack it and open that file")
    return NotACheckpoint("it is a zip archive without a checkpoint's records (no data.pkl)", "unpack it first")
