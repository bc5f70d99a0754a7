"""The text of a log → its lines without what consoles, loggers and mail put around them.

Nothing here has to be perfect: what is left over, or taken off too much, makes a sentence unreadable, never one that
reads as something else. See `stream.py` and `complaints.py`.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple


class Line(NamedTuple):
    """A line of the text.

    Attributes:
        text: Without prefixes and frames.
        record: A record of a log begins here.
        apart: A blank line stands before it.
        indented: It began with a tab or with four spaces.
        mixed: Several processes wrote the text, so that the next line need not be its continuation.
        border: The first line of another process than the one before it.
        hollow: A prefix with nothing behind it stands before it: a blank line, or the half of a prefix that was broken.
    """

    text: str
    record: bool = False
    apart: bool = False
    indented: bool = False
    mixed: bool = False
    border: bool = False
    hollow: bool = False

    @property
    def begins(self) -> bool:
        """Something else may begin here."""
        return self.record or self.apart


_COLOURS = re.compile(
    r"(?:\x1b|\\x1b|\\033|\\u001b|\\e|\^\[|#033)\[[0-9;?]{0,20}[A-Za-z]|\x1b\][^\x07\x1b]{0,2000}(?:\x07|\x1b\\)"
    # Terminals' copies and log viewers drop the escape character alone.
    r"|\[\d{1,3}(?:;\d{1,3}){0,4}m"
)
_COLOUR_BEGUN = re.compile(r"(?:(\x1b|\\x1b|\\033|\\u001b|\\e|\^\[|#033)(?:\[[0-9;?]{0,20})?|\^)$")
"""A colour at a line's end whose rest is in the next line."""
_COLOUR_REST = re.compile(r"[a-z\d]{0,4}\[?[\d;?]{0,20}[mK]")
_LONGEST_COLOUR = 30
_ESCAPES = (("\\r\\n", "\n"), ("\\n", "\n"), ("\\t", "\t"), ('\\"', '"'), ("\\'", "'"), ("\r\n", "\n"), ("\r", "\n"))
_TYPED = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "\u200b": None, "\ufeff": None, "\u00ad": None})

_FRAME = "│┃║▌▏▐╎┆┊"
FRAME = re.compile(f"[{_FRAME}]")
"""The side of a frame."""
_RETURN = re.compile(rf"\r(?=[ \t]*[{_FRAME}])")
RULE = re.compile(r"[\s─━═╌┄╭╮╰╯┌┐└┘├┤┬┴┼┏┓┗┛╔╗╚╝│┃║+=~*|-]{3,}|_{20,}")
FRAME_TITLE = tuple("╭╰┌└┏┗╔╚├")
FRAME_CODE = re.compile(r"(?:❱\s*)?\d{1,6}\s*│(?:\s|$)")
"""A line of source in the frame of a traceback that rich drew."""
_COLUMN = re.compile(r"\s[\w./-]{1,200}\.py:\d{1,6}$")
"""The place in the source, which rich's log handler writes to the right."""

_TAG = re.compile(
    r"\[?(?:rank|default|local_rank)[ =:_-]?\d{1,6}\]?:?\s*(?:[|:]\s*)?|\[\d{1,6},\d{1,6}\]<std(?:err|out)>:?\s?"
    r"|\(\w{1,60} pid=\d{1,9}(?:, ip=[\d.]{1,40})?\)\s?",
    re.IGNORECASE,
)
"""What launchers of several processes write before each line of one of them."""
_RECORD = re.compile(
    r"\[?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|\s?[+-]\d\d:?\d\d)?\]?(?=[\s:|,\[-]|$)"
    r"|\[?\d\d/\d\d(?:/\d\d(?:\d\d)?)?[ T]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?\]?(?=[\s:|,\[-]|$)"
    r"|\[?\d\d:\d\d:\d\d(?:[.,]\d{1,9})?\]?(?=\s|$)"
    r"|[A-Z][a-z]{2}\s{1,2}\d{1,2} \d\d:\d\d:\d\d (?:\S{1,60} \S{1,60}:(?=\s))?"
    r"|\[?[IWEF]\d{4,8} \d\d:\d\d:\d\d\.\d{1,9}\s{1,8}\d{1,9} \S{1,200}\]"
    r"|\[?(?:DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|CRITICAL|FATAL)\]?(?::[\w.]{1,80}:|\s*[:|-]+(?=\s|$)|(?=\s)|$)"
)
"""What a logger writes before each of its records: the time, the level."""
_AFTER_RECORD = re.compile(
    r"\s*(?:[-|:]+(?=\s|$)|\[[^\]]{0,60}[A-Za-z][^\]]{0,60}\]:?|[\w.<>]{1,80}(?::[\w<>]{1,80})?(?::\d{1,6})?\s[-|]\s"
    r"(?!\s*(?:MISSING|UNEXPECTED|MISMATCH|CONVERSION|Status)\b)"
    r"|[\w./-]{1,120}\.py:\d{1,6}:?(?=\s))"
)
"""What stands between the time and the record itself: the logger, the place in the source, no name in a table."""
_WORD = re.compile(r"\w+")
_QUOTED = re.compile(r"(?:>\s?)+|E(?:\s{2,}|$)|(?:wandb|stderr|stdout)\s?[:|]\s|\[(?:stderr|stdout)\]:?\s?")
"""Marks of mail and Markdown, of pytest, of programs that run others."""

_EVERYWHERE = tuple(
    re.compile(pattern)
    for pattern in (
        r"\|\s?", r"#+\s?", r"//\s?", r"\*\s", r"[-•]\s", r"\d{1,6}(?::\s?|\s?\|\s?|\s)",
        r"[\w./-]{1,120}:\d{1,6}:\s?",
    )
)  # fmt: skip
"""Prefixes that may be part of what is said, unless all lines have them."""
_NEARLY_ALL = 0.9

_SOURCE = re.compile(r'File "[^"]{1,1000}", line \d{1,9}(?:, in |$)')
_CARETS = re.compile(r"[\^~]+")


class Raw(NamedTuple):
    """A line as it stands in a text.

    Attributes:
        text: All of it, or what is left once something was taken off around it.
        process: What tells the process that wrote it from others, from the outside in.
    """

    text: str
    process: tuple[str, ...] = ()


def visible(text: str) -> str:
    """A text without colours and invisible characters, with plain quotes."""
    return _COLOURS.sub("", text).translate(_TYPED)


def unescaped(text: str) -> str:
    """A text whose escapes are what they stand for."""
    if "\r" in text:
        text = _RETURN.sub("", text)
    for escape, meaning in _ESCAPES:
        text = text.replace(escape, meaning)
    return html.unescape(text) if "&quot;" in text or "&#" in text else text


def clean_lines(raw: Iterable[Raw]) -> tuple[list[Line], bool]:
    """The lines of a text, blank ones and frames left out, each process's one after the other.

    Returns:
        The lines, and whether the last one was ended, so that nothing was cut off within it.
    """
    bare, ended = _bare_lines(raw)
    bare, dropped = _without_common_marks(bare)
    bare, mixed = _in_order(bare)
    if not mixed:
        bare = _without_broken_colours(bare)
    return _as_lines(_without_source(bare), mixed), ended or dropped


class _Bare(NamedTuple):
    """A line without frames and prefixes.

    Attributes:
        text: Without white space around it.
        process: See `Raw`.
        record: What the prefix of a log's record looks like; "" where none begins.
        apart: See `Line`.
        indented: See `Line`.
        hollow: See `Line`.
    """

    text: str
    process: tuple[str, ...]
    record: str
    apart: bool
    indented: bool
    hollow: bool


def _bare_lines(lines: Iterable[Raw]) -> tuple[list[_Bare], bool]:
    """Lines without frames and prefixes, and whether a blank one follows the last."""
    found: list[_Bare] = []
    process: tuple[str, ...] = ()
    ended = False
    # Each process has blank lines of its own.
    blanks: set[tuple[str, ...]] = set()
    hollow: set[tuple[str, ...]] = set()
    above, here = "", ""
    for raw, outer in lines:
        above, here = here, raw
        line = _unframed(raw)
        if line is None:
            bars = raw.strip()
            if not bars.strip(_FRAME + " \t") and not rest_of_a_frame(raw, above):
                blanks.add(outer or process)
            ended = ended or not bars
            continue
        line, tags, record = _unmarked(line)
        process = outer + tags or process
        inner = line.strip()
        if not inner or RULE.fullmatch(inner):
            if not inner and not record and not rest_of_a_frame(raw, above):
                blanks.add(process)
            elif not inner and record:
                hollow.add(process)
            ended = ended or not inner
            continue
        indented = not record and line[:1].isspace() and (line[0] == "\t" or line[:4].isspace())
        found.append(_Bare(inner, process, record, process in blanks, indented, process in hollow))
        blanks.discard(process)
        hollow.discard(process)
        ended = False
    return found, ended


def rest_of_a_frame(line: str, above: str) -> bool:
    """Whether a line with nothing but the sides of frames is the rest of one that a console broke, and no blank one."""
    return _odd_sides(line) or _odd_sides(above)


def _odd_sides(line: str) -> bool:
    """Whether a frame that is on one side of a line is not on the other."""
    sides = FRAME.findall(line)
    return any(sides.count(side) % 2 for side in sides)


def _unframed(raw: str) -> str | None:
    """A line without the frame around it; None if nothing else is in it."""
    line = raw.rstrip()
    inner = line.lstrip()
    framed = inner[:1] in _FRAME and line != ""
    if framed:
        line = inner.lstrip(_FRAME + " ")
        inner = line
    if line and line[-1] in _FRAME:
        line = line.rstrip(_FRAME + " \t")
    if not line or inner.startswith(FRAME_TITLE) or (framed and FRAME_CODE.match(line)):
        return None
    column = _COLUMN.search(line, max(0, len(line) - 220))
    return line[: column.start()] if column and line[: column.start()].endswith(" ") else line


def _unmarked(line: str) -> tuple[str, tuple[str, ...], str]:
    """A line without its prefixes; the process that wrote it, and what a record's prefix looks like, "" without one."""
    process: tuple[str, ...] = ()
    record = ""
    for _ in range(12):
        inner = line.lstrip()
        tag = _TAG.match(inner)
        if tag is not None and tag[0].strip(" :|"):
            process, line = (*process, tag[0].strip()), inner[tag.end() :]
            continue
        mark = _QUOTED.match(inner)
        if mark is not None:
            line = inner[mark.end() :]
            continue
        mark = _RECORD.match(inner) or (_AFTER_RECORD.match(inner) if record else None)
        if mark is None or not mark.end():
            break
        record, line = record or _kind(mark[0]), inner[mark.end() :]
    return line, process, record


def _kind(mark: str) -> str:
    """What a time or a level looks like, whichever it is."""
    return "".join(_WORD.sub("a", mark).split())


def _without_common_marks(lines: list[_Bare]) -> tuple[list[_Bare], bool]:
    """Lines without the prefix that nearly all of them have, and without those behind it; whether the last is gone."""
    some = False
    for _ in range(2):
        sample = lines[:: len(lines) // 20 + 1]
        for pattern in _EVERYWHERE:
            if sum(pattern.match(line.text) is not None for line in sample) < len(sample) / 2:
                continue
            ends = [match.end() if (match := pattern.match(line.text)) else 0 for line in lines]
            if len(lines) > 2 and sum(map(bool, ends)) >= _NEARLY_ALL * len(lines):
                some = True
                lines = [_shorter(line, end) if end else line for line, end in zip(lines, ends, strict=True)]
                break
        else:
            break
    kept = _full(lines)
    return _inherited(kept) if some else kept, bool(lines) and not lines[-1].text


def _inherited(lines: list[_Bare]) -> list[_Bare]:
    """Lines with the process of the one before, where none stood behind the prefix that was taken off."""
    if not any(line.process for line in lines):
        return lines
    found: list[_Bare] = []
    for line in lines:
        if found and not line.process and not line.apart and found[-1].process:
            line = line._replace(process=found[-1].process)
        found.append(line)
    return found


def _shorter(line: _Bare, end: int) -> _Bare:
    """A line without its first characters."""
    text, tag, begins = _unmarked(line.text[end:].rstrip("| "))
    return line._replace(text=text.strip(), process=line.process + tag, record=line.record or begins)


def _without_broken_colours(lines: list[_Bare]) -> list[_Bare]:
    """Lines without the colours that a console broke in two; the halves are known once prefixes are gone."""
    whole = [line.text for line in lines]
    halves = [
        place for place, text in enumerate(whole[:-1])
        if _COLOUR_BEGUN.search(text, max(0, len(text) - _LONGEST_COLOUR)) is not None
    ]  # fmt: skip
    if not halves:
        return lines
    for place in halves:
        text = whole[place]
        begun = _COLOUR_BEGUN.search(text, max(0, len(text) - _LONGEST_COLOUR))
        if begun is None:
            continue
        rest = _COLOUR_REST.match(whole[place + 1])
        colour = _COLOURS.match(begun[0] + whole[place + 1][: rest.end() if rest else 0])
        if begun.end(1) == len(text):
            # Its rest went with the colours that have lost their escape character.
            whole[place] = text[: begun.start()].rstrip()
        elif colour is not None and colour.end() > len(begun[0]):
            whole[place] = text[: begun.start()].rstrip()
            whole[place + 1] = whole[place + 1][colour.end() - len(begun[0]) :].lstrip()
    return _full([line._replace(text=text) for text, line in zip(whole, lines, strict=True)])


def _full(lines: list[_Bare]) -> list[_Bare]:
    """Lines without those of which nothing is left; what began with one of these begins below it."""
    found: list[_Bare] = []
    gone: dict[tuple[str, ...], _Bare] = {}
    for line in lines:
        before = gone.pop(line.process, None)
        if before is not None:
            line = line._replace(record=line.record or before.record, apart=line.apart or before.apart, hollow=True)
        if line.text:
            found.append(line)
        else:
            gone[line.process] = line
    return found


def _without_source(lines: list[_Bare]) -> list[_Bare]:
    """Lines without a traceback's places in the source, and the lines of source below them."""
    if not any('File "' in line.text for line in lines):
        return lines
    kept: list[_Bare] = []
    code = False
    process: tuple[str, ...] = ()
    for line in lines:
        code = code and line.process == process
        process = line.process
        if _SOURCE.match(line.text):
            code = True
        elif _CARETS.fullmatch(line.text):
            continue
        elif code:
            # A frame may come without its line of source.
            code = False
            if not line.indented:
                kept.append(line)
        else:
            kept.append(line)
    return kept


def _in_order(lines: list[_Bare]) -> tuple[list[_Bare], bool]:
    """The lines of one process after those of another, each in its order; whether there are several."""
    known = {line.process for line in lines}
    if len(known) < 2:
        return lines, False
    within = Counter(process[:end] for process in known for end in range(1, len(process)))
    outer = {process: _outermost(process, known, within) for process in known}
    return sorted((line._replace(process=outer[line.process]) for line in lines), key=lambda line: line.process), True


def _as_lines(lines: list[_Bare], mixed: bool) -> list[Line]:
    # Where all lines have a prefix, it does not tell where a record begins: a long one may have been broken before.
    # Another logger's does.
    kinds = Counter(line.record for line in lines if line.record)
    marked = kinds.total() >= _NEARLY_ALL * len(lines)
    usual = max(kinds, key=kinds.__getitem__) if marked and kinds else ""
    before = (None, *(line.process for line in lines))
    return [
        Line(
            line.text,
            line.record not in ("", usual),
            line.apart,
            line.indented,
            mixed,
            line.process != last,
            line.hollow,
        )
        for line, last in zip(lines, before, strict=False)
    ]


def _outermost(
    process: tuple[str, ...], known: Collection[tuple[str, ...]], within: Mapping[tuple[str, ...], int]
) -> tuple[str, ...]:
    """The process as the least of its lines tell it: the rest of a line that was broken has the outer marks alone.

    Where several are within that one, whose rest it is is not known, and they are kept apart.
    """
    begins = (process[:end] for end in range(1, len(process)))
    return next((begun for begun in begins if begun in known and within[begun] == 1), process)
