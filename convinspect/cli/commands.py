"""The commands by name. The module of a command is imported only when the command is asked for."""

from __future__ import annotations

import os
from collections.abc import Set
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from convinspect.cli.parameters import convert_quickly

SUMMARIES = {
    "shapes": "List the convolution and Linear layers of a saved model, with their kernel shapes.",
    "browse": "Explore a saved model in the terminal: its modules, shapes, numbers, and what could be converted.",
    "weights": "Show the kernels themselves: a matrix of output × input channels.",
    "diff": "Say why a checkpoint will not load where another does, and whether converting helps.",
    "convert": "Turn kernel-size-1 convolutions into Linear, or back, inside a checkpoint.",
    "verify": "Check that a conversion changed shapes and nothing else.",
    "recover": "Undo a convert --in-place that was interrupted: the file is as it was before.",
    "check": "Is this file whole, and what would loading it elsewhere call?",
    "report": "Draw a model as one HTML page: its layers, module tree and kernels, and what could be converted.",
    "compare": "Measure a convolution against Linear on this machine: speed, precision, gradients.",
    "explain": "Draw how n rows of 3 columns become n rows of 6: data, kernels and result, on real numbers.",
}
"""The first paragraph of each command's docstring, so that `--help` can show it without importing the command."""


class QuickCommand(TyperCommand):
    """A command that starts without pydantic and draws its help itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        parameters = self.get_params(ctx)
        convert_quickly(parameters)
        takes_format = any("--format" in parameter.opts for parameter in parameters)
        return super().parse_args(ctx, with_format(args) if takes_format else args)

    def get_help(self, ctx: Any) -> str:
        from convinspect.cli.described import describe
        from convinspect.cli.help import command_help, help_width, show_help

        assert self.callback is not None
        return _in_colour(ctx, show_help(command_help(describe(self.callback), help_width())))


class LazyGroup(TyperGroup):
    """Commands that are known by name and summary only, until one of them is run.

    `--help` and the completion of names need only the summaries, which `get_command` returns; running a command, or
    completing its options, calls `resolve_command`.
    """

    def __init__(self, *, commands: Any = None, **settings: Any) -> None:
        known = {name: TyperCommand(name, help=summary) for name, summary in SUMMARIES.items()}
        super().__init__(commands={**known, **(commands or {})}, **settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        parameters = self.get_params(ctx)
        convert_quickly(parameters)
        return super().parse_args(ctx, as_meant(args, {name for parameter in parameters for name in parameter.opts}))

    def get_help(self, ctx: Any) -> str:
        from convinspect.cli.help import help_width, program_help, show_help

        return _in_colour(ctx, show_help(program_help(self.help or "", SUMMARIES, help_width())))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in SUMMARIES else command, rest


def _in_colour(ctx: Any, text: str) -> str:
    """Leave colours in the text: it has them where they are wanted, and Typer would remove them from a pipe."""
    ctx.color = "\x1b[" in text
    return text


def as_meant(args: list[str], own: Set[str]) -> list[str]:
    """A command line as hands type it by habit, spelled out: `help`, `version`, and a file without a command.

    Args:
        args: What was typed after the program's name.
        own: Options of the program, which are those of no command.
    """
    if not args:
        return args
    first, rest = args[0], args[1:]
    if first == "help":
        return [*(word for word in rest[:1] if word not in ("help", "version")), "--help"]
    if first == "version":
        return ["--version"]
    if first in SUMMARIES or first.partition("=")[0] in own:
        return args
    if first.startswith("-"):
        # Options of `shapes` may come before the file, as they may behind the command's name.
        is_file = not SUMMARIES.keys() & set(rest) and any(map(_is_path, rest))
        return ["shapes", *args] if is_file else args
    return ["shapes", *args] if _is_path(first) else args


def _is_path(word: str) -> bool:
    return os.path.lexists(word) or (not word.startswith("-") and any(mark in word for mark in "./\\!"))


def with_format(args: list[str]) -> list[str]:
    """`--json` spelled out as `--format json`."""
    end = args.index("--") if "--" in args else len(args)
    return [word for at, arg in enumerate(args) for word in (_JSON if arg == "--json" and at < end else (arg,))]


_JSON = ("--format", "json")


def load(name: str) -> Any:
    """A command with all its options: the function `name` in the module `name`."""
    function = getattr(import_module(f"convinspect.cli.{name}"), name)
    # Typer turns an app with a single command into that command.
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, cls=QuickCommand)(function)
    return typer.main.get_command(single)
