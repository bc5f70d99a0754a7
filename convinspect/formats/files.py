"""Bytes of a file by offset, and what a file is when it is no checkpoint."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from convinspect.errors import CutShort, NotACheckpoint, NotThere, unreadable
from convinspect.formats.pickle.machine import Read
from convinspect.records import Version

# Opening a pipe without a writer must not wait for one.
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


class File:
    """An open file read by offset only, so that a cut or changing file gives short reads and never a fault.

    Args:
        path: A file.
        start: Offset in bytes of the part to show, for a file inside another.
        size: Length of that part in bytes; to the end when None.

    Raises:
        NotThere: No such file, or it may not be read.

    Attributes:
        version: Which version of the file this is.
    """

    def __init__(self, path: Path, start: int = 0, size: int | None = None) -> None:
        self.path = path
        try:
            self._handle = os.open(path, _FLAGS)
        except FileNotFoundError:
            raise NotThere("there is no such file", path=path) from None
        except IsADirectoryError:
            raise NotThere("it is a folder, not a file", path=path) from None
        except PermissionError:
            raise NotThere("it may not be read", "ask its owner, or copy it elsewhere", path) from None
        except (OSError, ValueError) as error:
            raise NotThere(f"it cannot be opened ({_reason(error)})", path=path) from None
        found = os.fstat(self._handle)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._handle)
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or device"
            raise NotThere(f"it is {kind}, not a file", "save it as a file first", path)
        self.start = start
        self.version = version_of(found)
        self.size = found.st_size - start if size is None else size

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only where the file ends.

        Raises:
            BrokenFile: The system does not give them.
        """
        size = min(size, self.size - offset)
        if size <= 0 or offset < 0:
            return b""
        pieces = []
        while size > 0:
            try:
                piece = read_at(self._handle, size, self.start + offset)
            except OSError as error:
                raise unreadable(error, self.path) from None
            if not piece:
                break
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def part(self, offset: int) -> Read:
        """A `Read` whose offset 0 is `offset` of this file."""
        return lambda at, size: self.read(offset + at, size)


def version_of(found: os.stat_result) -> Version:
    """What tells one version of a file from the next, from its status."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def read_at(handle: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes from `offset` of an open file."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, offset)
    # Windows has no pread; nothing here shares a handle between threads.
    os.lseek(handle, offset, os.SEEK_SET)
    return os.read(handle, size)


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or "unknown" if isinstance(error, OSError) else "its name is no file name here"


def unsupported_file_error(file: File) -> NotACheckpoint:
    """The error that says what a file is that is no checkpoint, and what to do."""
    return NotACheckpoint(*_unsupported(file.read(0, 1024), file), file.path)


def _unsupported(head: bytes, file: File) -> tuple[str, str]:
    again = "download it again"
    if not head:
        return "it is empty (0 bytes)", again
    if not head.strip(b"\0"):
        return (
            f"its first {len(head):,} bytes are all zero, so nothing was ever written there",
            f"{again}, and watch the disk's free space",
        )
    if head.startswith(b"version https://git-lfs"):
        return _lfs_pointer(head)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<body")):
        return (
            "it is an HTML page, not a model",
            "the download was redirected (login or error page?): fetch it again",
        )
    if text.startswith(b"<?xml"):
        return "it is an XML document, not a model", again
    for magic, what, remedy in _MAGICS:
        if head.startswith(magic):
            return what, remedy
    if head[257:262] == b"ustar" or _is_tar(head):
        if head[:100].rstrip(b"\0") in _TORCH_TAR:
            return (
                "it is a checkpoint of PyTorch 0.1.9 or older, in the tar format of that time",
                "where you trust it, torch.load it with weights_only=False and torch.save it again",
            )
        return "it is a tar archive", f"unpack it (tar -xf {file.path.name}) and open the checkpoint inside"
    if _looks_like_onnx(head):
        return (
            "it is an ONNX model, not a PyTorch checkpoint",
            "open it with a viewer for ONNX, such as netron",
        )
    if text.startswith((b"{", b"[")):
        return "it is a JSON text, not a checkpoint", "a shard index must be named *.index.json"
    if _is_text(head):
        return "it is a text file, not a checkpoint", "give the file that holds the weights"
    return (
        "it is no format that is known here",
        "convinspect reads torch.save, TorchScript, .pt2 and safetensors files",
    )


_TORCH_TAR = {b"sys_info", b"pickle", b"tensors", b"storages"}
"""The records of the first `torch.save`, whichever of them a tool put in front."""

_MAGICS = (
    (b"GGUF", "it is a GGUF model", "gguf-dump shows it; convinspect reads PyTorch and safetensors files"),
    (b"ggml", "it is a GGML model", "convinspect reads PyTorch and safetensors files"),
    (b"\x89HDF\r\n", "it is an HDF5 file, as Keras writes", "open it with h5py or Keras"),
    (b"\x93NUMPY", "it is a NumPy array (.npy)", "open it with numpy.load"),
    (b"\x1f\x8b", "it is gzip-compressed", "unpack it first: gunzip"),
    (b"\xfd7zXZ", "it is xz-compressed", "unpack it first: unxz"),
    (b"BZh", "it is bzip2-compressed", "unpack it first: bunzip2"),
    (b"(\xb5/\xfd", "it is zstd-compressed", "unpack it first: unzstd"),
    (b"7z\xbc\xaf", "it is a 7-Zip archive", "unpack it first"),
    (b"Rar!", "it is a RAR archive", "unpack it first"),
    (b"%PDF", "it is a PDF document", "give the file that holds the weights"),
    (b"\x89PNG", "it is a PNG picture", "give the file that holds the weights"),
    (b"\xff\xd8\xff", "it is a JPEG picture", "give the file that holds the weights"),
    (b"\x7fELF", "it is a program or library (ELF)", "give the file that holds the weights"),
    (b"SQLite format 3", "it is an SQLite database", "give the file that holds the weights"),
)


def _lfs_pointer(head: bytes) -> tuple[str, str]:
    size = re.search(rb"^size (\d{1,19})", head, re.MULTILINE)
    real = f" of {int(size.group(1)):,} bytes" if size else ""
    return f"it is a git-lfs pointer: the real file{real} was not fetched", "run: git lfs pull"


def _is_tar(head: bytes) -> bool:
    """True for a tar's first header, whose sum stands in it as octal digits; old ones have no magic number.

    The standard library would unpack compressed ones, and follow headers that say how much to read.
    """
    digits = head[148:156].strip(b" \0")
    if len(head) < 512 or re.fullmatch(rb"[0-7]{1,7}", digits) is None:
        return False
    return sum(head[:148]) + 8 * ord(" ") + sum(head[156:512]) == int(digits, 8)


def _looks_like_onnx(head: bytes) -> bool:
    """A protobuf whose first field is ONNX's `ir_version` and whose second names the producer or the opset."""
    return head[:1] == b"\x08" and head[1:2] < b"\x20" and head[2:3] in (b"\x12", b"\x3a", b"\x42", b"\x1a")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", "strict" if len(head) < 1024 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\t\r\n\f" for char in text)


def cut_short(there: int, expected: int | None, what: str = "") -> CutShort:
    """The error for a file that ends too early.

    Args:
        there: Bytes that are there.
        expected: Bytes that a whole file would have, or None when that cannot be told.
        what: Which part is missing, when known.
    """
    missing = ""
    if expected is not None and expected > there:
        missing = f" of {expected:,} expected ({expected - there:,} are missing)"
    return CutShort(f"it is cut short: {there:,} bytes{missing}{what}", "download or copy it again")
