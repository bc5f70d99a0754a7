"""Identifies a single file that is not supported by its first bytes."""

from __future__ import annotations

import re
from shlex import quote

from convinspect.errors import NotACheckpoint
from convinspect.formats.files import File
from convinspect.formats.unsupported import kinds
from convinspect.formats.unsupported.compressed import kind_of_compressed
from convinspect.formats.unsupported.kinds import Kind
from convinspect.formats.unsupported.protobuf import kind_of_protobuf
from convinspect.formats.unsupported.tar import is_tar

_HEAD = 1024
_COMPRESSED = 1 << 14
"""Bytes of a compressed file that hold more than a header's worth of what is in it."""
_TORCH_TAR = {b"sys_info", b"pickle", b"tensors", b"storages"}
"""The records of the first `torch.save`. Depending on the tool, any of them comes first."""
_NUMBER = rb"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_JSON = re.compile(rb"\{\s*[\"}]|\[\s*(?:[\"{\[\]]|(?:true|false|null|%s)\s*(?:,|\]\s*\Z))" % _NUMBER)
"""How a JSON object or array begins, in small letters. Lines of a log, and TOML files, begin with "[" too."""
_LFS = b"version https://git-lfs"
_AGAIN = "download it again"


def unsupported_file_error(file: File) -> NotACheckpoint:
    """The error for a file that is not a checkpoint: what it is, and what to do."""
    what, remedy = _kind_of(file.read(0, _HEAD), file)
    return NotACheckpoint(f"it is {what}", remedy.replace("{name}", quote(file.path.name)), file.path)


def _kind_of(head: bytes, file: File) -> Kind:
    if not head:
        return Kind("empty (0 bytes)", _AGAIN)
    part = _part_of_tensorflow(file)
    if part is not None:
        return _lfs_pointer(head) if head.startswith(_LFS) else _kind_of_text(head) or part
    if not head.strip(b"\0"):
        what = f"unwritten: its first {len(head):,} bytes are all zero"
        return Kind(what, f"{_AGAIN}, and watch the disk's free space")
    if head.startswith(_LFS):
        return _lfs_pointer(head)
    if file.path.suffix == ".distcp":
        return kinds.DISTCP
    for magic in kinds.MAGICS:
        if head[magic.at :].startswith(magic.magic):
            return Kind(magic.what, magic.remedy)
    if is_tar(head):
        return kinds.OLDEST if head[:100].rstrip(b"\0") in _TORCH_TAR else kinds.TAR
    return (
        kind_of_compressed(file.read(0, _COMPRESSED), file.path.name)
        or _kind_of_text(head)
        or (kinds.MESSAGE_PACK if _is_message_pack(head) else None)
        or (kinds.TF_INDEX if _is_tensorflow_index(head, file) else None)
        or kind_of_protobuf(file)
        or kinds.UNKNOWN
    )


def _kind_of_text(head: bytes) -> Kind | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<body")):
        return kinds.HTML
    if text.startswith((b"<?xml", b"<net ")):
        return kinds.OPENVINO if b"<net " in text else kinds.XML
    if not _is_text(head):
        return None
    return kinds.JSON if _JSON.match(text) else kinds.TEXT


def _lfs_pointer(head: bytes) -> Kind:
    size = re.search(rb"^size (\d{1,19})", head, re.MULTILINE)
    real = f" of {int(size.group(1)):,} bytes" if size else ""
    return kinds.LFS._replace(what=kinds.LFS.what.replace("the real file", f"the real file{real}"))


_TABLE_END = bytes.fromhex("57fb808b247547db")
"""The last bytes of a table of LevelDB (its doc/table_format.md)."""


def _is_tensorflow_index(head: bytes, file: File) -> bool:
    """True for a table whose first key is empty (tensor_bundle.h of TensorFlow); keys of LevelDB itself never are."""
    return head.startswith(b"\0\0") and file.read(max(file.size - 8, 0), 8) == _TABLE_END


def _part_of_tensorflow(file: File) -> Kind | None:
    """What a file of the values of a TensorFlow checkpoint is: numbers alone, so that only its name tells it."""
    named = re.fullmatch(kinds.TF_PART_NAME, file.path.name)
    if named is None:
        return None
    return kinds.TF_PART if file.path.with_name(f"{named[1]}.index").exists() else kinds.TF_PART_ALONE


def _is_message_pack(head: bytes) -> bool:
    """True for a map whose first key is a short text (https://github.com/msgpack/msgpack/blob/master/spec.md)."""
    at = 1 if 0x81 <= head[0] <= 0x8F else {0xDE: 3, 0xDF: 5}.get(head[0], 0)
    if not at or not 0xA1 <= head[at : at + 1].ljust(1)[0] <= 0xBF:
        return False
    key = head[at + 1 : at + 1 + (head[at] & 31)]
    return key.isascii() and key.decode("ascii").isprintable()


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", "strict" if len(head) < _HEAD else "ignore")
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\t\r\n\f" for char in text)
