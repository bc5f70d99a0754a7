"""`--help`: what it says, how it is laid out, and that it says all that the commands take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from rich.text import Text

from convinspect.cli.commands import SUMMARIES, load
from convinspect.cli.described import describe
from convinspect.cli.help import PROGRAM_OPTIONS, command_help
from convinspect.cli.main import app
from support.in_process import call_main
from support.on_terminal import on_terminal

EXPECTED = (Path(__file__).parent / "help.txt").read_text(encoding="utf-8")
PAGES = dict(re.findall(r"^\$ convinspect (.*)\n((?:(?!\$ convinspect ).*\n)*)", EXPECTED, re.MULTILINE))
COMMANDS = [*SUMMARIES]


def test_there_is_a_page_for_each_command() -> None:
    assert list(PAGES) == ["-h", *(f"{name} -h" for name in SUMMARIES)]
    assert "".join(f"$ convinspect {words}\n{text}" for words, text in PAGES.items()) == EXPECTED


@pytest.mark.parametrize("words", PAGES)
def test_help_is_what_was_looked_at(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ended = call_main(*words.split())
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.rstrip("\n") == PAGES[words].rstrip("\n")


def test_nothing_typed_gives_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ended = call_main()
    assert (ended.code, ended.err, ended.out.rstrip("\n")) == (2, "", PAGES["-h"].rstrip("\n"))


@pytest.mark.parametrize("columns", [80, 60, 40])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_lines_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, name: str, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text, _, examples = call_main(*name.split(), "--help").out.partition("\nExamples\n")
    assert max(map(len, text.split("\n"))) <= columns
    # Examples are to be copied, so they are not wrapped.
    assert all(line.startswith("  convinspect") for line in examples.split("\n") if line)


def test_a_wide_terminal_makes_no_lines_that_are_hard_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    text = call_main("convert", "--help").out.partition("\nExamples\n")[0]
    assert 90 < max(map(len, text.split("\n"))) <= 100


def parameters_of(command: Any) -> Iterator[tuple[str, ...]]:
    """The names of what Typer takes, arguments by their metavar; of long names the first, others are old spellings."""
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            is_option = parameter.param_type_name == "option"
            longer = [name for name in parameter.opts if name.startswith("--")]
            shown = [name for name in parameter.opts if name not in longer[1:]]
            yield tuple(sorted(shown)) if is_option else (parameter.metavar,)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_all_that_typer_takes(name: str) -> None:
    command = load(name)
    described = describe(command.callback)
    named = [tuple(sorted(one.names)) for one in described.parameters]
    assert sorted(named) == sorted([*parameters_of(command), ("--help", "-h")])
    assert [one.usage.strip("[].") for one in described.arguments] == [
        one.metavar for one in command.params if one.param_type_name == "argument"
    ]
    assert all(one.help for one in described.parameters), "each has a text"


def test_help_names_all_options_of_the_program() -> None:
    taken = [*parameters_of(typer.main.get_command(app)), ("--help", "-h")]
    assert sorted(taken) == sorted(tuple(sorted(option.names)) for option in PROGRAM_OPTIONS)


class Way(str, Enum):
    short = "short"
    long = "long"


class Animal(str, Enum):
    elephant = "elephant"
    hippopotamus = "hippopotamus"
    rhinoceros = "rhinoceros"


def sample(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="Needed.")],
    others: Annotated[list[str] | None, typer.Argument(metavar="OTHER", help="Not needed.")] = None,
    flag: Annotated[bool, typer.Option("--flag", "-f", help="A flag.")] = False,
    number: Annotated[int, typer.Option("--number", min=3, max=7, help="A number.")] = 4,
    high: Annotated[int | None, typer.Option("--high", min=1000, max=2**63 - 1, metavar="N", help="A number.")] = None,
    low: Annotated[int | None, typer.Option("--low", max=5, metavar="N", help="A number.")] = None,
    values: Annotated[bool | None, typer.Option("--values/--no-values", help="Numbers.")] = None,
    way: Annotated[Way, typer.Option("--way", help="A way.")] = Way.long,
    animals: Annotated[list[Animal] | None, typer.Option("--animal", metavar="NAME", help="Animals.")] = None,
    secret: Annotated[bool, typer.Option("--secret", hidden=True, help="Not shown.")] = False,
) -> None:
    """Do something.

    More of it, on two
    lines.

    [bold]Examples[/bold]

      convinspect sample x
    """


def test_bounds_choices_and_defaults_are_said_in_plain_words() -> None:
    told = describe(sample)
    assert told.usage == "convinspect sample [OPTIONS] FIRST [OTHER]..."
    assert told.paragraphs == ("Do something.", "More of it, on two lines.")
    assert told.examples == ("convinspect sample x",)
    assert [(one.names[0], one.value, one.text) for one in told.options[:-1]] == [
        ("--flag", "", "A flag."),
        ("--number", "INT", "A number. 3 to 7. Default: 4."),
        ("--high", "N", "A number. At least 1,000."),
        ("--low", "N", "A number. At most 5."),
        ("--values", "", "Numbers. Or --no-values."),
        ("--way", "short|long", "A way. Default: long."),
        ("--animal", "NAME", "Animals. One of elephant, hippopotamus, rhinoceros. Repeatable."),
    ]


@pytest.mark.parametrize("name", ["", "convert"])
def test_on_a_terminal_it_has_colours_and_the_same_words(name: str) -> None:
    words = f"{name} --help".split()
    drawn = on_terminal("-m", "convinspect", *words)
    assert "\x1b[1mUsage: \x1b[0m" in drawn
    assert "\x1b[36m" in drawn
    assert Text.from_ansi(drawn.replace("\r", "")).plain.rstrip("\n") == PAGES[" ".join([*words[:-1], "-h"])].rstrip(
        "\n"
    )
    for plain in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in on_terminal("-m", "convinspect", *words, env=plain)


def test_options_stand_under_their_headings_and_none_is_lost() -> None:
    command = describe(load("convert").callback)
    page = "".join(part for part, _ in command_help(command, 80))
    headings = [line for line in page.splitlines() if re.fullmatch(r"[A-Z][a-z ]+", line)]
    shown = ["Arguments", "Options", *[title for title in command.groups if title], "Examples"]
    assert headings == shown
    assert len(shown) > 5
    for title, options in command.groups.items():
        part = page.partition(f"\n{title or 'Options'}\n")[2].partition("\n\n")[0]
        assert re.findall(r"^ {2}(?:-\w, | {4})?(--[\w-]+)", part, re.MULTILINE) == [one.names[0] for one in options]
    assert sum(map(len, command.groups.values())) == len(command.options)
    assert list(describe(load("shapes").callback).groups) == [""]
