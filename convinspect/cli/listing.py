"""Options of the commands that list layers: in which order, and how many."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import Enum
from typing import Annotated, TypeVar

import typer

from convinspect.cli.complaints import say
from convinspect.cli.output import Sink

T = TypeVar("T")


class Sort(str, Enum):
    """What a listing is sorted by."""

    name = "name"
    params = "params"
    size = "size"
    file = "file"


SortOption = Annotated[
    Sort | None,
    typer.Option(
        "--sort",
        help="By name, most params or size first, or as in the file; by default as in the file where it is a pickle, "
        "which keeps the order of the model's code, and else by name.",
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N, and how many more there are.")
]


def first(rows: Sequence[T], limit: int | None) -> tuple[Sequence[T], Sequence[T]]:
    """The rows to show, and those beyond the limit."""
    return (rows, ()) if limit is None else (rows[:limit], rows[limit:])


def say_how_many_more(sink: Sink, beyond: int, limit: int | None) -> None:
    """Say on stderr what a CSV file has no place for: that rows are missing."""
    from convinspect.showing.footnotes import note_on_more

    suffix = sink.output.suffix.lower() if sink.output is not None else f".{sink.fmt.value}"
    if beyond and limit is not None and suffix == ".csv":
        sys.stdout.flush()
        say("note", note_on_more(beyond, limit))
