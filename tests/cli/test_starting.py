"""What a command imports before it works, and that what was left out changes nothing."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import typer
from typer.core import TyperCommand

from convinspect.cli import parameters
from convinspect.cli.commands import SUMMARIES, QuickCommand, load
from convinspect.cli.described import describe
from support.in_process import Ended
from support.paths import FIXTURES
from support.program import run

ROOT = Path(__file__).resolve().parent.parent.parent
STNKD = FIXTURES / "pointnet_stnkd.pt"
LOADED = """
import sys
sys.argv = ["convinspect", *sys.argv[1:]]
from convinspect.cli import main
try:
    main()
except SystemExit as ended:
    print("\\n--", ended.code, *sorted(sys.modules))
"""


CALLS = """
import io, json, os, sys
from contextlib import redirect_stderr, redirect_stdout
import typer
from convinspect.cli.main import main

ends = []
for words, variables in json.load(sys.stdin):
    sys.argv = ["convinspect", *words]
    os.environ.update(variables)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    for name in variables:
        del os.environ[name]
    ends.append((code or 0, out.getvalue(), err.getvalue()))
json.dump((typer.__file__, typer.__version__, ends), sys.stdout)
"""
"""Makes these calls in one process, and says with which Typer."""


def loaded(*words: object) -> set[str]:
    """The modules that a call which ends well has imported, its output piped."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *map(str, words)], capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    code, *names = done.stdout.rpartition("-- ")[2].split()
    assert (code, done.stderr) == ("0", "")
    return set(names)


def of_packages(names: set[str], *packages: str) -> set[str]:
    return {name for name in names if name.partition(".")[0] in packages}


def of_other_commands(names: set[str], command: str) -> set[str]:
    return names & {f"convinspect.cli.{name}" for name in SUMMARIES if name != command}


def test_a_listing_imports_no_more_than_it_needs() -> None:
    names = loaded("shapes", STNKD)
    assert not of_packages(names, "pydantic", "pydantic_core", "rich", "torch", "numpy", "safetensors")
    assert not of_packages(names, "json", "csv", "pickletools", "zipfile")
    assert not of_other_commands(names, "shapes")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("shapes", (STNKD, "--layer", "conv*", "--kind", "conv*", "--all", "--format", "json", "--width", 100)),
        ("weights", (STNKD, "conv1", "--kernel", 1, "--precision", 3)),
        ("diff", (STNKD, STNKD, "--root", ".")),
        ("convert", (STNKD, "--to", "linear", "--dry-run")),
        ("check", (STNKD,)),
        ("explain", ("--rows", 2, "--as", "linear")),
    ],
)
def test_commands_start_without_pydantic_and_each_other(command: str, words: tuple[object, ...]) -> None:
    names = loaded(command, *words)
    assert not of_packages(names, "pydantic")
    assert not of_other_commands(names, command)


@pytest.mark.parametrize("words", [("--help",), ("shapes", "--help")])
def test_help_imports_no_other_command_and_not_rich(words: tuple[str, ...]) -> None:
    names = loaded(*words)
    assert not of_packages(names, "pydantic", "rich", "torch", "numpy")
    assert not of_other_commands(names, words[0])


def test_summaries_are_the_first_paragraphs_of_the_commands() -> None:
    for name, summary in SUMMARIES.items():
        function = inspect.unwrap(load(name).callback)
        assert function.__module__ == f"convinspect.cli.{name}"
        assert describe(function).summary == summary


# ------------------------------------------------------------------------------------- values as Typer converts them


class Letter(str, Enum):
    a = "a"
    b = "B"


def _command(path: Path, given: dict[str, Any]) -> Any:
    """Takes a value of each type that commands ask for."""

    def command(
        text: Annotated[str | None, typer.Option("--text")] = None,
        texts: Annotated[list[str] | None, typer.Option("--texts")] = None,
        number: Annotated[int | None, typer.Option("--number", min=-3, max=17)] = None,
        any_number: Annotated[int, typer.Option("--any-number")] = 5,
        numbers: Annotated[list[int] | None, typer.Option("--numbers", min=1)] = None,
        large: Annotated[int, typer.Option("--large", min=0, max=2**63 - 1)] = 0,
        clamped: Annotated[int, typer.Option("--clamped", max=9, clamp=True)] = 0,
        real: Annotated[float, typer.Option("--real", min=0)] = 0.5,
        letter: Annotated[Letter, typer.Option("--letter")] = Letter.a,
        any_case: Annotated[Letter, typer.Option("--any-case", case_sensitive=False)] = Letter.a,
        letters: Annotated[list[Letter] | None, typer.Option("--letters")] = None,
        file: Annotated[Path, typer.Option("--file")] = path,
        unread: Annotated[Path | None, typer.Option("--unread", readable=False)] = None,
        existing: Annotated[Path | None, typer.Option("--existing", exists=True, dir_okay=False)] = None,
        files: Annotated[list[Path] | None, typer.Option("--files")] = None,
        flag: Annotated[bool, typer.Option("--flag")] = False,
        from_outside: Annotated[bool, typer.Option("--from-outside", envvar="FLAG_FROM_OUTSIDE")] = False,
        own: Annotated[int, typer.Option("--own", parser=len)] = 1,
    ) -> None:
        given.update(locals())

    return command


def outcome(cls: type[TyperCommand], words: tuple[str, ...], path: Path) -> object:
    """The values that a command gets, or what is wrong with the words."""
    given: dict[str, Any] = {}
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(cls=cls)(_command(path, given))
    try:
        typer.main.get_command(app)(words, prog_name="x", standalone_mode=False)
    except Exception as error:
        return type(error), error.format_message() if hasattr(error, "format_message") else str(error)
    return {name: (type(value), value) for name, value in given.items() if name not in ("given", "path")}


WORDS = [
    "", "--text a", "--text ", "--texts a --texts b", "--number 17", "--number -3", "--number 18", "--number -4",
    "--number +1", "--number 1_0", "--number 1.0", "--number 1.5", "--number ٣", "--number 0x1", "--number ¹",
    "--number -", "--number  1", "--number 007", "--number 99999999999999999999", "--any-number -12",
    "--numbers 1 --numbers 2", "--numbers 0", "--numbers 1 --numbers x", "--large 9223372036854775807",
    "--large 9223372036854775808", "--clamped 12", "--clamped x", "--real 1e3", "--real -1", "--letter B",
    "--letter b", "--letter Letter.a", "--any-case A", "--letters B --letters a", "--letters B --letters c",
    "--file DIR", "--file DIR/none", "--unread DIR/none", "--existing DIR", "--existing DIR/none",
    "--files DIR --files DIR/none", "--file DIR/locked", "--files DIR --files DIR/locked", "--unread DIR/locked",
    "--flag", "--flag=1", "--own four", "--nothing", "--help",
]  # fmt: skip


@pytest.mark.parametrize("words", WORDS)
def test_values_and_errors_are_those_of_typer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    (tmp_path / "locked").touch()
    allowed = os.access
    # Root may read all; others may not read this one.
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).endswith("locked") and allowed(path, mode))
    split = tuple(word.replace("DIR", str(tmp_path)) for word in words.split(" ") if words)
    assert outcome(QuickCommand, split, tmp_path) == outcome(TyperCommand, split, tmp_path)


@pytest.mark.parametrize("value", ["1", "0", "yes", "nonsense", ""])
def test_a_flag_from_the_environment_is_read_by_typer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("FLAG_FROM_OUTSIDE", value)
    assert outcome(QuickCommand, (), tmp_path) == outcome(TyperCommand, (), tmp_path)


def test_where_typer_is_another_it_converts_by_itself() -> None:
    described = SimpleNamespace(annotation=int, parameter_info=SimpleNamespace(parser=None, clamp=False))
    for parameter in (
        SimpleNamespace(),
        SimpleNamespace(type_descriptor=described),
        SimpleNamespace(type_descriptor=1),
    ):
        before = dict(vars(parameter))
        parameters.convert_quickly([parameter])
        assert vars(parameter) == before


# ------------------------------------------------------------------------------------- the versions that are admitted


def assert_one_line(ended: Ended, words: str) -> None:
    assert (ended.code, ended.err.count("\n"), ended.err[:7]) == (2, 1, "error: ")
    assert words in ended.err


def install(requirement: str, folder: Path) -> str | None:
    """Put Typer into a folder of its own; why it is not there, otherwise."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    try:
        done = subprocess.run(
            [*command, "--target", str(folder), requirement], capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        return f"the package index did not answer in time for {requirement}"
    return f"the package index did not give {requirement}: {done.stderr.strip()[-200:]}" if done.returncode else None


@pytest.mark.wild
@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_the_oldest_and_the_newest_typer_will_do(tmp_path: Path, which: str) -> None:
    admitted = re.search(r'"typer>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert admitted is not None
    missing = install(f"typer{'==' if which == 'oldest' else '>='}{admitted[1]}", tmp_path)
    if missing:
        pytest.skip(missing)
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "COLUMNS": "80"}
    helps = [["-h"], *([name, "-h"] for name in SUMMARIES)]
    values = ("0", "x", "1.5", "", "-1")
    shells = ("zsh", "fish")
    line = {"_TYPER_COMPLETE_ARGS": f"convinspect weights {STNKD} fc", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    bash = {"_CONVINSPECT_COMPLETE": "complete_bash", "COMP_WORDS": "convinspect con", "COMP_CWORD": "1"}
    calls: list[tuple[list[Any], dict[str, str]]] = [
        *[(words, {}) for words in helps],
        (["shapes", STNKD, "--layer", "conv*", "--width", 100, "--format", "csv"], {}),
        *(([STNKD, f"--limit={value}"], {}) for value in values),
        (["explain", "--samples", 10_001], {}),
        (["shape", STNKD], {}),
        ([], bash),
        *(([], {**line, "_CONVINSPECT_COMPLETE": f"complete_{shell}"}) for shell in shells),
        (["--show-completion", "zsh"], {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}),
    ]
    done = subprocess.run(
        [sys.executable, "-c", CALLS], env={**os.environ, **env}, capture_output=True, text=True, encoding="utf-8",
        input=json.dumps([([str(word) for word in words], variables) for words, variables in calls]),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    file, version, ends = json.loads(done.stdout)
    assert Path(file).is_relative_to(tmp_path)
    assert which == "newest" or version.startswith(admitted[1])
    ended = iter([Ended(*each) for each in ends])
    helped = [next(ended) for _ in helps]
    assert {(each.code, each.err) for each in helped} == {(0, "")}
    texts = [f"$ convinspect {' '.join(words)}\n{each.out}" for words, each in zip(helps, helped, strict=True)]
    assert "\n".join(texts) == (Path(__file__).parent / "help.txt").read_text(encoding="utf-8")
    plain = run("shapes", STNKD, "--layer", "conv*", "--format", "csv").stdout
    assert next(ended) == (0, plain, "")
    for _ in values:
        assert_one_line(next(ended), "--limit takes a whole number of at least 1; see convinspect shapes -h")
    assert_one_line(next(ended), "--samples takes a whole number from 1 to 10,000;")
    assert_one_line(next(ended), "no such command 'shape'; did you mean shapes?")
    assert next(ended).out.split() == ["convert"]
    for _ in shells:
        assert re.findall(r"fc\d", next(ended).out) == ["fc1", "fc2", "fc3"]
    assert next(ended).out.count('&& _convinspect_completion "$@"') == 1
    assert next(ended, None) is None
