"""Writes what is said of the commands, from the commands themselves: `python docs/reference.py`.

The page `docs/cli.md`, the man page `docs/convinspect.1`, and `tests/cli/help.txt`: the help of every command, as the
tests expect it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from convinspect.cli.commands import SUMMARIES
from convinspect.cli.described import EXIT_CODES, HELP, Description, Parameter, describe
from convinspect.cli.help import PROGRAM_OPTIONS, command_help, program_help
from convinspect.cli.main import app
from man_page import man_page

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = 80
"""Width of the help that the tests expect."""


def descriptions() -> list[Description]:
    """Every command, in the order of `--help`."""
    return [describe(getattr(import_module(f"convinspect.cli.{name}"), name)) for name in SUMMARIES]


def reference() -> str:
    """The page, in Markdown."""
    parts = ["# Commands\n\nMade by `docs/reference.py` from the commands themselves; do not edit.\n"]
    commands = descriptions()
    codes = ["## Exit codes", "", "| | |", "|---|---|", *(f"| {code} | {said} |" for code, said in EXIT_CODES), ""]
    return "\n".join([*parts, _table_of_options(commands), *map(_section, commands), *codes])


def _table_of_options(commands: list[Description]) -> str:
    """Every option once: what it means in every command that has it; the sections below say the rest."""
    lines = [
        "## Options",
        "",
        "An option means the same in every command that has it.",
        "",
        "| | | in |",
        "|---|---|---|",
    ]
    having: dict[str, list[tuple[str, Parameter]]] = {}
    for command in commands:
        for option in command.options:
            having.setdefault(option.names[0], []).append((command.name, option))
    for _, found in sorted(having.items()):
        option = found[0][1]
        users = "all" if len(found) == len(commands) else ", ".join(name for name, _ in found)
        says = f"{option.meaning}." if len(found) > 1 else option.text
        value = max((each.value for _, each in found), key=len)
        lines.append(f"| `{_cell(_typed(option._replace(value=value)))}` | {_cell(says)} | {users} |")
    return "\n".join([*lines, ""])


def _section(command: Description) -> str:
    lines = [f"## convinspect {command.name}", "", f"`{command.usage}`", ""]
    for paragraph in command.paragraphs:
        lines += [paragraph, ""]
    lines += ["```sh", *command.examples, "```", "", "| | |", "|---|---|"]
    shown = [parameter for parameter in command.parameters if parameter is not HELP]
    lines += [f"| `{_cell(_typed(parameter))}` | {_cell(parameter.text)} |" for parameter in shown]
    return "\n".join([*lines, ""])


def _typed(parameter: Parameter) -> str:
    """A parameter as it is typed: "--output, -o FILE", "[LAYER]..."."""
    if not parameter.is_option:
        return parameter.usage
    return f"{', '.join(parameter.names)} {parameter.value}".rstrip()


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def helps() -> str:
    """The help of the program and of every command."""
    pages = [("-h", _plain(program_help(_about(), SUMMARIES, COLUMNS)))]
    pages += [(f"{command.name} -h", _plain(command_help(command, COLUMNS))) for command in descriptions()]
    return "\n".join(f"$ convinspect {words}\n{text}" for words, text in pages)


def _plain(parts: Iterable[tuple[str, str]]) -> str:
    return "".join(part for part, _ in parts)


def manual() -> str:
    """The man page."""
    return man_page(_about(), descriptions(), PROGRAM_OPTIONS)


def _about() -> str:
    """What the program does, in one sentence."""
    return app.info.help or ""


WRITTEN = {"docs/cli.md": reference, "docs/convinspect.1": manual, "tests/cli/help.txt": helps}
"""Files, and what writes each."""

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for name, write in WRITTEN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(write(), encoding="utf-8")
