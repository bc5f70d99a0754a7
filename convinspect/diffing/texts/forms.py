"""How a loader's sentences are written down as data, and how one is found in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from convinspect.diffing.texts.items import LoadErrorItem, Shape, Trouble
from convinspect.diffing.texts.stream import Stream
from convinspect.text import dimension

_SHAPE = r"(?:(?:[a-z_]{1,20}\.)?Size\(\[[\d,]*\]\)|\([\d,]*\)|\[[\d,]*\])"
_PLACES = {
    "{key}": r'(?P<key>[^"|^]{1,600}?)',
    "{part}": r"(?P<part>\w{1,200})",
    "{rare}": r"(?P<key>\w[\w.,:/{}-]{0,600}?)",
    "{checkpoint}": f"(?P<checkpoint>{_SHAPE})",
    "{model}": f"(?P<model>{_SHAPE})",
    "{quoted}": r'(?P<keys>"[^"]+"(?:,"[^"]+")*)(?P<stop>\.?)',
    "{single}": r"[\[{(](?P<keys>(?:'[^']+'(?:,'[^']+')*),?)[\]})]",
    "{maybe}": r"[\[{(](?P<keys>(?:'[^']+'(?:,'[^']+')*,?)?)[\]})]",
    "{bare}": r"(?P<keys>[^()]{1,100000}?)",
    "{plain}": r"(?P<plain>)",
    "{stopped}": r"(?P<plain>)(?P<stopped>)",
    "{count}": r"(?P<count>\d{1,9})",
    "{class}": r"[\w.\[\],<>]{1,300}?",
    "{some}": r".{0,600}?",
}
"""What stands for the parts of a sentence that differ.

`{quoted}` is a list of names in double quotes, `{single}` one in single quotes and brackets, `{bare}` one without
quotes before words that end it, `{plain}` one that ends with its line, `{stopped}` one with a full stop
before that end.
"""


@dataclass(frozen=True, slots=True)
class Form:
    """A sentence that a loader may write.

    Attributes:
        trouble: What it says of a key; None of what is no complaint.
        sentence: A regular expression with the places above, in which spaces are for the reader alone. It begins with
            words as they are.
        stops: The loader, if it stops at the first thing that it does not like.
        needs: A word without which the sentence means something else, anywhere in the text.
        headed: A heading stands before it, or the text begins in the middle.
    """

    trouble: Trouble | None
    sentence: str
    stops: str = ""
    needs: str = ""
    headed: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """A table, or a list with a line for each key.

    Attributes:
        heading: As a `Form.sentence`.
        rows: Sentences of a row with what they say.
        folded: Names may stand for several keys.
    """

    heading: str
    rows: tuple[tuple[Trouble, str], ...]
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a text.

    Attributes:
        start: Where it begins.
        end: Where it ends.
        items: What it says.
        stops: The loader that stops at the first thing, or "".
        endless: A table without the notes that its loader writes below: rows may have been cut off.
        doubtful: Where names stand that were not read, since something else may have been written into them.
        headed: See `Form`.
    """

    start: int
    end: int
    items: tuple[LoadErrorItem, ...] = ()
    stops: str = ""
    doubtful: tuple[int, ...] = ()
    endless: bool = False
    headed: bool = False


_LONGEST = 4_000
"""Characters of one sentence without a list."""
_LISTS = ("{quoted}", "{single}", "{maybe}", "{bare}", "{plain}", "{stopped}")


@cache
def _compiled(sentence: str) -> tuple[str, re.Pattern[str]]:
    """The words that a sentence begins with, and its expression, both without spaces."""
    words = re.match(r"[A-Za-z <']*", sentence)
    assert words is not None
    pattern = sentence
    for place, expression in _PLACES.items():
        pattern = pattern.replace(place, expression)
    return words[0].replace(" ", ""), re.compile(pattern.replace(" ", ""))


def head_of(sentence: str) -> str:
    """The words that a sentence begins with, without spaces."""
    return _compiled(sentence)[0]


def find_form(form: Form, stream: Stream, whole: bool) -> Iterator[Found]:
    """Everywhere that a text says a sentence.

    Args:
        form: The sentence.
        stream: The text.
        whole: The text is all of an exception's, so that nothing was cut off its end.
    """
    listed = any(place in form.sentence for place in _LISTS)
    for start, match in _matches(form.sentence, stream, listed):
        if form.trouble is None:
            yield Found(start, match.end())
            continue
        found = _found(form.trouble, match, stream, whole)
        if found is not None:
            yield replace(found, stops=form.stops, headed=form.headed)


def _matches(sentence: str, stream: Stream, unlimited: bool) -> Iterator[tuple[int, re.Match[str]]]:
    """Matches of a sentence; none reaches into the next place where it may begin, or into another process's lines."""
    head, pattern = _compiled(sentence)
    assert head, sentence
    text = stream.text
    start = text.find(head)
    while start >= 0:
        following = text.find(head, start + len(head))
        end = stream.border(start) if following < 0 else min(following, stream.border(start))
        match = pattern.match(text, start, end if unlimited else min(end, start + _LONGEST))
        if match is not None:
            yield start, match
        start = following


def _found(trouble: Trouble, match: re.Match[str], stream: Stream, whole: bool) -> Found | None:
    """What a match says; None where something in it is not certain."""
    groups = match.re.groupindex
    if "keys" in groups or "plain" in groups:
        return _list(trouble, match, stream, whole)
    part = "part" in groups
    key = stream.name(*match.span("part" if part else "key"))
    shapes = _shapes(match, stream)
    if key is None or shapes is None:
        return None
    return Found(match.start(), match.end(), (_item(trouble, key, *shapes, partial=part),))


def _list(trouble: Trouble, match: re.Match[str], stream: Stream, whole: bool) -> Found | None:
    """What a sentence with a list of names says; a name that is not certain is left out of it."""
    groups = match.re.groupindex
    if "plain" in groups:
        sure, end = stream.list_end(match.end())
        if end > match.endpos:
            # The same sentence begins again before the list ends.
            return None
        # Without its full stop it was cut off, or another line was taken for the rest of a name.
        sure = sure and ("stopped" not in groups or stream.text[end - 1 : end] == ".")
        spans = _names(stream.text, match.end(), end, _BARE)
        sure = sure and all(_SURE.fullmatch(stream.text, *span) for span in spans)
        counted = "count" not in groups or len(spans) == int(match["count"])
        shapes = _shapes(match, stream)
        if not sure or not counted or shapes is None or (shapes != (None, None) and len(spans) > 1):
            return None
    else:
        if "stop" in groups and not _ended(match, stream, whole):
            return None
        end, shapes = match.end(), (None, None)
        spans = _names(stream.text, *match.span("keys"), _LISTED.get(match["keys"][:1], _BARE))
    bare = "plain" not in groups and match["keys"][:1] not in _LISTED
    names = [
        (start, None if bare and not _SURE.fullmatch(stream.text, start, end) else stream.name(start, end))
        for start, end in spans
    ]
    items = tuple(_item(trouble, name, *shapes) for _, name in names if name is not None)
    doubtful = tuple(start for start, name in names if name is None)
    if any(
        name is None and not _PLAIN.fullmatch(stream.text, *span) for (_, name), span in zip(names, spans, strict=True)
    ):
        # What was written into the list may have been written over the beginning of another.
        return Found(match.start(), end, doubtful=doubtful)
    return Found(match.start(), end, items, doubtful=doubtful) if items or not doubtful else None


def _item(
    trouble: Trouble, key: str, checkpoint: Shape | None, model: Shape | None, partial: bool = False
) -> LoadErrorItem:
    """A tensor whose shape is as the model's was not copied for another reason."""
    if trouble == Trouble.SIZE_MISMATCH and checkpoint == model:
        trouble = Trouble.NOT_COPIED
    return LoadErrorItem(trouble, key, checkpoint, model, partial=partial)


_LISTED = {'"': re.compile(r'"([^"]+)"'), "'": re.compile(r"'([^']+)'")}
_BARE = re.compile(r"([^,]+)")
"""A name in a list without quotes."""
_PLAIN = re.compile(r"[\w.,:/@*{}-]+")
"""A name that nothing was written into."""
_SURE = re.compile(r"[\w.-]*\w")
"""A name without quotes that has swallowed neither source nor a frame."""


def _names(text: str, start: int, end: int, pattern: re.Pattern[str]) -> list[tuple[int, int]]:
    """Where the names in a list stand; a full stop after a list without quotes is none of the last one's."""
    if pattern is _BARE and text[end - 1 : end] == ".":
        end -= 1
    return [match.span(1) for match in pattern.finditer(text, start, end)]


def _ended(match: re.Match[str], stream: Stream, whole: bool) -> bool:
    """Whether a list in double quotes was not cut off: PyTorch ends it with a full stop, safetensors with its line."""
    end = match.end()
    if match["stop"]:
        return True
    if not whole:
        return False
    # The quote before a brace may be that of JSON, after a name that was cut.
    return end == len(stream.text) or end in stream.at_start or stream.text[end] in "')"


def _shapes(match: re.Match[str], stream: Stream) -> tuple[Shape | None, Shape | None] | None:
    """The shapes in the checkpoint and in the model, None each where the sentence has none; None if one is no shape."""
    found: list[Shape | None] = []
    for name in ("checkpoint", "model"):
        if name not in match.re.groupindex or match[name] is None:
            found.append(None)
            continue
        sizes = [dimension(number) for number in re.findall(r"\d+", match[name])]
        known = tuple(size for size in sizes if size is not None)
        if len(known) != len(sizes) or not stream.numbers_whole(*match.span(name)):
            return None
        found.append(known)
    return found[0], found[1]


def find_rows(table: Rows, stream: Stream) -> Iterator[Found]:
    """Every table of a form, with those of its rows that are read one after the other."""
    for start, match in _matches(table.heading, stream, True):
        items: list[LoadErrorItem] = []
        end = match.end()
        while (row := _row(table, stream, end)) is not None:
            end, more = row
            items += more
        if items:
            # After transformers' table notes follow, and not a row that was cut off within its name.
            cut = table.folded and _ROW_BEGUN.fullmatch(stream.text, end, stream.border(start)) is not None
            endless = table.folded and not stream.text.startswith("Notes:", end)
            yield Found(start, end, tuple(items), doubtful=(end,) if cut else (), endless=endless)


_ROW_BEGUN = re.compile(r"(?!Notes)\w[\w.,{}-]*")
"""A name, or the beginning of one."""


def _row(table: Rows, stream: Stream, start: int) -> tuple[int, list[LoadErrorItem]] | None:
    end = stream.border(start)
    for trouble, sentence in table.rows:
        match = _compiled(sentence)[1].match(stream.text, start, min(start + _LONGEST, end))
        if match is None:
            continue
        named = stream.folded_name if table.folded else stream.name
        key, shapes = named(*match.span("key")), _shapes(match, stream)
        keys = None if key is None else _unfolded(key) if table.folded else [key]
        if keys is None or shapes is None:
            return None
        folded = len(keys) > 1
        return match.end(), [LoadErrorItem(trouble, name, *shapes, folded=folded) for name in keys]
    return None


_FOLD = re.compile(r"\{([\d,. ]+)\}")
_MOST_KEYS = 20_000
"""Keys that one row may stand for."""


def _unfolded(name: str) -> list[str] | None:
    """The keys that a name may stand for ("layers.{0, 1}.weight", "layers.{0...11}.weight"); None if too many."""
    names = [""]
    for place, piece in enumerate(_FOLD.split(name)):
        choices: list[str] = [piece]
        if place % 2:
            first, dots, last = piece.partition("...")
            numbers = [dimension(number) for number in ((first, last) if dots else piece.split(","))]
            known = [number for number in numbers if number is not None]
            if len(known) != len(numbers) or (dots and not 0 <= known[1] - known[0] < _MOST_KEYS):
                return None
            choices = list(map(str, range(known[0], known[1] + 1) if dots else known))
        if len(names) * len(choices) > _MOST_KEYS:
            return None
        names = [begun + choice for begun in names for choice in choices]
    return None if "{" in name and len(names) == 1 else names
