"""The text of a `load_state_dict` error → what it says, thing by thing.

Texts of all versions of PyTorch are read: since 1.0, of 0.4.1 (which names the two shapes the wrong way round), and of
0.3. They may stand anywhere in a log or a traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from convinspect.errors import CannotShow
from convinspect.text import dimension

Shape = tuple[int, ...]
Trouble = Literal["size mismatch", "missing", "unexpected", "not copied"]


@dataclass(frozen=True, slots=True)
class Complaint:
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


def read_error(text: str) -> tuple[Complaint, ...]:
    """What an error says, each thing once, in the order of the text.

    Raises:
        CannotShow: Nothing in the text is an error of `load_state_dict`.
    """
    # An exception's repr, and a log in JSON, write quotes and line ends as escapes.
    text = text.replace('\\"', '"').replace("\\n", "\n").replace("\\t", "\t")
    found = sorted(_complaints(text), key=lambda one: one[0])
    if not found:
        raise CannotShow(
            "no line of a load_state_dict error is in the text",
            "give all that PyTorch printed, from 'Error(s) in loading state_dict for' on",
        )
    return tuple(dict.fromkeys(one for _, one in found))


def _complaints(text: str) -> Iterator[tuple[tuple[int, int], Complaint]]:
    """Each with its place in the text."""
    for pattern in (_SINCE_1_0, _SINCE_0_4_1, _WHILE):
        for match in pattern.finditer(text):
            first, second = _shape(match[2]), _shape(match[3])
            if first is None or second is None:
                continue
            if pattern is not _SINCE_1_0:
                # 0.4.1 named the model's shape as the checkpoint's; "While copying" names the model's first.
                first, second = second, first
            trouble: Trouble = "size mismatch" if first != second else "not copied"
            yield (match.start(), 0), Complaint(trouble, match[1], first, second)
    for match in _NO_TENSOR.finditer(text):
        yield (match.start(), 0), Complaint("not copied", match[1])
    for match in _KEYS.finditer(text):
        kind: Trouble = "missing" if match[1] == "Missing" else "unexpected"
        for at, key in enumerate(re.findall(_QUOTED, match[2])):
            yield (match.start(), at), Complaint(kind, _BROKEN.sub("", key[1:-1]))
    for match in _OLD_UNEXPECTED.finditer(text):
        yield (match.start(), 0), Complaint("unexpected", match[1])
    for match in _OLD_MISSING.finditer(text):
        for at, key in enumerate(re.findall(r"'([^']*)'", match[1])):
            yield (match.start(), at), Complaint("missing", key)


def _shape(text: str) -> Shape | None:
    """The sizes in a list of them; None where one is more than a tensor can have."""
    sizes = [dimension(number) for number in text.replace(",", " ").split()]
    known = tuple(size for size in sizes if size is not None)
    return known if len(known) == len(sizes) else None
