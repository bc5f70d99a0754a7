"""Writes the reference of the command line from the commands themselves: `python docs/reference.py`."""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

from convinspect.cli.commands import SUMMARIES, full_help

ROOT = Path(__file__).resolve().parent.parent


def reference() -> str:
    """The page, in Markdown."""
    parts = ["# Commands\n\nMade by `docs/reference.py` from the commands themselves; do not edit.\n"]
    for name in SUMMARIES:
        command = getattr(import_module(f"convinspect.cli.{name}"), name)
        parts.append(_section(command, full_help(command.__doc__)))
    return "\n".join(parts)


def _section(command: Callable[..., Any], text: str) -> str:
    about, _, examples = text.partition("[bold]Examples[/bold]")
    parameters = list(_parameters(command))
    places = [name for name, _, option in parameters if not option]
    lines = [
        f"## convinspect {command.__name__}",
        "",
        " ".join([f"`convinspect {command.__name__}", *places, "…`"]),
        "",
    ]
    lines += [about.strip(), ""]
    shown = re.findall(r"convinspect [^\n]*?(?=\s+convinspect |\s*$)", examples)
    lines += ["```sh", *(one.strip() for one in shown), "```", "", "| | |", "|---|---|"]
    lines += [f"| `{_cell(name)}` | {_cell(said)} |" for name, said, _ in parameters]
    return "\n".join([*lines, ""])


def _parameters(command: Callable[..., Any]) -> Iterator[tuple[str, str, bool]]:
    """As typed on the command line, what help says of it, and whether it is an option."""
    for name, hint in typing.get_type_hints(command, include_extras=True).items():
        if name == "return":
            continue
        kind, info = typing.get_args(hint)[:2]
        declared = [one for one in (getattr(info, "default", None), *(info.param_decls or ())) if isinstance(one, str)]
        if type(info).__name__ == "ArgumentInfo":
            yield info.metavar or name.upper(), info.help or "", False
            continue
        names = ", ".join(sorted(declared, key=len, reverse=True))
        value = info.metavar or _value_of(kind)
        yield f"{names} {value}".strip(), info.help or "", True


def _value_of(kind: Any) -> str:
    """What stands behind an option: the choices, or its type; nothing behind a flag."""
    inner = [one for one in (kind, *typing.get_args(kind)) if isinstance(one, type) and one is not type(None)]
    found = next((one for one in inner if one is not list), None)
    if found is not None and issubclass(found, Enum):
        return "|".join(str(one.value) for one in found)
    return "" if found is bool or found is None else found.__name__.upper()


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


if __name__ == "__main__":
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "cli.md"
    page.write_text(reference(), encoding="utf-8")
