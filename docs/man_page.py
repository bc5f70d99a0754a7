"""The man page, from what the commands say of themselves; `docs/reference.py` writes it."""

from __future__ import annotations

from collections.abc import Iterator

from convinspect import __version__
from convinspect.cli.described import EXIT_CODES, Description, Parameter

_ENVIRONMENT = (
    ("NO_COLOR", "If set, nothing is coloured."),
    ("FORCE_COLOR", "If set, output is coloured even if it is piped."),
    ("COLUMNS", "Width of the help; of other output, the option --width says it."),
)


def man_page(about: str, commands: list[Description], program: tuple[Parameter, ...]) -> str:
    """The page in the man(7) macros, all of it ASCII.

    Args:
        about: What the program does, in one sentence.
        commands: Its commands.
        program: Its own options.
    """
    lines = [
        '.\\" Made by docs/reference.py from the commands themselves; do not edit.',
        f'.TH CONVINSPECT 1 "" "convinspect {__version__}" "User Commands"',
        # Neither hyphens within words nor spaces between them: names and options are to be copied.
        ".nh",
        ".ad l",
        ".SH NAME",
        f"convinspect \\- {_escaped(about[:1].lower() + about[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        "\n.br\n".join(_call(usage) for usage in (*(command.usage for command in commands), "convinspect FILE")),
        ".SH DESCRIPTION",
        _line(about),
        ".PP",
        _line("A file without a command is listed: convinspect FILE is convinspect shapes FILE."),
        ".SH OPTIONS",
        *_listed(program),
        ".SH COMMANDS",
    ]
    for command in commands:
        lines += _section(command)
    lines += [".SH EXIT STATUS", *_pairs([(str(code), said) for code, said in EXIT_CODES])]
    lines += [".SH ENVIRONMENT", *_pairs(_ENVIRONMENT), ".SH EXAMPLES"]
    for command in commands:
        lines += [_line(command.summary), *_examples(command.examples[:1]), ".PP"]
    return "\n".join([*lines[:-1], ""])


def _section(command: Description) -> Iterator[str]:
    yield f".SS {_escaped(command.name)}"
    for at, paragraph in enumerate(command.paragraphs):
        yield from ([".PP"] if at else [])
        yield _line(paragraph)
    yield ".PP"
    yield _call(command.usage)
    yield from _listed((*command.arguments, *command.options))
    yield from [".PP", "Examples:", *_examples(command.examples)]


def _listed(parameters: tuple[Parameter, ...]) -> Iterator[str]:
    for parameter in parameters:
        names = parameter.names[::-1] if parameter.is_option else (parameter.usage,)
        typed = ", ".join(f"\\fB{_escaped(name)}\\fR" for name in names)
        value = f" \\fI{_escaped(parameter.value)}\\fR" if parameter.value else ""
        yield from (".TP", f"{typed}{value}", _line(parameter.text))


def _pairs(pairs: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> Iterator[str]:
    for name, said in pairs:
        yield from (".TP", f"\\fB{_escaped(name)}\\fR", _line(said))


def _examples(examples: tuple[str, ...]) -> Iterator[str]:
    yield from (".PP", ".RS 4", ".nf")
    yield from map(_line, examples)
    yield from (".fi", ".RE")


def _call(usage: str) -> str:
    """A usage line, on a line of its own: the program in bold."""
    program, _, rest = usage.partition(" ")
    return f"\\fB{program}\\fR {_escaped(rest)}"


def _line(text: str) -> str:
    """A line of text, which is no request: those begin with a dot or an apostrophe."""
    escaped = _escaped(text)
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def _escaped(text: str) -> str:
    """Text as roff prints it unchanged: a hyphen stays one, so that options can be copied."""
    return "".join(
        _ESCAPES.get(letter) or (letter if letter < "\x7f" else f"\\[u{ord(letter):04X}]") for letter in text
    )


_ESCAPES = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", "…": "..."}
