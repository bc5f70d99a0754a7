"""What in a text looks like a loader's complaint and was not understood."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from convinspect.diffing.texts.forms import Found
from convinspect.diffing.texts.stream import Stream

_SIGNS = re.compile(
    "|".join(
        (
            r"(?<!_)mismatch", r"missing[a-z\d]{0,12}(?:key|param|weight|tensor|buffer)",
            r"unexpected[a-z\d]{0,12}(?:key|param|weight|tensor|buffer)", r"(?:not|n't|cannot)match", r"mustmatch",
            r"incompatib", r"copyingapar", r"copyingthepar", r"withshape", r"expected(?:shape|size)",
            r"(?:got|found|received|different|wrong|invalid)(?:shape|size)", r"hasshape", r"whosedimensions",
            r"shapein(?:the)?(?:current)?model", r"shapeis", r"fromcheckpoint", r"incurrentmodel",
            r"inthecheckpoint", r"not(?:in|partof)(?:the)?(?:model|checkpoint|state)", r"newlyinitialized",
            r"werenot(?:used|initialized|loaded|found)", r"notfoundin(?:the)?(?:checkpoint|state|model)",
            r"instate_?dict", r"sourcestate_?dict", r"unused(?:key|param|weight)", r"size\(\[",
            r"(?:cannot|couldnot|failedto|unableto)load", r"error\(s\)inload", r"keyerror",
            r"settingatensor|setatensor", r"looksincorrect", r"sizeoftensor",
            r"\|(?:missing|unexpected|conversion)", r"(?:missing|unexpected|conversion)\|",
            r"(?:lines?|output)(?:truncated|omitted|hidden|skipped)",
            r"expectedtorch", r"hasno(?:parameter|attribute)|nothaveparameter", r"receivedtype|invalidtype",
            r"parametergroup",
            r"someweightsof|usedwheninit|duringparametertransfer|foundkeysthat",
            r"\|status", r"betweensaved", r"uninitialized(?:param|buffer)", r"onlypartofthe",
            r"skiploading", r"_keys=\[(?!\])|=\[['\"]\w",
            r"(?:shapes?|sizes?|dims?|dimensions?)[^\d\[(]{0,24}[\[(]\d+(?:,\d+)*,?[\])]",
            # The rest of a list of names whose beginning was cut off.
            r"\w\.\w+\",\"\w+[\w.]*\.\w",
        )
    ),
    re.IGNORECASE,
)  # fmt: skip
_CORES = (
    "weights", "usedwhen", "foundkeys",
    "match", "missing", "unexpected", "incompatib", "copying", "shape", "dim", "size", "checkpoint", "model",
    "initialized", "werenot", "state_dict", "statedict", "unused", "load", "error", "tensor", "incorrect", "conversion",
    "line", "output", "torch", "param", "receivedtype", "invalidtype", "status", "saved", "onlypart", "=[", '","',
)  # fmt: skip
"""One of these is in all that `_SIGNS` finds; they are found much faster."""
_LONG = 200
"""Characters of a text in which it pays to look for these first."""
_LEFT_OUT = re.compile(
    r"[\W_]*(?:\.\.|…)[\W_]*|.*\b(?:truncated|omitted|clipped|trimmed|snip|snipped|elided|collapsed)\b.*"
    r"|.*\b\d+ (?:more|other|further)\b.*|.*(?:\.\.|…)\W{0,3}\d+ lines?\b.*|\W*(?:show )?more\b\W*(?:\(?y/n\)?)?"
    r"|\W*lines? \d[\d-]*/\d+.*|\W*\d+ lines?\W*|.*\bfor the (?:rest|full)\b.*",
    re.IGNORECASE,
)
"""A line with which a console or a person says that others were left out."""
_SHORT = 80
"""Characters of the longest such line."""
_TRIVIAL = re.compile(r"(?:n?\\+[nt]?|[\s\"'.,)\]}])*")
"""What may stand between two sentences of one message."""
_NEW = ("Traceback(most", "Error(s)inloading", "Duringhandlingoftheaboveexception", "Theaboveexceptionwas")
"""What begins another message."""
_MOST = 160
"""Characters of a line that are shown."""


def says_nothing(text: str) -> bool:
    """Whether nothing in a text looks like a complaint, whatever stands between its lines."""
    squeezed = "".join(text.split()).lower()
    return not any(core in squeezed for core in _CORES)


def unread_lines(stream: Stream, headings: Sequence[Found], found: Sequence[Found]) -> Iterator[int]:
    """Numbers of lines with what looks like a complaint and was not understood, each once, in no order.

    Args:
        stream: The text.
        headings: What stands before all that an exception says.
        found: What was understood, in the order of the text, none within another.
    """
    doubtful = (place for one in found for place in one.doubtful)
    places = chain(_between(stream, headings, found), doubtful, _signs(stream, found))
    lines = chain(map(stream.line_at, places), _left_out(stream, found))
    seen: set[int] = set()
    for line in lines:
        if line not in seen:
            seen.add(line)
            yield line


def sign_in(text: str) -> int | None:
    """Where a complaint's words begin in a text without white space, the side of a table left out; None if nowhere."""
    match = _SIGNS.search(text)
    if match is None:
        return None
    # A table's row has its status in capitals.
    return match.start() + (match[0][0] == "|" and not match[0].isupper())


def shown_lines(stream: Stream, lines: Iterable[int]) -> tuple[str, ...]:
    """Lines as they are shown, in their order, each text once."""
    return tuple(dict.fromkeys(_shown(stream.lines[line].text) for line in sorted(lines)))


def _shown(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= _MOST else f"{line[:_MOST]}…"


def _signs(stream: Stream, found: Sequence[Found]) -> Iterable[int]:
    """Places outside of what was understood that have a complaint's words."""
    end = 0
    for one in (*found, None):
        start = len(stream.text) if one is None else one.start
        if start > end and (start - end < _LONG or not says_nothing(stream.text[end:start])):
            for match in _SIGNS.finditer(stream.text, end, start):
                yield match.start()
        end = end if one is None else one.end


def _left_out(stream: Stream, found: Sequence[Found]) -> Iterable[int]:
    """Lines below the first complaint that say that others were left out."""
    first = next((one.start for one in found if one.items), None)
    if first is None:
        return
    for place in range(stream.line_at(first) + 1, len(stream.lines)):
        line = stream.lines[place].text
        if len(line) <= _SHORT and _LEFT_OUT.fullmatch(line):
            yield place


def _between(stream: Stream, headings: Iterable[Found], found: Sequence[Found]) -> Iterable[int]:
    """Places between what was understood of one exception, and in lines below it that begin as its lines do."""
    starts = {heading.end for heading in headings}
    inside = False
    for one, following in zip(found, (*found[1:], None), strict=False):
        inside = one.end in starts or (inside and bool(one.items))
        if not inside:
            continue
        end = len(stream.text) if following is None else following.start
        rest = _TRIVIAL.match(stream.text, one.end, end)
        assert rest is not None
        if rest.end() == end:
            continue
        line = stream.line_at(rest.end())
        ends = (following is not None and following.end in starts) or _ends(stream, rest.end(), end)
        if (following is not None and not ends) or (
            stream.starts[line] == rest.end() and stream.lines[line].indented and not stream.lines[line].begins
        ):
            yield rest.end()
        inside = inside and not ends


def _ends(stream: Stream, start: int, end: int) -> bool:
    """Whether an exception's text ends before a place, so that what stands there is something else."""
    if any(sign in stream.text[start : min(end, start + 400)] for sign in _NEW):
        return True
    lines = range(stream.line_at(start), stream.line_at(end - 1) + 1)
    return any(stream.lines[line].begins for line in lines)
