"""An option means one thing: the same words, the same values and the same short form wherever it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import pytest
import typer

from convinspect.cli.commands import SUMMARIES, load
from convinspect.cli.described import Description, Parameter, describe
from support.in_process import call_main
from support.paths import FIXTURES

EXCEPTIONS = {
    ("--format", "check"): "findings have a format of their own, SARIF, and no columns for CSV",
    ("--input", "explain"): "its numbers are drawn, so a shape alone will not do",
    ("--length", "compare"): "takes several, to draw time against length",
    ("--dtype", "compare"): "takes several, to compare them",
}
"""Options whose values differ in a command; what they mean is the same all the same."""


def commands() -> list[Description]:
    return [describe(load(name).callback) for name in SUMMARIES]


def disagreements(described: Iterable[Description]) -> list[str]:
    """Options that are not the same in two commands."""
    first: dict[str, tuple[str, Parameter]] = {}
    told = []
    for command in described:
        for option in command.options:
            name = option.names[0]
            if name not in first or (name, first[name][0]) in EXCEPTIONS:
                first[name] = (command.name, option)
                continue
            other_command, other = first[name]
            same = option.value == other.value or (name, command.name) in EXCEPTIONS
            if (option.names, option.meaning) != (other.names, other.meaning) or not same:
                told.append(f"{name}: {other_command} {other}, {command.name} {option}")
    return told


def test_an_option_means_the_same_in_every_command() -> None:
    assert disagreements(commands()) == []


def test_a_letter_is_short_for_one_option() -> None:
    short: dict[str, set[str]] = {}
    for command in commands():
        for option in command.options:
            for letter in option.names[1:]:
                short.setdefault(letter, set()).add(option.names[0])
    assert {letter: names for letter, names in short.items() if len(names) > 1} == {}
    assert {"-o", "-l", "-a", "-n", "-h"} <= set(short)


def test_exceptions_are_of_options_that_exist() -> None:
    existing = {(option.names[0], command.name) for command in commands() for option in command.options}
    assert set(EXCEPTIONS) <= existing


def listing(
    rows: Annotated[str, typer.Option("--rows", metavar="A:B", help="Only these rows, as in 0:6.")] = "",
) -> None:
    """List rows."""


def drawing(rows: Annotated[int, typer.Option("--rows", metavar="N", help="How many rows.")] = 4) -> None:
    """Draw rows."""


def showing(rows: Annotated[str, typer.Option("--rows", "-r", metavar="A:B", help="Only these rows.")] = "") -> None:
    """Show rows."""


def test_another_meaning_value_or_letter_would_be_found() -> None:
    assert disagreements([describe(listing), describe(listing)]) == []
    assert len(disagreements([describe(listing), describe(drawing)])) == 1
    assert len(disagreements([describe(listing), describe(showing)])) == 1


def test_every_option_is_in_the_table_once() -> None:
    page = (FIXTURES.parent / "docs" / "cli.md").read_text(encoding="utf-8")
    table = page.partition("## Options\n")[2].partition("\n## ")[0]
    rows = [line for line in table.split("\n") if line.startswith("| `")]
    named = [row.split("`")[1].split()[0].strip(",") for row in rows]
    assert named == sorted({option.names[0] for command in commands() for option in command.options})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["explain", "--rows", "2"], ["explain", "--samples", "2"]),
        (["compare", "--lengths", "x"], ["compare", "--length", "x"]),
        (["compare", "--dtypes", "x"], ["compare", "--dtype", "x"]),
    ],
)
def test_old_spellings_are_taken_and_not_shown(old: list[str], new: list[str]) -> None:
    kept, typed = call_main(*old), call_main(*new)
    assert kept == typed
    assert old[1] not in call_main(old[0], "--help").out.split()
