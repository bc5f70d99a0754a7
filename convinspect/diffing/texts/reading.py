"""The text of a loader's error → what it says, and which of its lines were not understood."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import islice

from convinspect.diffing.texts.complaints import says_nothing, shown_lines, sign_in, unread_lines
from convinspect.diffing.texts.forms import Found, find_form, find_rows, head_of
from convinspect.diffing.texts.items import LoadError
from convinspect.diffing.texts.lines import Raw, clean_lines, unescaped, visible
from convinspect.diffing.texts.loaders import FIRST, FORMS, HEADING, OTHER_HEADING, REMARKS, TABLES
from convinspect.diffing.texts.peeling import peeled
from convinspect.diffing.texts.stream import Stream

_LONG = 200_000
"""Characters of a text in which words of a complaint are looked for first."""


def read_text(text: str, whole: bool = False) -> LoadError:
    """What a text says.

    Args:
        text: Any.
        whole: It is all that an exception says, with nothing cut off or put around.
    """
    if whole:
        return _read(map(Raw, unescaped(text).split("\n")), whole=True, ended=True, needs=text).all_of_it()
    text = visible(text)
    if len(text) > _LONG and says_nothing(text):
        return LoadError(())
    plain = _read(map(Raw, unescaped(text).split("\n")), needs=text)
    if plain.understood:
        return plain.all_of_it()
    lines = peeled(text, _said_from)
    other = _read(lines, needs=text) if lines is not None else plain
    if other.items and (other.understood or not plain.items):
        return other.all_of_it()
    found, more = plain.all_of_it(), other.all_of_it()
    return more if more.items and len(more.unread) < len(found.unread) else found


class _Reading:
    """What a text says if it is read in one way; what of it is not understood is looked for when it is asked for."""

    def __init__(self, said: LoadError, stream: Stream, unread: Iterator[int]) -> None:
        self._said, self._stream, self._more = said, stream, unread
        self._unread: list[int] = []

    @property
    def items(self) -> bool:
        return bool(self._said.items)

    @property
    def understood(self) -> bool:
        """Whether nothing was not understood."""
        if not self._unread:
            self._unread += islice(self._more, 1)
        return not self._unread

    def all_of_it(self) -> LoadError:
        self._unread += self._more
        return replace(self._said, unread=shown_lines(self._stream, self._unread))


def _read(lines: Iterable[Raw], needs: str, whole: bool = False, ended: bool = False) -> _Reading:
    """What lines say, and which of them were not understood.

    Args:
        lines: As they stand in the text.
        needs: Where the words stand that a form needs.
        whole: They are all that an exception says.
        ended: Nothing was cut off the last one.
    """
    cleaned, last_ended = clean_lines(lines)
    stream = Stream.of(cleaned, ended or last_ended)
    # Its lists of keys end without a full stop.
    whole = whole or "safetensors" in needs
    forms = [form for form in FORMS if form.needs in needs]
    said = [found for form in forms for found in find_form(form, stream, whole)]
    said += [found for table in TABLES for found in find_rows(table, stream)]
    remarks = [found for form in REMARKS for found in find_form(form, stream, whole)]
    begun = {found.start for found in said}
    headings = [found for found in find_form(HEADING, stream, whole) if _followed(found, stream, begun)]
    others = list(find_form(OTHER_HEADING, stream, whole))
    firsts = find_form(FIRST, stream, whole)
    found = _in_order([*headings, *others, *said, *remarks])
    items = tuple(dict.fromkeys(item for one in found for item in one.items))
    stops = next((one.stops for one in found if one.stops), "")
    headless = _headless(found, [*headings, *others, *firsts])
    return _Reading(
        LoadError(items, (), stops, headless, any(one.endless for one in found)),
        stream,
        unread_lines(stream, headings, found),
    )


def _said_from(text: str) -> int:
    """Where what a loader may say begins in a text without white space; its length if nowhere."""
    heads = [at for head in _heads() if (at := text.find(head)) >= 0]
    sign = sign_in(text)
    return min([*heads, len(text) if sign is None else sign])


@cache
def _heads() -> tuple[str, ...]:
    """What the sentences of loaders begin with."""
    sentences = [form.sentence for form in (*FORMS, *REMARKS, HEADING, OTHER_HEADING)] + [
        table.heading for table in TABLES
    ]
    return tuple({head_of(sentence) for sentence in sentences})


def _headless(found: Iterable[Found], headings: Iterable[Found]) -> bool:
    """Whether the beginning of an error is missing."""
    first = next((one.start for one in found if one.headed), None)
    return first is not None and all(heading.start > first for heading in headings)


def _followed(heading: Found, stream: Stream, begun: set[int]) -> bool:
    """Whether something that was understood follows a heading."""
    rest = stream.text[heading.end : heading.end + 8]
    return heading.end + len(rest) - len(rest.lstrip("\\\"'")) in begun


def _in_order(found: Iterable[Found]) -> list[Found]:
    """What was found, in the order of the text; of two that overlap the longer one that begins first."""
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: (one.start, -one.end)):
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
    return kept
