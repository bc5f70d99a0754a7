"""Draw `--help`, the same with every version of Typer: usage, what the command does, arguments, options, examples."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import wrap

from convinspect.cli.described import HELP, Description, Parameter
from convinspect.render.emit import encodable, wants_color
from convinspect.render.style import HEAD, NAME, paint

_NARROWEST, _WIDEST = 40, 100
"""Text is laid out for the terminal, within these limits; long lines read badly."""
_LEFT = 30
"""Cells up to which a name stands in one line with its text."""

PROGRAM_OPTIONS = (
    Parameter(("--version", "-V"), "", "Print the version and stop.", (), False, False),
    Parameter(
        ("--install-completion",), "", "Install completion by Tab for your shell: bash, zsh or fish.", (), False, False
    ),
    Parameter(("--show-completion",), "", "Print what that would install.", (), False, False),
    HELP,
)
"""Options of the program itself; Typer adds those on completion."""


def show_help(lines: Iterable[tuple[str, str]]) -> str:
    """The text of the help, with colours if standard output is to have some.

    Args:
        lines: Parts of lines with their style, as `command_help` and `program_help` give them.
    """
    color = wants_color(sys.stdout)
    text = "".join(paint(part, style) if color else part for part, style in lines)
    return encodable(text, sys.stdout).rstrip("\n")


def help_width() -> int:
    """Cells of a line of help."""
    return max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDEST))


def command_help(command: Description, width: int) -> Iterator[tuple[str, str]]:
    """The help of a command, as parts of lines with their style."""
    yield from _usage([command.usage], width)
    yield from _paragraphs(command.paragraphs, width)
    listings = [("Arguments", command.arguments)]
    listings += [(title or "Options", options) for title, options in command.groups.items()]
    for title, parameters in listings:
        if parameters:
            yield from _listing(title, [(_typed(parameter), parameter.text) for parameter in parameters], width)
    if command.examples:
        yield from (("\n", ""), ("Examples", HEAD), ("\n", ""))
        for example in command.examples:
            # Never wrapped, so that it can be copied.
            yield f"  {example}\n", ""


def program_help(text: str, summaries: Mapping[str, str], width: int) -> Iterator[tuple[str, str]]:
    """The help of the program: its commands and options.

    Args:
        text: What it does.
        summaries: What each command does.
        width: Cells of a line.
    """
    file = "convinspect FILE"
    yield from _usage(["convinspect COMMAND [OPTIONS] ...", f"{file}  (the same as convinspect shapes FILE)"], width)
    yield from _paragraphs([text], width)
    yield from _listing("Commands", [([(name, NAME)], summary) for name, summary in summaries.items()], width)
    yield from _listing("Options", [(_typed(option), option.text) for option in PROGRAM_OPTIONS], width)
    yield from (("\nMore: ", ""), ("convinspect COMMAND -h", NAME), ("\n", ""))


def _usage(calls: Sequence[str], width: int) -> Iterator[tuple[str, str]]:
    head = "Usage: "
    for at, call in enumerate(calls):
        first, *rest = wrap(call, width - len(head), break_long_words=False, break_on_hyphens=False)
        yield (head, HEAD) if at == 0 else (" " * len(head), "")
        yield f"{first}\n", ""
        yield from ((f"{' ' * (len(head) + 2)}{line}\n", "") for line in rest)


def _paragraphs(paragraphs: Iterable[str], width: int) -> Iterator[tuple[str, str]]:
    for paragraph in paragraphs:
        yield "\n", ""
        for line in _wrapped(paragraph, width):
            yield f"{line}\n", ""


def _typed(parameter: Parameter) -> list[tuple[str, str]]:
    """A parameter as it is typed, short name first: "-l, --layer GLOB"."""
    if not parameter.is_option:
        return [(parameter.usage, NAME)]
    *short, long = sorted(parameter.names, key=lambda name: (name.startswith("--"), -len(name)))
    names = ", ".join([*short, long])
    return [
        (names if names[1] != "-" else f"    {names}", NAME),
        (f" {parameter.value}" if parameter.value else "", ""),
    ]


def _listing(title: str, rows: Sequence[tuple[list[tuple[str, str]], str]], width: int) -> Iterator[tuple[str, str]]:
    """Rows of a name and its text; a text of several lines is indented, below a long name too."""
    yield from (("\n", ""), (title, HEAD), ("\n", ""))
    lengths = [sum(len(part) for part, _ in name) for name, _ in rows]
    left = max((length for length in lengths if length <= min(_LEFT, width // 2 - 4)), default=4) + 4
    for (name, text), length in zip(rows, lengths, strict=True):
        yield from (("  ", ""), *name)
        first, *rest = _wrapped(text, width - left) or [""]
        yield (f"\n{' ' * left}" if length + 4 > left else " " * (left - length - 2)), ""
        yield from ((f"{line}\n", "") for line in (first, *(f"{' ' * left}{line}" for line in rest)))


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(text, width, break_long_words=False, break_on_hyphens=False)
