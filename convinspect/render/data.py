"""Tables and payloads for other programs: CSV, Markdown, JSON. Yields text in pieces, so that memory use is bounded."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from convinspect.render.cells import cell_width, safe, shape
from convinspect.render.table import Table, plain

_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}

# Backslash first, and whatever would start emphasis, code, a link, raw HTML or a new cell.
_MARKDOWN = re.compile(r"[\\|`*<\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|~(?=~)|&(?=#?\w+;)")


def raw_rows(table: Table) -> Iterable[Sequence[object]]:
    """The rows' machine values; the text of the cells if the table has none."""
    return table.raw if table.raw else (tuple(map(plain, row)) for row in table.rows)


def _names(table: Table) -> list[str]:
    return [*(column.machine_name for column in table.columns), *table.more]


def scalar(value: object) -> str:
    """One machine value as text: None is "", shapes "(64, 64, 1)", floats in full, words joined by "; ".

    Control characters are escaped as `safe` does, because CSV too ends up on terminals.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _number_word(value) or repr(float(value))
    if isinstance(value, (tuple, list)):
        if all(isinstance(part, int) for part in value):
            return shape(value)
        return "; ".join(map(scalar, value))
    return safe(str(value))


def _number_word(value: float) -> str | None:
    """ "NaN", "Infinity" or "-Infinity", or None for a finite number."""
    return "NaN" if value != value else _NOT_FINITE.get(value)


def csv_text(tables: Iterable[Table]) -> Iterator[str]:
    """CSV with machine names as header, a blank line between two tables. Lines end in "\\n"."""
    buffer = io.StringIO()
    import csv

    writer = csv.writer(buffer, lineterminator="\n")
    for i, table in enumerate(tables):
        if i:
            buffer.write("\n")
        header = [safe(name) for name in _names(table)]
        for row in chain([header], (list(map(scalar, row)) for row in raw_rows(table))):
            writer.writerow(row)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()


def markdown(text: str) -> str:
    """`text` so that Markdown shows it unchanged, on one line."""
    return _MARKDOWN.sub(lambda mark: f"\\{mark[0]}" if mark[0] not in "<&" else _ENTITY[mark[0]], safe(text))


_ENTITY = {"<": "&lt;", "&": "&amp;"}


def markdown_text(tables: Iterable[Table]) -> Iterator[str]:
    """GitHub's pipe tables of the machine values, titles above and summary and notes below."""
    for i, table in enumerate(tables):
        if i:
            yield "\n"
        if table.title:
            yield f"**{markdown(table.title)}**\n\n"
        for line in table.lead:
            yield f"{markdown(plain(line))}\n\n"
        yield from _pipe_table(table)
        for line in (*table.summary, *table.notes):
            yield f"\n{markdown(plain(line))}\n"


def _pipe_table(table: Table) -> Iterator[str]:
    if not table.columns:
        return
    right = [column.justify == "right" for column in table.columns] + [False] * len(table.more)
    rows = [list(map(markdown, _names(table)))]
    rows += [[markdown(scalar(value)) for value in row] for row in raw_rows(table)]
    widths = [max(3, *map(cell_width, cells)) for cells in zip(*rows, strict=True)]
    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    for row in (rows[0], rule, *rows[1:]):
        blanks = [" " * (w - cell_width(text)) for text, w in zip(row, widths, strict=True)]
        cells = [b + text if r else text + b for text, b, r in zip(row, blanks, right, strict=True)]
        yield f"| {' | '.join(cells)} |\n"


def table_payload(table: Table) -> dict[str, object]:
    """A table as a JSON payload, if the caller has none: `{"title", "rows": [{key: value}], "notes"}`."""
    names = _names(table)
    return {
        "title": table.title,
        **({"lead": list(map(plain, table.lead))} if table.lead else {}),
        "rows": [dict(zip(names, row, strict=True)) for row in raw_rows(table)],
        "summary": list(map(plain, table.summary)),
        "notes": list(map(plain, table.notes)),
    }


def json_text(payload: object) -> Iterator[str]:
    r"""JSON, indented by two, lists of numbers on one line, ending in a line end.

    Characters that a terminal might interpret and lone surrogates are written as `\uXXXX`, which every reader turns
    back into the same text. NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity". Tuples,
    numpy arrays and numpy numbers are written as lists and numbers, other objects by their `str`.
    """
    yield from _value(payload, "\n")
    yield "\n"


# json.dumps makes an encoder for every call; a listing of thousands of layers has tens of thousands of values.
_TEXT = json.JSONEncoder(ensure_ascii=False)
_STRICT = json.JSONEncoder(allow_nan=False)


def _value(value: object, line_end: str) -> Iterator[str]:
    value = _listed(value)
    inner = line_end + "  "
    if isinstance(value, Mapping) and value:
        items = ((_json_key(key) + ": ", item) for key, item in value.items())
        yield from _members("{", "}", items, line_end, inner)
    elif isinstance(value, (list, tuple)) and value and not all(map(_is_number, value)):
        yield from _members("[", "]", (("", item) for item in value), line_end, inner)
    elif isinstance(value, (list, tuple)):
        yield _numbers(value)
    else:
        yield _atom(value)


def _members(start: str, end: str, items: Iterable[tuple[str, object]], line_end: str, inner: str) -> Iterator[str]:
    separator = start
    for name, item in items:
        yield f"{separator}{inner}{name}"
        yield from _value(item, inner)
        separator = ","
    yield f"{line_end}{end}"


def _listed(value: object) -> object:
    """numpy arrays and numbers (recognized by their `tolist`) as Python lists and numbers."""
    to_list: Callable[[], object] | None = getattr(value, "tolist", None)
    return to_list() if to_list is not None else value


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float))


def _numbers(values: Sequence[object]) -> str:
    """A list of numbers on one line."""
    try:
        return _STRICT.encode(values)
    except ValueError:
        return f"[{', '.join(map(_atom, values))}]"


def _json_key(key: object) -> str:
    return _atom(key if isinstance(key, str) else str(key))


def _atom(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, float):
        word = _number_word(value)
        return f'"{word}"' if word else repr(float(value))
    return _STRICT.encode(value) if _is_number(value) else _quoted(str(value))


def _quoted(text: str) -> str:
    quoted = _TEXT.encode(text)
    if quoted.isprintable():
        return quoted
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted)
