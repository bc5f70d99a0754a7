"""Spell options as the reader gives them: as flags on the command line, as arguments in a notebook."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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


# Who reads is known where a result is shown, and sentences are made many calls below.
_in_python: ContextVar[bool] = ContextVar("in_python", default=False)


@contextmanager
def for_python() -> Iterator[None]:
    """What is drawn inside is for somebody who calls functions, and has no flags to give."""
    token = _in_python.set(True)
    try:
        yield
    finally:
        _in_python.reset(token)


def flagged(text: str) -> str:
    """A sentence with its options as flags; inside `for_python` as arguments."""
    return spelled(text, as_argument if _in_python.get() else as_flag)


def by_reader(shell: str, python: str = "") -> str:
    """Advice that differs between the command line and Python by more than how an option is spelled.

    Args:
        shell: For the command line.
        python: For Python; "" where no argument does the same.
    """
    return python if _in_python.get() else shell
