"""README and docs are true: every console block is run and its output compared, every picture is made anew."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from support import program
from support.paths import ROOT
from support.servers import serving

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Command and expected output of each `$ convinspect …` in the page's console blocks."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if command.startswith("convinspect "):
                found.append((command, output))
    return found


SERVER = "http://127.0.0.1:8000"
"""Where a server of the fixtures is on these pages."""
MEASURED = ("verify", "compare")
"""Commands whose figures are the machine's: rounding differs with its libraries, time with everything."""


def without_figures(text: str) -> str:
    """Words alone: every number is one sign, and how wide columns are does not count."""
    words = re.sub(r"<?-?\d[\d,.]*(e[+-]?\d+)?", "#", re.sub(r"─+", "─", text))
    return " ".join(words.split())


CASES = [(page.name, command, output) for page in PAGES for command, output in blocks(page)]


def test_there_are_blocks_to_run() -> None:
    assert len(CASES) >= 4


def writers(page: str) -> list[tuple[str, str]]:
    """The files that commands of the page write, each with the command."""
    split = [(shlex.split(command), command) for name, command, _ in CASES if name == page]
    return [(words[words.index("-o") + 1], command) for words, command in split if "-o" in words]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command as a reader in that folder would give it."""
    return program.run(*words[1:], folder=folder)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a reader's checkout, where commands may write files, which later ones of the page may read."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "fixtures", folder / "fixtures")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "json.schema.json", folder / "docs")
    return folder


@pytest.mark.parametrize(("page", "command", "output"), CASES, ids=[f"{page}: {command}" for page, command, _ in CASES])
def test_console_blocks_show_what_the_command_prints(reader: Path, page: str, command: str, output: str) -> None:
    words = shlex.split(command)
    # Blocks run in any order, on several pages that write files of the same names.
    for written, earlier in writers(page):
        if earlier != command and written in words and not (reader / written).exists():
            run(shlex.split(earlier), reader)
        elif earlier == command:
            (reader / written).unlink(missing_ok=True)
    if SERVER in command:
        pytest.importorskip("aiohttp")
        with serving(reader / "fixtures") as server:
            result = run([word.replace(SERVER, server.address) for word in words], reader)
            result.stdout = result.stdout.replace(server.address, SERVER)
            result.stderr = result.stderr.replace(server.address, SERVER)
    else:
        result = run(words, reader)
    shown = (result.stdout + result.stderr).rstrip()
    if words[1] in MEASURED:
        assert without_figures(shown) == without_figures(output.rstrip())
    else:
        assert shown == output.rstrip()


PYTHON = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if "import " in block  # the rest are lines to be pasted into a model's own code
]


RUN_EACH = """
import io, json, os, sys, tempfile, traceback
import torch, convinspect
from convinspect import modules

codes = []
for block, out in json.load(sys.stdin):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 1
        try:
            to = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(to, 1), os.dup2(to, 2)
            sys.argv = ["-c"]
            exec(compile(block, "<block>", "exec"), {"__name__": "__main__"})
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""
"""Runs each block in a process of its own, forked from one that has imported PyTorch: that takes seconds."""


def ends(blocks: list[str], folder: Path) -> list[tuple[int, str]]:
    """How each block ends in that folder, and what it prints."""
    outs = [folder / f"printed {n}.txt" for n in range(len(blocks))]
    variables = ENVIRONMENT | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    if hasattr(os, "fork"):
        asked = json.dumps([(block, str(out)) for block, out in zip(blocks, outs, strict=True)])
        done = subprocess.run(
            [sys.executable, "-c", RUN_EACH],
            input=asked, cwd=folder, env=variables, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return list(zip(json.loads(done.stdout), (out.read_text("utf-8") for out in outs), strict=True))
    command = [sys.executable, "-c"]
    each = [
        subprocess.run([*command, block], cwd=folder, env=variables, capture_output=True, text=True) for block in blocks
    ]
    return [(one.returncode, one.stdout + one.stderr) for one in each]


def test_python_blocks_run_and_print_what_they_say(reader: Path) -> None:
    assert len(PYTHON) >= 10
    wrong = ["print('there')\nraise SystemExit(3)", "import torch\nprint(torch.nothing)", "print(1)"]
    *found, left, failed, printed_1 = ends([*(block for _, block in PYTHON), *wrong], reader)
    for (page, block), (code, printed) in zip(PYTHON, found, strict=True):
        assert code == 0, f"{page}:\n{block}\n{printed}"
        for said in re.findall(r"^ *print\(.*\)  # ([^:\n]*)", block, re.MULTILINE):
            assert said.strip() in printed, f"{page}:\n{block}"
    # One that fails would be seen.
    assert (left, printed_1) == ((3, "there\n"), (0, "1\n"))
    assert failed[0] == 1
    assert "AttributeError" in failed[1]


def test_pictures_are_those_that_the_script_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    made = sorted(import_module("pictures").make(tmp_path))
    assert made == sorted(tmp_path.iterdir())
    assert made
    moving = [picture for picture in made if picture.suffix == ".gif"]
    # Those in Chinese are made where there is a font for them.
    assert {"explain.gif", "patches.gif"} <= {picture.name for picture in moving}
    assert all((ROOT / "docs" / "images" / picture.name).exists() for picture in moving)
    for picture in set(made) - set(moving):
        kept = ROOT / "docs" / "images" / picture.name
        assert kept.read_text(encoding="utf-8") == picture.read_text(encoding="utf-8"), picture.name


def test_the_page_on_files_is_what_its_script_makes(tmp_path: Path) -> None:
    made = tmp_path / "page.md"
    script = ROOT / "docs" / "what_is_this_file.py"
    subprocess.run([sys.executable, script, made], check=True, capture_output=True, timeout=120)
    assert made.read_text(encoding="utf-8") == (ROOT / "docs" / "what-is-this-file.md").read_text(encoding="utf-8")


def test_what_is_said_of_the_commands_is_what_they_say(tmp_path: Path) -> None:
    script = ROOT / "docs" / "reference.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True, timeout=120)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert Path("docs/cli.md") in made
    for name in made:
        written = (tmp_path / name).read_text(encoding="utf-8")
        assert written == (ROOT / name).read_text(encoding="utf-8"), f"run docs/reference.py: {name} is not up to date"


LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "fixtures" / "README.md"]


def anchors(page: Path) -> set[str]:
    """What a link may name in a page: its headings, as GitHub makes anchors of them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links and pictures of a page that lead to no file or heading of this repository."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = []
    for link in re.findall(r"(?:\]\(|srcset=\"|src=\")([^)\"\s]+)", text):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not link.startswith("http") and (
            not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target))
        ):
            found.append(link)
    return found


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text('# A `b(1)`, c\n[d](#a-b1-c) [e](#f) [g](none.md) [h](page.md#i) <img src="j.svg">\n')
    assert broken_links(page) == ["#f", "none.md", "page.md#i", "j.svg"]


def test_every_picture_that_is_kept_is_shown() -> None:
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    pictures = {picture.name for picture in (ROOT / "docs" / "images").iterdir()}
    assert {name for name in pictures if f"images/{name})" not in shown} == set()


def test_the_front_page_is_short() -> None:
    for page in PAGES[:2]:
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 220


def test_every_colour_of_a_picture_is_one() -> None:
    """A browser draws what it does not understand in black, which a dark page hides."""
    pictures = sorted((ROOT / "docs" / "images").glob("*.svg"))
    assert pictures
    for picture in pictures:
        used = re.findall(r"(?:fill|stroke): ?([^;}]+)[;} ]", picture.read_text(encoding="utf-8"))
        assert used, picture.name
        assert {colour for colour in used if not re.fullmatch("#[0-9a-f]{6}|none", colour.strip())} == set(), (
            picture.name
        )
