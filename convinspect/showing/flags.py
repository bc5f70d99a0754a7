"""Spell options in errors and reasons as command-line flags."""

from __future__ import annotations

import shlex

from convinspect.errors import Option, spelled

_OF_ARGUMENTS = {"target": "-o"}
"""What is an argument in Python and a flag on the command line."""


def as_flag(option: Option) -> str:
    """An option as a flag: `--layer conv1`, `--state-dict`; `-o` for the target."""
    flag = _OF_ARGUMENTS.get(option.name) or f"--{option.name.rstrip('_').replace('_', '-')}"
    return flag if option.value is None or option.value is True else f"{flag} {shlex.quote(str(option.value))}"


def flagged(text: str) -> str:
    """A sentence with its options as flags."""
    return spelled(text, as_flag)
