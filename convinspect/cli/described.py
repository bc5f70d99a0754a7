"""What a command takes and says, read from its function: the source of `--help`, `docs/cli.md` and the man page.

Typer describes commands too, but in other words in each of its versions.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple

_EXAMPLES = "[bold]Examples[/bold]"
_SHORT = 24
"""Characters up to which choices stand behind their option, as in `--format table|json|csv|md`."""
_NO_BOUND = 2**31 - 1
"""From here on an upper bound says nothing: no user comes near it."""


class Parameter(NamedTuple):
    """An option or an argument of a command.

    Attributes:
        names: As typed, the long one first: ("--output", "-o"). An argument has one, such as "PATH".
        value: What an option's value is called: "GLOB", "table|json"; "" for a flag and for an argument.
        help: What the command's author says of it.
        limits: What its values may be, as sentences: "At least 40.", "Default: 4.".
        required: Whether it must be given.
        repeated: Whether it may be given several times.
        group: The heading in `--help` under which the option stands; "" for the common ones.
    """

    names: tuple[str, ...]
    value: str
    help: str
    limits: tuple[str, ...]
    required: bool
    repeated: bool
    group: str = ""

    @property
    def is_option(self) -> bool:
        return self.names[0].startswith("-")

    @property
    def text(self) -> str:
        """All that is said of it."""
        return " ".join((self.help, *self.limits)).strip()

    @property
    def meaning(self) -> str:
        """The first clause of its help, which is the same wherever a command has this option."""
        return re.split(r"[:;,.](?=\s|$)", self.help, maxsplit=1)[0]

    @property
    def usage(self) -> str:
        """An argument as in a usage line: "PATH", "[LAYER]..."."""
        name = self.names[0] if self.required else f"[{self.names[0]}]"
        return f"{name}..." if self.repeated else name


class Description(NamedTuple):
    """A command: its name, paragraphs of text without line ends, example calls, and parameters in order."""

    name: str
    paragraphs: tuple[str, ...]
    examples: tuple[str, ...]
    parameters: tuple[Parameter, ...]

    @property
    def summary(self) -> str:
        return self.paragraphs[0]

    @property
    def arguments(self) -> list[Parameter]:
        return [parameter for parameter in self.parameters if not parameter.is_option]

    @property
    def options(self) -> list[Parameter]:
        return [parameter for parameter in self.parameters if parameter.is_option]

    @property
    def groups(self) -> dict[str, list[Parameter]]:
        """Options by their heading, the common ones, whose heading is "", first."""
        found: dict[str, list[Parameter]] = {"": []}
        for option in self.options:
            found.setdefault(option.group, []).append(option)
        return found

    @property
    def usage(self) -> str:
        """As in "convinspect diff [OPTIONS] A [B]"."""
        options = ["[OPTIONS]"] if self.options else []
        return " ".join(["convinspect", self.name, *options, *(argument.usage for argument in self.arguments)])


def describe(function: Callable[..., Any]) -> Description:
    """Read a command from its function: docstring, annotations and defaults."""
    text, _, examples = inspect.cleandoc(function.__doc__ or "").partition(_EXAMPLES)
    paragraphs = tuple(" ".join(part.split()) for part in text.strip().split("\n\n"))
    typed = tuple(line.strip() for line in examples.split("\n") if line.strip())
    return Description(function.__name__.rstrip("_"), paragraphs, typed, (*_parameters(function), HELP))


HELP = Parameter(("--help", "-h"), "", "Show this text and stop.", (), False, False)
"""The option that every command has."""


EXIT_CODES = (
    (0, "Done; of diff, verify, check and compare also: nothing was found."),
    (1, "A difference or a fault was found."),
    (2, "Something that the user can fix; one line on standard error says what."),
    (3, "A bug of convinspect."),
    (130, "Interrupted."),
)
"""What the program ends with; 128 + n if signal n ended it."""


def _parameters(function: Callable[..., Any]) -> Iterator[Parameter]:
    defaults = inspect.signature(function).parameters
    for name, hint in typing.get_type_hints(function, include_extras=True).items():
        if name != "return":
            kind, info = typing.get_args(hint)[:2]
            if not info.hidden:
                default = defaults[name].default
                yield _parameter(name, kind, info, None if default is inspect.Parameter.empty else default)


def whole_numbers(function: Callable[..., Any]) -> dict[str, str]:
    """What each option of a command takes whose values are whole numbers: {"--limit": "a whole number of at least 1"}.

    Args:
        function: The command.
    """
    found = {}
    for hint in typing.get_type_hints(function, include_extras=True).values():
        kind, info = (*typing.get_args(hint), None, None)[:2]
        if info is not None and type(info).__name__ == "OptionInfo" and _scalar(_types(kind)) is int:
            text = f"a whole number{_within(info.min, info.max)}"
            found.update({name: text for name in (info.default, *(info.param_decls or ())) if isinstance(name, str)})
    return found


def _within(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" from {least:,} to {most:,}"
    if least is not None:
        return f" of at least {least:,}"
    return "" if most is None else f" of at most {most:,}"


def _types(kind: Any) -> list[Any]:
    """A type and the types that it is made of."""
    return [kind, *(part for outer in typing.get_args(kind) for part in (outer, *typing.get_args(outer)))]


def _scalar(types: list[Any]) -> type:
    return next(part for part in types if isinstance(part, type) and part not in (list, type(None)))


def _parameter(name: str, kind: Any, info: Any, default: object) -> Parameter:
    types = _types(kind)
    scalar = _scalar(types)
    repeated = any(typing.get_origin(part) is list for part in types)
    required = default is None and type(None) not in types
    if type(info).__name__ == "ArgumentInfo":
        return Parameter((info.metavar or name.upper(),), "", info.help or "", (), required, repeated)
    declared = [part for part in (info.default, *(info.param_decls or ())) if isinstance(part, str)]
    # As Typer writes a flag that can be switched off: "--values/--no-values".
    opposites = [name.partition("/")[2] for name in declared if "/" in name]
    declared = [name.partition("/")[0] for name in declared]
    # Another long name is an old spelling, which is taken and not shown.
    names = tuple([name for name in declared if name.startswith("--")][:1] + [n for n in declared if n[1] != "-"])
    choices = [str(choice.value) for choice in scalar] if issubclass(scalar, Enum) else []
    short = len("|".join(choices)) <= _SHORT
    value = (
        "" if scalar is bool else info.metavar or ("|".join(choices) if choices and short else scalar.__name__.upper())
    )
    limits = [] if not choices or "|" in value or value in choices else [f"One of {', '.join(choices)}."]
    limits += [f"Or {name}." for name in opposites]
    limits += [*_bounds(info.min, info.max), *(["Repeatable."] if repeated else []), *_default(default)]
    return Parameter(names, value, info.help or "", tuple(limits), required, repeated, info.rich_help_panel or "")


def _bounds(least: float | None, most: float | None) -> list[str]:
    if most is not None and most >= _NO_BOUND:
        most = None
    if least is not None and most is not None:
        return [f"{least:,} to {most:,}."]
    if least is not None:
        return [f"At least {least:,}."]
    return [] if most is None else [f"At most {most:,}."]


def _default(value: object) -> list[str]:
    shown = value.value if isinstance(value, Enum) else value
    if shown is None or shown is False or shown == "" or isinstance(shown, (list, tuple)):
        return []
    return [f"Default: {shown}."]
