"""The text of a loader's error → what it says, and which of its lines were not understood."""

from __future__ import annotations

from collections.abc import Iterable

from convinspect.diffing.texts.complaints import unread_lines
from convinspect.diffing.texts.forms import Found, find_form, find_rows
from convinspect.diffing.texts.items import LoadError
from convinspect.diffing.texts.lines import clean_lines
from convinspect.diffing.texts.loaders import FORMS, HEADING, REMARKS, TABLES
from convinspect.diffing.texts.stream import Stream


def read_text(text: str, whole: bool = False) -> LoadError:
    """What a text says.

    Args:
        text: Any.
        whole: It is all that an exception says, with nothing cut off or put around.
    """
    stream = Stream.of(clean_lines(text, whole), whole or text.rstrip(" \t").endswith("\n"))
    # Its lists of keys end without a full stop.
    whole = whole or "safetensors" in text
    forms = [form for form in FORMS if form.needs in text]
    said = [found for form in forms for found in find_form(form, stream, whole)]
    said += [found for table in TABLES for found in find_rows(table, stream)]
    remarks = [found for form in REMARKS for found in find_form(form, stream, whole)]
    begun = {found.start for found in said}
    headings = [found for found in find_form(HEADING, stream, whole) if _followed(found, stream, begun)]
    found = _in_order([*headings, *said, *remarks])
    items = tuple(dict.fromkeys(item for one in found for item in one.items))
    stops = next((one.stops for one in found if one.stops), "")
    return LoadError(items, unread_lines(stream, headings, found), stops)


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
