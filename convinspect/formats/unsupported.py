"""Identifies files that are not supported, by their first bytes or a zip's record names, and says what to do."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath

from convinspect.errors import BrokenFile, ConvInspectError, NotACheckpoint
from convinspect.formats.files import File

_NUMBERS = re.compile(r"(?:.*/)?data/\d+")
_LEFT = re.compile(r"(?:[^/]+/)?(?:byteorder|\.format_version|\.storage_alignment|constants\.pkl|\.data/.*_id)")
"""Small records of `torch.save` and TorchScript, which are written before and after the storages."""
_WEIGHTS = {".pt", ".pth", ".ckpt", ".bin", ".safetensors"}
_OTHER = "give the file that holds the weights"
_LONGEST = 80

_KNOWN = (
    (r"(?:[^/]+/)?data/aotinductor/.*", "a package of a compiled model (AOTInductor), whose weights lie in its machine"
     " code", "give the .pt2 of torch.export.save, or the state_dict, from which it was compiled"),
    (r"(?:[^/]+/)?\.data/extern_modules", "a torch.package archive, which brings its model's code along",
     "where you trust it, load it with torch.package.PackageImporter and torch.save the model's state_dict"),
    (r"(?:.*/)?model\.json", "a TorchScript archive of PyTorch 1.3 or older",
     "load and save it once with PyTorch 1.4 or newer"),
    (r".*\.np[yz]", "a NumPy archive (.npz)", "open it with numpy.load"),
    (r"(?:.*/)?model\.weights\.h5", "a Keras archive", "open it with Keras"),
    (r"\[Content_Types\]\.xml", "a Microsoft Office document", _OTHER),
    (r"mimetype", "a document (OpenDocument or EPUB)", _OTHER),
)  # fmt: skip
_PACKAGES = (
    (r"AndroidManifest\.xml", "an Android app", _OTHER),
    (r"META-INF/MANIFEST\.MF", "a Java archive", _OTHER),
    (r"[^/]+\.dist-info/.*", "a Python package", _OTHER),
)
"""Kinds of archives that may contain weights."""


def unsupported_file_error(file: File) -> NotACheckpoint:
    """The error for a file that is not a checkpoint: what it is, and what to do."""
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
"""The records of the first `torch.save`. Depending on the tool, any of them comes first."""

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
    """True for the header of a tar archive, recognized by its checksum (octal digits), since old ones have no magic.

    The standard library's `tarfile` is not used: it would decompress the file, and trust sizes in headers.
    """
    digits = head[148:156].strip(b" \0")
    if len(head) < 512 or re.fullmatch(rb"[0-7]{1,7}", digits) is None:
        return False
    return sum(head[:148]) + 8 * ord(" ") + sum(head[156:512]) == int(digits, 8)


def _looks_like_onnx(head: bytes) -> bool:
    """True for a protobuf with ONNX's `ir_version` as the first field, and the producer or the opset as the second."""
    return head[:1] == b"\x08" and head[1:2] < b"\x20" and head[2:3] in (b"\x12", b"\x3a", b"\x42", b"\x1a")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", "strict" if len(head) < 1024 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\t\r\n\f" for char in text)


# --- zip archives


def other_zip(names: Collection[str]) -> ConvInspectError:
    """The error for a zip without a checkpoint's pickle at the expected place.

    Args:
        names: Full names of all its records.
    """
    if not names:
        return NotACheckpoint("it is a zip archive with nothing in it", "download or save it again")
    pickles = [name for name in names if name.endswith("/data.pkl")]
    known = of_kind(names)
    if known is None and pickles:
        return _elsewhere(pickles, names)
    numbers = sum(_NUMBERS.fullmatch(name) is not None for name in names)
    if known is None and numbers:
        what = "record" if numbers == 1 else "records"
        return BrokenFile(
            f"it holds {numbers:,} {what} of numbers, and no data.pkl, which says what they are",
            "download or save it again",
        )
    if known is None and any(_LEFT.fullmatch(name) for name in names):
        return BrokenFile(
            "it is half of a torch.save file: no data.pkl, which says what is in it, and no numbers",
            "download or save it again",
        )
    if known is not None:
        return known
    first = next(iter(names))[:_LONGEST]
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return NotACheckpoint(
        f"it is a zip archive without a checkpoint's records (no data.pkl); it holds {first!r}{more}",
        "unpack it if the weights are among them, or give the file that holds them",
    )


def of_kind(names: Collection[str]) -> NotACheckpoint | None:
    """The error that says what a zip is, judged by its records' names; None if they do not tell."""
    known = _first(_KNOWN, names)
    weights = next((name for name in names if PurePosixPath(name).suffix in _WEIGHTS), None)
    if known is None and weights is not None:
        return NotACheckpoint(f"it is a zip archive that holds {weights[:_LONGEST]!r}", "unpack it and open that file")
    what, remedy = known or _first(_PACKAGES, names) or ("", "")
    return NotACheckpoint(f"it is {what}", remedy) if what else None


def _first(kinds: Collection[tuple[str, str, str]], names: Collection[str]) -> tuple[str, str] | None:
    for pattern, what, remedy in kinds:
        if any(map(re.compile(pattern).fullmatch, names)):
            return what, remedy
    return None


def _elsewhere(pickles: list[str], names: Collection[str]) -> BrokenFile:
    if len(pickles) > 1:
        return BrokenFile(
            f"it holds {len(pickles)} checkpoints ({', '.join(pickles[:3])}), and which is meant cannot be told",
            "unpack it, and pack one folder again",
        )
    folder = pickles[0].removesuffix("data.pkl")
    if all(name.startswith(folder) for name in names):
        return BrokenFile(
            f"its records lie in the folder {folder!r}, and PyTorch looks for them one folder deep",
            f"unpack it, and pack {PurePosixPath(folder).name!r} alone",
        )
    return BrokenFile(
        f"its records lie in several folders, and only {pickles[0]!r} in its place",
        "unpack it, and pack one folder again",
    )
