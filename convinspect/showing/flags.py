"""Spell options as the reader gives them: as flags on the command line, as arguments in a notebook."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum, auto

from convinspect.errors import Option, as_argument, spelled

_OF_ARGUMENTS = {"target": "-o"}
"""What is an argument in Python and a flag on the command line."""


def as_flag(option: Option) -> str:
    """An option as a flag: `--layer conv1`, `--state-dict`; `-o` for the target; once for each value of a tuple."""
    flag = _OF_ARGUMENTS.get(option.name) or f"--{option.name.rstrip('_').replace('_', '-')}"
    if option.value is None or option.value is True:
        return flag
    values = option.value if isinstance(option.value, tuple) else (option.value,)
    return " ".join(f"{flag} {shlex.quote(str(value))}" for value in values)


class Reader(Enum):
    """Who reads a result: at a shell, where commands have flags; in Python, where they have none; or a page alone."""

    SHELL = auto()
    PYTHON = auto()
    PAGE = auto()


# Who reads is known where a result is shown, and sentences are made many calls below.
_reader: ContextVar[Reader] = ContextVar("reader", default=Reader.SHELL)


@contextmanager
def read_by(reader: Reader) -> Iterator[None]:
    """What is drawn inside is for this reader."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


def flagged(text: str) -> str:
    """A sentence with its options as flags; for a reader of Python as arguments."""
    return spelled(text, as_argument if _reader.get() is Reader.PYTHON else as_flag)


def by_reader(shell: str, python: str = "", page: str | None = None) -> str:
    """Advice that differs between readers by more than how an option is spelled.

    Args:
        shell: For the command line.
        python: For Python; "" where no argument does the same.
        page: For the page of `report`; by default the command line's.
    """
    reader = _reader.get()
    if reader is Reader.PAGE and page is not None:
        return page
    return python if reader is Reader.PYTHON else shell
