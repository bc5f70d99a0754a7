"""The text of a `load_state_dict` error → what it says, thing by thing.

Texts of all versions of PyTorch are read: since 1.0, of 0.4.1 (which names the two shapes the wrong way round), and of
0.3. They may stand anywhere in a log or a traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from convinspect.errors import CannotShow, NotThere
from convinspect.text import Word, dimension

Shape = tuple[int, ...]

_MOST_TEXT = 64 << 20
"""Bytes of an error's text that are read; a log of more is no error."""


class Trouble(Word):
    """What `load_state_dict` says of a key."""

    SIZE_MISMATCH = "size mismatch"
    MISSING = "missing"
    UNEXPECTED = "unexpected"
    NOT_COPIED = "not copied"


@dataclass(frozen=True, slots=True)
class LoadErrorItem:
    """One thing that an error says.

    Attributes:
        trouble: What is wrong.
        key: The state_dict key.
        checkpoint: The shape in the checkpoint that was loaded; None where the error does not say it.
        model: The shape in the model.
    """

    trouble: Trouble
    key: str
    checkpoint: Shape | None = None
    model: Shape | None = None


_SIZE = r"(?:torch\.)?Size\(\[([\d,\s]*)\]\)"
_SINCE_1_0 = re.compile(
    rf"size mismatch for (\S.{{0,1000}}?):\s+copying a param with shape\s+{_SIZE}\s+from checkpoint,"
    rf"\s+the shape in current model is\s+{_SIZE}"
)
_SINCE_0_4_1 = re.compile(
    rf"size mismatch for (\S.{{0,1000}}?):\s+copying a param of\s+{_SIZE}\s+from checkpoint,"
    rf"\s+where the shape is\s+{_SIZE}"
)
_WHILE = re.compile(
    rf'While (?:copying|swapping) the parameter named "?(\S.{{0,1000}}?)"?,\s+whose dimensions in the model'
    rf"\s+are\s+{_SIZE}\s+and\s+whose dimensions in the checkpoint are\s+{_SIZE}"
)
_NO_TENSOR = re.compile(r'While copying the parameter named "(\S.{0,1000}?)",\s+expected torch\.Tensor')
_QUOTED = r"\"[^\"]{0,4000}\""
"""A key, which a terminal may have broken into lines."""
_BROKEN = re.compile(r"\r?\n[ \t]*")
_KEYS = re.compile(rf"\b(Missing|Unexpected) key\(s\) in state_dict:\s*({_QUOTED}(?:\s*,\s*{_QUOTED})*)")
_OLD_UNEXPECTED = re.compile(r"unexpected key \"([^\"\n]+)\" in state_dict")
_OLD_MISSING = re.compile(r"missing keys in state_dict: \"?\{([^}\n]*)\}")


def error_text(error: str | Path | BaseException) -> str:
    """The text of an error.

    Args:
        error: The text itself, the exception, or the path of a text file that holds it.

    Raises:
        NotThere: There is no such file.
    """
    if not isinstance(error, Path):
        return str(error)
    try:
        with error.open("rb") as file:
            return decoded_error(file)
    except OSError as failure:
        raise NotThere(
            f"it cannot be read: {failure.strerror}", "give a text file, or - for standard input", error
        ) from None


def decoded_error(file: BinaryIO) -> str:
    """The text in a file: UTF-8, or UTF-16 where a mark at its beginning says so, as PowerShell writes what it
    redirects.
    """
    text = file.read(_MOST_TEXT)
    return text.decode("utf-16" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")


def read_error(text: str) -> tuple[LoadErrorItem, ...]:
    """What an error says, each thing once, in the order of the text.

    Raises:
        CannotShow: Nothing in the text is an error of `load_state_dict`.
    """
    # An exception's repr, and a log in JSON, write quotes and line ends as escapes.
    text = text.replace('\\"', '"').replace("\\n", "\n").replace("\\t", "\t")
    items = sorted((*_shape_items(text), *_key_items(text)), key=lambda placed: placed[0])
    if not items:
        raise CannotShow(
            "no line of a load_state_dict error is in the text",
            "give all that PyTorch printed, from 'Error(s) in loading state_dict for' on",
        )
    return tuple(dict.fromkeys(item for _, item in items))


_Placed = tuple[tuple[int, int], LoadErrorItem]
"""An item with its place: where the match begins in the text, and which of the keys in it."""


def _shape_items(text: str) -> Iterator[_Placed]:
    """What could not be copied, and the shapes that disagree."""
    for pattern in (_SINCE_1_0, _SINCE_0_4_1, _WHILE):
        for match in pattern.finditer(text):
            checkpoint, model = _shape(match[2]), _shape(match[3])
            if checkpoint is None or model is None:
                continue
            if pattern is not _SINCE_1_0:
                # 0.4.1 named the model's shape as the checkpoint's; "While copying" names the model's first.
                checkpoint, model = model, checkpoint
            trouble = Trouble.SIZE_MISMATCH if checkpoint != model else Trouble.NOT_COPIED
            yield (match.start(), 0), LoadErrorItem(trouble, match[1], checkpoint, model)
    for match in _NO_TENSOR.finditer(text):
        yield (match.start(), 0), LoadErrorItem(Trouble.NOT_COPIED, match[1])


def _key_items(text: str) -> Iterator[_Placed]:
    """Keys that are missing or unexpected."""
    for match in _KEYS.finditer(text):
        trouble = Trouble.MISSING if match[1] == "Missing" else Trouble.UNEXPECTED
        for at, key in enumerate(re.findall(_QUOTED, match[2])):
            yield (match.start(), at), LoadErrorItem(trouble, _BROKEN.sub("", key[1:-1]))
    for match in _OLD_UNEXPECTED.finditer(text):
        yield (match.start(), 0), LoadErrorItem(Trouble.UNEXPECTED, match[1])
    for match in _OLD_MISSING.finditer(text):
        for at, key in enumerate(re.findall(r"'([^']*)'", match[1])):
            yield (match.start(), at), LoadErrorItem(Trouble.MISSING, key)


def _shape(text: str) -> Shape | None:
    """The sizes in a list of them; None where one is more than a tensor can have."""
    sizes = [dimension(number) for number in text.replace(",", " ").split()]
    known = tuple(size for size in sizes if size is not None)
    return known if len(known) == len(sizes) else None
