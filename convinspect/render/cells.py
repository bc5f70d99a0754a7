"""Text for a terminal: escaped, measured in cells, shortened and wrapped without cutting a number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

# One cell wide each, by Unicode and by Rich: so most text is measured without loading Rich's width tables.
_NARROW = re.compile("[ -~\u00a1-\u00ac\u00ae-\u02ff\u0370-\u0373\u0391-\u0482–—…←→↔×−≤≥≠≡⋮⋯\u2500-\u25fc]*")

_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?")

_DIGITS = re.compile(r"\d+")

_BREAK_AFTER = frozenset("./_,:;)-")

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")

_HELD = re.compile(rf"(?<=\d) (?=(?:{'|'.join(_UNITS)})\b)")
"""A space between a number and its unit."""


def safe(text: str) -> str:
    r"""`text` with everything that a terminal might interpret, or not show, as visible escapes.

    Control characters, ANSI escapes, line ends, bidirectional overrides, zero-width characters, unusual
    spaces, unassigned code points and lone surrogates become `\x1b`, `\u202e` or `\U000e0001`. What Python
    calls printable (CJK, accents, emoji) stays unchanged.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(ord(c)) for c in text)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def is_narrow(text: str) -> bool:
    """Whether every character is known to take one cell, so that `len` is the width."""
    return _NARROW.fullmatch(text) is not None


def cell_width(text: str) -> int:
    """Terminal cells that one line of text takes; the same number as `rich.cells.cell_len`."""
    if is_narrow(text):
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def widest(texts: Sequence[str]) -> int:
    """The largest `cell_width` among `texts`, each of which may hold several lines; 0 for none."""
    joined = "".join(texts)
    if "\n" in joined:
        return widest([line for text in texts for line in text.split("\n")])
    if is_narrow(joined):
        return max(map(len, texts), default=0)
    return max(map(cell_width, texts), default=0)


def count(n: int) -> str:
    """A whole number with thousands separators: "1,234,567"."""
    return f"{n:,}"


def size(nbytes: int) -> str:
    """Bytes in decimal units (1 kB is 1000 B): "999 B", "16.6 kB", "128 kB", "2.1 GB"."""
    value = float(nbytes)
    for unit in _UNITS:
        # The limit is where the rounded number would be "1000".
        if abs(value) < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    decimals = 0 if unit == "B" or abs(value) >= 99.95 else 1
    return f"{value:.{decimals}f} {unit}"


def shape(dims: Iterable[int]) -> str:
    """A shape as PyTorch users write it: "(64, 64, 1)", "(64,)", "()"."""
    dims = tuple(dims)
    return f"({dims[0]},)" if len(dims) == 1 else f"({', '.join(map(str, dims))})"


def elide(text: str, width: int) -> str:
    """`text` in at most `width` cells, with "…" in place of its middle.

    The end gets two thirds of the width, because dotted names differ mostly at their ends. A number at the
    cut is left out as a whole ("layers.12.conv" never becomes "layers.1…"), unless nothing else would remain.
    """
    if cell_width(text) <= width:
        return text
    head, tail = _elision(text, width - 1)
    for number in _NUMBER.finditer(text):
        if number.start() < head < number.end():
            head = number.start()
        if number.start() < tail < number.end():
            tail = number.end()
    if head == 0 and tail == len(text):
        head, tail = _elision(text, width - 1)
    return f"{text[:head]}…{text[tail:]}"


def _elision(text: str, width: int) -> tuple[int, int]:
    """Where the head ends and the tail starts, so that both together take at most `width` cells."""
    head_width = max(width, 0) // 3
    head = _reach(text, 0, head_width)
    tail_width = max(width, 0) - cell_width(text[:head])
    tail = len(text)
    while tail > head and cell_width(text[tail - 1 :]) <= tail_width:
        tail -= 1
    return head, tail


def _reach(text: str, start: int, width: int) -> int:
    """The furthest `end` such that `text[start:end]` takes at most `width` cells."""
    end = min(start + width, len(text))
    while end > start and cell_width(text[start:end]) > width:
        end -= 1
    # Zero-width characters (accents) belong to the character before them.
    while start < end < len(text) and cell_width(text[end]) == 0 and cell_width(text[start : end + 1]) <= width:
        end += 1
    return end


def longest_number(texts: Iterable[str]) -> int:
    """Length of the longest number in any of `texts`, which is the least width of a column."""
    return max((len(n) for text in texts for n in _NUMBER.findall(text)), default=0)


def wrap(text: str, width: int) -> list[tuple[int, int]]:
    """Where to break one line of text into lines of at most `width` cells.

    Breaks at spaces, between a number and its unit only if there is no other space; in a word that is too long, after
    one of `./,:;)-` that lies in the second half of the line, else after one of them or a `_`, else anywhere except
    inside a number. A number longer than `width` stays whole and overflows.

    Returns:
        Start and end of each line in `text`, without the spaces at the breaks; one pair at least.
    """
    lines: list[tuple[int, int]] = []
    start = 0
    while cell_width(text[start:]) > width:
        end = _break(text, start, max(_reach(text, start, width), start + 1))
        if end >= len(text):
            break
        lines.append((start, start + len(text[start:end].rstrip(" "))))
        start = end + len(text[end:]) - len(text[end:].lstrip(" "))
    if start < len(text) or not lines:
        lines.append((start, len(text)))
    return lines


def _space(text: str, start: int, limit: int) -> int:
    return limit if text[limit : limit + 1] == " " else text.rfind(" ", start, limit)


def _numbers(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where numbers are that must stay whole; in a name, such as conv1.1x1, dots are none of decimals."""
    for number in _NUMBER.finditer(text, start, end):
        at = number.start()
        if at and (text[at - 1].isalpha() or text[at - 1] == "_"):
            yield from (digits.span() for digits in _DIGITS.finditer(text, *number.span()))
        else:
            yield number.span()


def _break(text: str, start: int, limit: int) -> int:
    """The best place to end a line that starts at `start` and can hold no more than `text[start:limit]`."""
    space = _space(text, start, limit)
    last_space = space
    while last_space > start and _HELD.match(text, last_space):
        last_space = text.rfind(" ", start, last_space)
    for at in (last_space, space):
        if at == limit or (at > start and text[start:at].strip(" ")):
            return at
    word_end = text.find(" ", limit)
    numbers = [*_numbers(text, start, len(text) if word_end < 0 else word_end)]
    allowed = [i for i in range(start + 1, limit + 1) if not any(a < i < b for a, b in numbers)]
    after_mark = [i for i in allowed if text[i - 1] in _BREAK_AFTER]
    # A number that goes on behind its mark, such as a decimal, is broken there only to keep a word whole.
    for marks in ([i for i in after_mark if not text[i : i + 1].isdigit()], after_mark):
        if marks:
            # The parts of a dotted name stay whole, as long as lines stay long.
            between = [i for i in marks if text[i - 1] != "_" and 2 * (i - start) >= limit - start]
            return (between or marks)[-1]
    if allowed:
        return allowed[-1]
    return max((b for a, b in numbers if a < limit <= b), default=limit)
