"""A log whose every line has something around it → what was said.

Whatever stands the same before nearly all lines, apart from its numbers, is a prefix. No list of loggers is needed for
that; but a text is read so only where it is not understood as it stands, since its own words may be the same, too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from convinspect.diffing.texts.lines import (
    FRAME,
    FRAME_CODE,
    FRAME_TITLE,
    RULE,
    Raw,
    rest_of_a_frame,
    unescaped,
    visible,
)

_NEARLY_ALL = 0.9
_FEWEST = 3
"""Lines that a prefix is seen in."""
_SAMPLE = 40
"""Lines that are looked at for a prefix."""
_LONGEST = 250
"""Characters of a prefix."""
_TOKEN = re.compile(
    r"(?P<number>\d+)|(?P<level>(?:DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|CRITICAL|FATAL|debug|info|warn(?:ing)?|error)\b)"
    r"|(?P<stream>std(?:out|err)\b)|[^\W\d_]+|.",
    re.DOTALL,
)
_PATTERNS = {
    "number": r"(\d+)", "level": r"[A-Za-z]+", "stream": r"std(?:out|err)",
}  # fmt: skip
"""What varies in a prefix."""
_END = re.compile(r"[\s\]):|>+]")
"""What a prefix may end with."""
_ESCAPED = re.compile(r"[\\&\x1b\r\[]")
"""What may be, or begin, an escape."""
_STOP = "\"'"
"""What no prefix reaches over: it is what the line says."""

SaidFrom = Callable[[str], int]
"""Where what a loader may say begins in a text without white space; its length if nowhere."""


def peeled(text: str, said_from: SaidFrom) -> list[Raw] | None:
    """The lines of a text without what stands around all of them; None if nothing does.

    Args:
        text: Without colours.
        said_from: See there.
    """
    lines = [Raw(line) for line in text.splitlines()] + [Raw("")] * text.endswith("\n")
    outer, some = _without_layers(lines, said_from)
    inner = [line for raw in outer for line in _plain(raw)]
    inner, more = _without_layers(inner, said_from)
    return inner if some or more else None


def _plain(raw: Raw) -> Sequence[Raw]:
    """A line without escapes, which may be several."""
    if not _ESCAPED.search(raw.text):
        return (raw,)
    return [Raw(line, raw.process) for line in unescaped(visible(raw.text)).split("\n")]


def _without_layers(lines: list[Raw], said_from: SaidFrom) -> tuple[list[Raw], bool]:
    some = False
    for _ in range(4):
        inner = _records(lines, said_from) or _unframed(lines) or _without_prefix(lines, said_from)
        if inner is None:
            break
        lines, some = inner, True
    return lines, some


# ---------------------------------------------------------------------------------------------------------- prefixes


_Groups = list[tuple[int, int]]
"""Where the lines begin and end that were one."""


def _without_prefix(lines: list[Raw], said_from: SaidFrom) -> list[Raw] | None:
    """Lines without the prefix of all or nearly all; of a text that a console broke, of the lines before that.

    What all have goes first: a line that has no more is the rest of one that has.
    """
    single = [(place, place + 1) for place in range(len(lines))]
    for groups, share in ((single, 1), (single, _NEARLY_ALL), (_groups(lines), _NEARLY_ALL)):
        found = _shortened(lines, groups, share, said_from)
        if found is not None:
            return found
    return None


def _shortened(lines: list[Raw], groups: _Groups, share: float, said_from: SaidFrom) -> list[Raw] | None:
    """Lines without the prefix that so many of the groups begin with; None if there is none."""
    full = [text for text in _joined(lines, groups) if text.strip()]
    prefix = _prefix(full, share, said_from) if len(full) >= _FEWEST else None
    if prefix is None:
        return None
    groups = _apart(lines, groups, prefix)
    texts = _joined(lines, groups)
    matches = [prefix.match(f"{text} ") for text in texts]
    if sum(match is not None for match in matches) < share * sum(bool(text.strip()) for text in texts):
        return None
    known = [(match, lines[start].process) for (start, _), match in zip(groups, matches, strict=True) if match]
    marks = [(match.string, match.regs[1:]) for match, _ in known]
    told = _processes(marks, [outer for _, outer in known])
    if len(groups) < len(lines) and len({outer + own for (_, outer), own in zip(known, told, strict=True)}) > 1:
        # Which process a piece belongs to is not certain.
        return None
    processes = iter(told)
    found: list[Raw] = []
    for (start, end), match in zip(groups, matches, strict=True):
        process = () if match is None else next(processes)
        found += _shorter(lines[start:end], 0 if match is None else match.end(), process)
    return found


def _joined(lines: Sequence[Raw], groups: _Groups) -> list[str]:
    return ["".join(line.text for line in lines[start:end]) for start, end in groups]


def _apart(lines: Sequence[Raw], groups: _Groups, prefix: re.Pattern[str]) -> _Groups:
    """Groups, none of which has a second prefix in it: a line may be as long as the console is wide by chance."""
    found: _Groups = []
    for start, end in groups:
        begins = [place for place in range(start + 1, end) if prefix.match(lines[place].text)]
        found += pairwise([start, *begins, end])
    return found


def _groups(lines: Sequence[Raw]) -> _Groups:
    """Lines that were one before a console broke it: all but its last are as long as the console is wide."""
    width = max((len(line.text) for line in lines), default=0)
    ends = [place + 1 for place, line in enumerate(lines) if len(line.text) < width or place + 1 == len(lines)]
    return list(pairwise([0, *ends]))


def _shorter(lines: Iterable[Raw], length: int, process: tuple[str, ...]) -> Iterable[Raw]:
    """Pieces of a line without its first characters."""
    for text, outer in lines:
        taken = min(length, len(text))
        length -= taken
        if taken < len(text) or not taken or not length:
            yield Raw(text[taken:], outer + process)


def _prefix(lines: Sequence[str], share: float, said_from: SaidFrom) -> re.Pattern[str] | None:
    """What so many of the lines begin with, with a group for each number in it; None if nothing."""
    sample = lines[:: len(lines) // _SAMPLE + 1]
    tokens = [[(m.lastgroup or "", m[0]) for m in _TOKEN.finditer(f"{line.lstrip()[:_LONGEST]} ")] for line in sample]
    begins = [said_from("".join(line[: 2 * _LONGEST].split())) for line in sample]
    alive, length, taken, ends = list(range(len(sample))), 0, [], 0
    spaceless = [0] * len(sample)
    for place in range(_LONGEST):
        there = Counter(_alike(tokens[line][place]) for line in alive if place < len(tokens[line]))
        if not there:
            break
        (kind, word), number = there.most_common(1)[0]
        if number < share * len(sample) or (not kind and (word in _STOP or FRAME.match(word))):
            break
        alive = [line for line in alive if place < len(tokens[line]) and _alike(tokens[line][place]) == (kind, word)]
        length += not word.isspace()
        taken.append(_PATTERNS.get(kind) or re.escape(word))
        for line in alive:
            token = tokens[line][place][1]
            spaceless[line] += 0 if token.isspace() else len(token)
        if any(begins[line] < spaceless[line] for line in alive):
            break
        if _END.fullmatch(word) and length:
            ends = len(taken)
    space = "[ \\t]?"
    while ends and taken[ends - 1] in (r"\ ", "\\\t"):
        # One space alone is the prefix's, and a number that something else follows is none of its own.
        ends, space = ends - 1, "[ \\t]"
    return re.compile(f"[ \\t]*{''.join(taken[:ends])}{space}") if ends else None


def _alike(token: tuple[str, str]) -> tuple[str, str]:
    return (token[0], "") if token[0] else token


Marked = tuple[str, Sequence[tuple[int, int]]]
"""The text of a mark, and where the numbers in it stand."""


def _processes(marks: Sequence[Marked], outer: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """What tells the processes that wrote the lines: numbers of their prefixes that go up and down.

    Those that only go up, in all that one process wrote, are times and counters; so are those that begin again where
    the number before them goes up, as seconds and their fractions do. A time of day tells none, whatever it does.

    Args:
        marks: A line's prefix each, with as many numbers as the others have.
        outer: What is known of each line's process.
    """
    found = list(outer)
    columns = list(zip(*([int(text[a : min(b, a + 18)]) for a, b in spans] for text, spans in marks), strict=True))
    clocks = [match.span() for match in _CLOCK.finditer(marks[0][0])] if marks else []
    times = {place for place in range(len(columns)) if any(a <= marks[0][1][place][0] < b for a, b in clocks)}
    # There are fewer processes than values of a counter that each of them has.
    for place in sorted(set(range(len(columns))) - times, key=lambda place: len(set(columns[place]))):
        text, spans = marks[0]
        joined = place - 1 in times and _WITHIN_TIME.fullmatch(text, spans[place - 1][1], spans[place][0]) is not None
        # Of three processes that wrote a line each the numbers go up, too.
        named = len(set(columns[place])) > 1 and _PROCESS.search(text, 0, spans[place][0]) is not None
        if not named and _goes_up(columns[place], columns[place - 1] if joined else None, found):
            times.add(place)
        else:
            found = [(*process, str(number)) for process, number in zip(found, columns[place], strict=True)]
    return [process[len(known) :] for process, known in zip(found, outer, strict=True)]


_PROCESS = re.compile(r"(?:rank|gpu|device|node|worker|process|proc)[ =:_\[-]?$", re.IGNORECASE)
"""What stands before the number of a process."""
_CLOCK = re.compile(r"(?<!\d)\d\d:\d\d:\d\d(?:[.,]\d{1,9})?")
"""A time of day, whose numbers also go down: lines of several machines are not quite in order."""
_WITHIN_TIME = re.compile(r"[:.,T/-]")


def _goes_up(column: Sequence[int], before: Sequence[int] | None, processes: Sequence[tuple[str, ...]]) -> bool:
    last: dict[tuple[str, ...], tuple[int, int]] = {}
    for number, larger, process in zip(column, before or column, processes, strict=True):
        was = last.get(process, (0, 0))
        if number < was[0] and (before is None or larger <= was[1]):
            return False
        last[process] = (number, larger)
    return True


# ------------------------------------------------------------------------------------------------------------ frames


def _unframed(lines: list[Raw]) -> list[Raw] | None:
    """Lines without the frame around all of them, as they stood in it."""
    full = [line.text for line in lines if line.text.strip()]
    framed = sum(FRAME.match(line.lstrip()) is not None for line in full)
    rules = sum(line.lstrip().startswith(FRAME_TITLE) or RULE.fullmatch(line) is not None for line in full)
    if framed < _FEWEST or framed + rules < _NEARLY_ALL * len(full):
        return None
    found = []
    above, here = "", ""
    for text, process in lines:
        above, here = here, text
        inner = text.strip()
        if not FRAME.sub("", inner).strip() and rest_of_a_frame(text, above):
            continue
        if FRAME.match(inner):
            if FRAME_CODE.match(inner[1:].lstrip()):
                return None
            inner = inner[1:].removeprefix(" ")
            inner = inner[:-1] if inner and FRAME.match(inner[-1]) else inner
            found.append(Raw(inner.rstrip(), process))
        elif not inner.startswith(FRAME_TITLE) and not (inner and RULE.fullmatch(inner) and not FRAME.search(inner)):
            found.append(Raw(text, process))
    return found


# ------------------------------------------------------------------------------------------------------ lines of JSON

_SAYING = (
    "log", "message", "msg", "MESSAGE", "@message", "text", "textPayload", "line", "body", "event", "content",
    "exc_info", "exception", "traceback", "stack", "stacktrace", "stack_trace", "error",
)  # fmt: skip
"""Entries of a record in which a log's collector keeps what was said."""


def _records(lines: list[Raw], said_from: SaidFrom) -> list[Raw] | None:
    """What the lines of JSON say, of which a log's collector wrote one for each line."""
    full = [line for line in lines if line.text.strip()]
    if not full or sum(line.text.lstrip().startswith("{") for line in full) < _NEARLY_ALL * len(full):
        return None
    read = [(line, _entries(line.text)) for line in lines if line.text.strip()]
    known = [entries for _, entries in read if entries]
    if len(known) < _NEARLY_ALL * len(read):
        return None
    written = {name for entries in known for name, value in entries.items() if isinstance(value, str)}
    names = [name for name in _SAYING if name in written]
    if not names:
        return None
    rest = {
        name for entries in known for name, value in entries.items() if name not in names and _says(value, said_from)
    }
    names += sorted(rest)
    processes = iter(_processes_of(known, [line.process for line, entries in read if entries]))
    said = [[text for name in names if isinstance(text := entries.get(name), str)] for _, entries in read]
    # A record that holds many lines may have been cut off, and goes on in no other.
    many = any("\n" in text.rstrip("\n") for texts in said for text in texts)
    found: list[Raw] = []
    for place, ((line, entries), texts) in enumerate(zip(read, said, strict=True)):
        process = line.process + (next(processes) if entries else ()) + ((f"{place:09}",) if many else ())
        found += [Raw(part, process) for text in texts or [line.text] for part in text.removesuffix("\n").split("\n")]
    return found


def _says(value: object, said_from: SaidFrom) -> bool:
    """Whether an entry may hold a complaint, whatever its name."""
    text = "".join(value.split()) if isinstance(value, str) else ""
    return said_from(text) < len(text)


def _entries(line: str) -> dict[str, Any]:
    """The entries of a record, inner ones by their own name too; {} if it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    inner = [value for value in record.values() if isinstance(value, dict)]
    return {name: value for entries in (*inner, record) for name, value in entries.items()}


def _processes_of(records: Sequence[dict[str, Any]], outer: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    names = sorted({name for record in records for name in record if name not in _SAYING})
    texts = [" ".join(f"{record.get(name)}"[:_LONGEST] for name in names) for record in records]
    marks = [(text, [match.span() for match in re.finditer(r"\d+", text)]) for text in texts]
    if len({len(spans) for _, spans in marks}) != 1:
        return [()] * len(records)
    return _processes(marks, outer)
