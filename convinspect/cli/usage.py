"""Usage errors as one line: what is wrong with the command line, and what to type instead."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from typing import Any

import typer

from convinspect.cli.commands import SUMMARIES, as_meant

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What Typer raises for a wrong command line; it gives the class no public name."""


WORDS = ("help", "version")
"""What is typed in place of a command, and is an option."""


def is_help(error: Any) -> bool:
    """Whether nothing was typed, so that the help is to be shown, which is the error's text."""
    return type(error).__name__ == "NoArgsIsHelpError"


def usage_line(error: Any) -> str:
    """What is wrong and what to do, in one line."""
    near = _near(error)
    remedy = f"did you mean {near}?" if near else f"see {_command_of(error)} -h"
    return f"{_problem(error)}; {remedy}"


def _command_of(error: Any) -> str:
    """The command whose help tells more. Typer does not say of which one an option lacks its value."""
    if error.ctx is not None:
        return str(error.ctx.command_path)
    word = next(iter(as_meant(sys.argv[1:], set())), "")
    return f"convinspect {word}" if word in SUMMARIES else "convinspect"


def _problem(error: Any) -> str:
    parameter = getattr(error, "param", None)
    options = [option for option in getattr(parameter, "opts", ()) if option.startswith("-")]
    if options and error.message:
        if number := _number_of(error, options):
            return f"{max(options, key=len)} takes {number}"
        text = error.message.removeprefix("Value error, ")
        return f"{max(options, key=len)}: {text[:1].lower()}{text[1:].rstrip('.')}"
    # Typer's own suggestions, some of them in brackets, are dropped; the remedy gives one.
    text = error.message if hasattr(error, "possibilities") else error.format_message()
    text = text.partition(". Did you mean")[0]
    return f"{text[:1].lower()}{text[1:].rstrip('.')}"


def _number_of(error: Any, options: Iterable[str]) -> str:
    """What the option takes, where that is a number: Typer has other words for it in each of its versions."""
    callback = getattr(getattr(error.ctx, "command", None), "callback", None)
    if callback is None:
        return ""
    from convinspect.cli.described import whole_numbers

    numbers = whole_numbers(inspect.unwrap(callback))
    return next((numbers[option] for option in options if option in numbers), "")


def _near(error: Any) -> str | None:
    """The valid name closest to what was typed, or None."""
    from difflib import get_close_matches

    typed, *names = re.findall(r"'([^']*)'", error.message) or [""]
    if hasattr(error, "possibilities"):
        typed, names = error.option_name, error.possibilities or []
        if error.ctx is not None and any("--format" in option.opts for option in error.ctx.command.params):
            names = [*names, "--json"]
    elif error.message.startswith("No such command") and error.ctx is not None:
        names = [*error.ctx.command.list_commands(error.ctx), *WORDS]
    # Dashes, which all options have, make none alike.
    bare = {name.lstrip("-"): name for name in names}
    return next((bare[name] for name in get_close_matches(typed.lstrip("-"), bare, 1, 0.5)), None)
