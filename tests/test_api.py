"""The functions of `convinspect` are the commands: the same options, the same records, errors in Python's words."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import typing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import convinspect
import convinspect.pointwise
from convinspect.cli.commands import load
from convinspect.errors import CannotConvert, CannotShow, NotInstalled
from support.paths import FIXTURES, ROOT
from support.program import run

STNKD = FIXTURES / "pointnet_stnkd.pt"

SHOWING = {"format", "width", "output", "force", "all", "fold", "help"}
"""Options that say how a result is shown; a function returns it."""
SHOWING_ONE = {"explain": {"row", "kernel", "as", "step", "animate"}}
PYTHON_ONLY = {"progress"}
RENAMED = {
    "diff": {"path": "a", "other": "b"},
    "convert": {"path": "source", "output": "target", "force": "force"},
    "verify": {"path": "before"},
    "check": {"paths": "path"},
}
"""Arguments that have another name here; in `convert` --output and --force are of what is written."""

FUNCTIONS = ["diff", "convert", "verify", "recover", "check", "compare", "explain", "report"]


def names_of(command: Any) -> set[str]:
    """Arguments of a command by their own name, options by their flag's, as Python would spell it."""
    names = set()
    for parameter in command.params:
        flags = [flag.removeprefix("--") for flag in parameter.opts if flag.startswith("--")]
        names |= {flags[0].replace("-", "_")} if flags else {parameter.name}
    return names


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_the_options_of_its_command(name: str) -> None:
    renamed = RENAMED.get(name, {})
    showing = (SHOWING | SHOWING_ONE.get(name, set())) - set(renamed)
    wanted = {renamed.get(option, option) for option in names_of(load(name)) - showing}
    parameters = set(inspect.signature(getattr(convinspect, name)).parameters)
    assert {parameter.rstrip("_") for parameter in parameters - PYTHON_ONLY} == wanted


@pytest.mark.parametrize("name", FUNCTIONS)
def test_defaults_are_those_of_the_command(name: str) -> None:
    parameters = inspect.signature(getattr(convinspect, name)).parameters
    for option in load(name).params:
        flags = [flag.removeprefix("--").replace("-", "_") for flag in option.opts if flag.startswith("--")]
        here = next((parameters[key] for flag in flags for key in (flag, f"{flag}_") if key in parameters), None)
        if here is not None and isinstance(option.default, (int, float)) and not isinstance(here.default, tuple):
            assert here.default == option.default, flags


def test_modules_that_moved_keep_every_name_that_programs_import() -> None:
    functions = "conv1d_to_linear conv2d_to_linear conv3d_to_linear linear_to_conv1d linear_to_conv2d linear_to_conv3d"
    stand_ins = "ChannelsFirstLinear PointwiseConv1d PointwiseConv2d PointwiseConv3d PointwiseLinear"
    others = "transformers_to_linear swap_pointwise expose_linears Left Swap Swaps Target Where"
    for name in f"{functions} {stand_ins} {others}".split():
        assert hasattr(convinspect.modules, name), name
    for name in stand_ins.split():
        assert getattr(convinspect.pointwise, name) is getattr(convinspect.modules, name)


def test_everything_public_is_exported_and_documented() -> None:
    assert convinspect.__all__ == sorted(convinspect.__all__)
    for name in convinspect.__all__:
        thing = getattr(convinspect, name)
        assert inspect.getdoc(thing), name
        if inspect.isfunction(thing):
            hints = inspect.signature(thing)
            assert all(parameter.annotation is not parameter.empty for parameter in hints.parameters.values()), name
            assert hints.return_annotation is not hints.empty
    assert set(convinspect.__all__) <= set(dir(convinspect))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = convinspect.nothing


# --- diff and check


def test_diff_takes_paths_and_checkpoints() -> None:
    other = FIXTURES / "prefixes_module.pt"
    by_path = convinspect.diff(str(STNKD), other)
    opened = convinspect.diff(convinspect.open(STNKD), convinspect.open(other))
    assert by_path == opened
    assert (by_path.verdict, opened.verdict) == ("does not load", "does not load")
    assert convinspect.diff(STNKD, STNKD).verdict == "loads"
    assert convinspect.diff(STNKD, STNKD, values=True).same


def test_diff_answers_an_exception(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 1))
    torch.save(nn.Sequential(nn.Linear(3, 4)).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(torch.load(tmp_path / "linear.pt"))
    (tmp_path / "error.txt").write_text(str(caught.value))
    for error in (caught.value, str(caught.value), tmp_path / "error.txt"):
        report = convinspect.diff(tmp_path / "linear.pt", error=error)
        assert report.verdict == "loads after converting"
        assert [answer.fix for answer in report.answers] == ["convert"]


def test_wrong_calls_are_told_in_the_words_of_python() -> None:
    loose: Any = convinspect.diff
    with pytest.raises(CannotShow, match=r"nothing to compare it with; give a second checkpoint or error$"):
        loose(STNKD)
    with pytest.raises(CannotShow, match=r"values compares two checkpoints, and error stands for one"):
        loose(STNKD, error="x", values=True)
    with pytest.raises(CannotShow, match=r"leave out root$"):
        convinspect.diff(convinspect.open(STNKD), STNKD, root="x")
    with pytest.raises(CannotConvert, match="to is one of linear, conv1d, conv2d, conv3d"):
        typing.cast("Any", convinspect.convert)(STNKD, dry_run=True, to="lnear")
    with pytest.raises(CannotConvert) as caught:
        convinspect.convert(STNKD, "x.pt")
    assert "to, like another checkpoint" in str(caught.value)
    assert "--" not in str(caught.value)


def test_convert_and_verify_prove_each_other(tmp_path: Path) -> None:
    target = tmp_path / "linear.pt"
    job = convinspect.convert(STNKD, target, to="linear", layer="conv*")
    assert [each.layer.name for each in job.plan.conversions] == ["conv1", "conv2", "conv3"]
    assert convinspect.open(target)["conv1.weight"].shape == (16, 8)
    report = convinspect.verify(convinspect.open(STNKD), target, bits=True)
    assert (report.equal, report.strength) == (True, "bits")
    assert convinspect.verify(STNKD, target, layer=["conv1"], seed=3).strength == "layer"
    assert convinspect.verify(STNKD).equal
    other = convinspect.verify(STNKD, FIXTURES / "prefixes_module.pt", bits=True)
    assert not other.equal
    assert other.cause
    with pytest.raises(CannotConvert, match="bits=True runs nothing, so grad=True has nothing to compare"):
        convinspect.verify(STNKD, bits=True, grad=True)


def test_check_gives_findings() -> None:
    report = convinspect.check(FIXTURES / "net_gone.pt")
    assert {finding.code for finding in report.findings} == {"global-library", "global-unknown"}
    assert not convinspect.check(convinspect.open(STNKD), values=True).findings
    assert [finding.code for finding in convinspect.check("absent.pt").findings] == ["unreadable"]


# --- what is missing


WITHOUT = """
import sys
sys.modules["torch"] = None
import convinspect
assert convinspect.diff({stnkd!r}, {stnkd!r}).same
assert convinspect.convert({stnkd!r}, dry_run=True, to="linear").plan.conversions
assert convinspect.verify({stnkd!r}, {stnkd!r}, bits=True).equal
for call in (
    lambda: convinspect.explain(),
    lambda: convinspect.compare(),
    lambda: convinspect.verify({stnkd!r}),
    lambda: convinspect.convert({stnkd!r}, {other!r}, to="linear"),
):
    try:
        call()
    except convinspect.ConvInspectError as error:
        print(error)
"""


def test_without_torch_what_needs_it_says_so(tmp_path: Path) -> None:
    script = WITHOUT.format(stnkd=str(STNKD), other=str(tmp_path / "x.safetensors"))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (len(lines), done.stderr) == (4, "")
    assert all("PyTorch, which is not installed; python -m pip install torch" in line for line in lines)
    assert lines[1] == str(NotInstalled("torch", "compare"))


def test_commands_load_nothing_of_notebooks() -> None:
    script = f"import sys; sys.argv = ['convinspect', 'shapes', {str(STNKD)!r}]; from convinspect.cli import main\n"
    script += "try: main()\nexcept SystemExit: print([name for name in sys.modules if name.startswith('convinspect')])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    names = done.stdout.splitlines()[-1]
    assert "convinspect.checkpoint" in names
    for heavy in ("convinspect.api", "notebook", "render.html"):
        assert heavy not in names


# --- notebooks


class Strict(HTMLParser):
    """Reads a piece of HTML: every tag that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        assert {name for name, _ in attrs} <= {"class", "style", "scope"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def shown(record: Any, folder: Path) -> Strict:
    """What a notebook would show, through a file."""
    page = folder / "cell.html"
    page.write_text(record._repr_html_(), encoding="utf-8")
    parser = Strict()
    parser.feed(page.read_text(encoding="utf-8"))
    parser.close()
    assert not parser.open
    folded = {"details", "summary"}
    assert parser.tags <= {"div", "style", "pre", "span", "table", "thead", "tbody", "tr", "th", "td"} | folded
    return parser


EVIL = "<script>alert('x')</script>\x1b[31m&amp;"


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A checkpoint whose names are HTML and escape sequences."""
    torch.save({f"{EVIL}.weight": torch.ones(4, 3, 1), f"{EVIL}.bias": torch.ones(4)}, tmp_path / "evil.pt")
    return tmp_path / "evil.pt"


def records(path: Path) -> dict[str, Any]:
    checkpoint = convinspect.open(path)
    return {
        "checkpoint": checkpoint,
        "layer": convinspect.find_layers(checkpoint)[0],
        "diff": convinspect.diff(path, STNKD),
        "convert": convinspect.convert(path, dry_run=True, to="linear"),
        "error": convinspect.diff(
            path,
            error=RuntimeError(
                f"size mismatch for {EVIL}.weight: copying a param with shape torch.Size([4, 3, 1]) from checkpoint,"
                " the shape in current model is torch.Size([4, 3])."
            ),
        ),
        "explain": convinspect.explain(path, f"{EVIL}"),
        "verify": convinspect.verify(path),
    }


@pytest.mark.parametrize("name", ["checkpoint", "layer", "diff", "convert", "error", "explain", "verify"])
def test_notebooks_show_names_escaped(name: str, evil: Path, tmp_path: Path) -> None:
    page = shown(records(evil)[name], tmp_path)
    assert "alert('x')" in page.text
    assert "\x1b" not in page.text
    assert "\\x1b[31m&amp;" in page.text


def test_a_notebook_shows_the_table_of_the_terminal(tmp_path: Path) -> None:
    page = shown(convinspect.open(STNKD), tmp_path)
    assert "table" in page.tags
    for line in run("shapes", STNKD).stdout.splitlines():
        # What follows is a flag, which a notebook has no use for.
        assert all(word in page.text for word in line.partition(" --")[0].split() if "─" not in word)


def test_a_notebook_keeps_a_limited_number_of_rows(tmp_path: Path) -> None:
    torch.save({f"a{n}.weight": torch.ones(2, 2, 1) for n in range(700)}, tmp_path / "many.pt")
    page = shown(convinspect.open(tmp_path / "many.pt"), tmp_path)
    assert page.text.count("Conv1d") >= 500
    assert "… 200 more rows are left out here" in page.text
    # Of these, most are shown when they are asked for.
    assert {"details", "summary"} <= page.tags
    first, _, rest = page.text.partition("… 450 more")
    assert (first.count("Conv1d"), "a49" in first, "a50" in first) == (50, True, False)
    assert rest.count("Conv1d") >= 450
    assert (tmp_path / "cell.html").stat().st_size < 250_000
    assert "details" not in shown(convinspect.open(STNKD), tmp_path).tags


def test_a_notebook_shows_a_listing_without_torch_in_the_colours_of_its_page() -> None:
    code = (
        "import sys, convinspect\n"
        f"text = convinspect.open({str(STNKD)!r})._repr_html_()\n"
        "assert not {'torch', 'numpy', 'rich'} & set(sys.modules), sorted(sys.modules)\n"
        "print(text)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    for said in ("prefers-color-scheme: dark", "[data-jp-theme-light=false]", ".vscode-dark"):
        assert said in done.stdout
    table = done.stdout.partition("</style>")[2]
    assert "#" not in table, "colours are those of the palette, by name"


def test_a_comparison_is_measured_and_shown(tmp_path: Path) -> None:
    found = convinspect.compare(STNKD, layer="conv1", batch=1, length=[1, 4], repeats=3, threads=1)
    assert [(each.name, each.length) for each in found.layers] == [("conv1", 1), ("conv1", 4)]
    page = shown(found, tmp_path)
    assert "conv1" in page.text
    assert found.claims[0].text in page.text
    with pytest.raises(CannotShow, match="repeats=2 is less than 3"):
        convinspect.compare(repeats=2)
    with pytest.raises(CannotShow, match="dtype"):
        convinspect.compare(dtype="float31")


def test_check_is_shown_whole(tmp_path: Path) -> None:
    assert "global-unknown" in shown(convinspect.check(FIXTURES / "net_gone.pt"), tmp_path).text
    assert "unreadable" in shown(convinspect.check("absent.pt"), tmp_path).text


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_say_what_they_take_and_give(name: str) -> None:
    text = inspect.getdoc(getattr(convinspect, name)) or ""
    assert "Args:" in text
    assert "Returns:" in text


def public_functions() -> dict[str, str]:
    """Docstrings of all functions that are exported; one that is another's twin refers to it."""
    modules = (convinspect, convinspect.modules)
    named = {name: getattr(module, name) for module in modules for name in module.__all__}
    return {name: inspect.getdoc(thing) or "" for name, thing in named.items() if inspect.isfunction(thing)}


@pytest.mark.parametrize("name", sorted(public_functions()))
def test_functions_say_what_they_raise(name: str) -> None:
    texts = public_functions()
    twin = re.match(r"As `(\w+)`", texts[name])
    text = texts[twin[1]] if twin else texts[name]
    assert re.search(r"^Raises:\n    \w+: ", text, re.MULTILINE) or "Raises nothing" in text


def test_all_functions_are_looked_at() -> None:
    assert set(FUNCTIONS) | {"open", "find_layers", "select", "swap_pointwise"} <= set(public_functions())
