"""The page as text: what it holds, and how it is written to a file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import convinspect
from convinspect.errors import CannotShow, CannotWrite
from convinspect.page.document import Page, document, embedded
from support.paths import FIXTURES
from support.program import assert_one_line, run
from support.servers import serving

STNKD = FIXTURES / "pointnet_stnkd.pt"
EVIL = "</script><script>alert(1)</script><!--\u2028\u2029&amp;]]>"


class Parts(HTMLParser):
    """The elements of a page, and the text of its scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            self.texts[-1] += data


def data_of(html: str) -> dict[str, Any]:
    parts = Parts(html)
    data: dict[str, Any] = json.loads(parts.texts[[attrs.get("id") for _, attrs in parts.tags].index("data")])
    return data


def test_text_in_the_data_ends_no_script() -> None:
    data = {"name": EVIL, "keys": [EVIL]}
    written = embedded(data)
    assert not re.search("[<>&\u2028\u2029]", written)
    assert json.loads(written) == data
    assert json.loads(embedded({"lone": "\ud800"}).encode("utf-8")) == {"lone": "\ud800"}
    parts = Parts(document(data, EVIL))
    assert [tag for tag, _ in parts.tags].count("script") == 2
    assert json.loads(parts.texts[[attrs.get("id") for _, attrs in parts.tags].index("data")]) == data


def test_the_policy_names_the_script_and_the_styles_that_are_there() -> None:
    parts = Parts(document({}, "x"))
    policy = next(attrs["content"] or "" for _, attrs in parts.tags if "http-equiv" in attrs)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (text,) = (
            text
            for (name, attrs), text in zip(parts.tags, parts.texts, strict=True)
            if name == tag and "id" not in attrs
        )
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_the_page_names_no_other_place() -> None:
    html = convinspect.report(STNKD).html
    links = set(re.findall(r"https?://[^\s\"'<)]+", html))
    assert links == {"http://www.w3.org/2000/svg"}, "which is a name, and no address that is asked"
    parts = Parts(html)
    assert not {"link", "img", "iframe", "base"} & {tag for tag, _ in parts.tags}
    assert not any("src" in attrs or "href" in attrs for _, attrs in parts.tags)


def options_in_notes(pages: Iterable[Page]) -> set[str]:
    """The flags that notes of pages name."""
    datas = [data_of(page.html) for page in pages]
    notes = [note for data in datas for part in (*data["models"], data["diff"] or {}) for note in part.get("notes", ())]
    return {flag for note in notes for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", note)}


def test_notes_on_a_page_name_no_option_but_those_that_make_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    def pages() -> Iterator[Page]:
        for name in ("views.pt", "gan.pt", "gpt2_names.pt", "quantized.safetensors", "ema.pt"):
            yield convinspect.report(FIXTURES / name, values=False)
        yield convinspect.report(STNKD, FIXTURES / "biases.pt", values=False)

    own = set(re.findall(r"--[a-z][a-z-]*", run("report", "--help").stdout))
    assert {"--root"} <= options_in_notes(pages()) <= own
    monkeypatch.setattr("convinspect.showing.page_data.read_by", nullcontext)
    assert options_in_notes(pages()) - own == {"--format"}, "a note for another reader is found"


def test_a_notebook_shows_it_in_a_frame() -> None:
    page = Page(EVIL, document({"name": EVIL}, EVIL))
    ((tag, attrs),) = Parts(page._repr_html_()).tags
    assert (tag, attrs["srcdoc"]) == ("iframe", page.html)


def test_of_an_address_headers_alone_are_read_unless_numbers_are_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    with serving(FIXTURES) as server:
        address = f"{server.address}/pointnet_stnkd.safetensors"
        for words, read in (((), False), (("--values",), True)):
            done = run("report", address, *words, "--force", folder=tmp_path)
            assert (done.returncode, done.stderr) == (0, "wrote pointnet_stnkd.report.html\n")
            html = (tmp_path / "pointnet_stnkd.report.html").read_text(encoding="utf-8")
            data = data_of(html)
            assert any(data["models"][0]["numbers"]) == read


def test_a_page_is_saved_once(tmp_path: Path) -> None:
    page = convinspect.report(str(STNKD), values=False)
    target = tmp_path / "x.html"
    assert page.save(target) == target
    assert target.read_text(encoding="utf-8") == page.html
    with pytest.raises(CannotWrite, match="the file exists; use force=True to overwrite it"):
        page.save(target)
    Page("other", "new").save(str(target), force=True)
    assert target.read_text(encoding="utf-8") == "new"
    with pytest.raises(CannotWrite, match="address"):
        page.save("https://example.com/x.html")
    with pytest.raises(CannotShow, match="cannot be written"):
        page.save(tmp_path / "none" / "x.html")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.html"]


def test_the_command_names_the_page_after_the_model(tmp_path: Path) -> None:
    done = run("report", STNKD, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "wrote pointnet_stnkd.report.html\n")
    first = (tmp_path / "pointnet_stnkd.report.html").read_bytes()
    again = run("report", STNKD, "--no-values", folder=tmp_path)
    assert_one_line(again, "--force")
    assert (tmp_path / "pointnet_stnkd.report.html").read_bytes() == first
    assert run("report", STNKD, "--no-values", "--force", folder=tmp_path).returncode == 0
    assert len((tmp_path / "pointnet_stnkd.report.html").read_bytes()) < len(first)
    assert run("report", STNKD, FIXTURES / "ema.pt", folder=tmp_path).returncode == 0
    assert (tmp_path / "pointnet_stnkd_ema.report.html").exists()
    same = run("report", STNKD, STNKD, "-o", "same.html", folder=tmp_path)
    assert same.stdout == "A would load strictly without changes, wherever B loads\n", (
        "the verdict is not hidden in a file"
    )
    assert run("report", FIXTURES / "sharded", folder=tmp_path).returncode == 0
    assert (tmp_path / "sharded.report.html").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((STNKD, "-o", "x.svg"), "end its name in .html"),
        (("none.pt", "-o", "x.html"), "no such file"),
        ((STNKD, "none.pt", "-o", "x.html"), "no such file"),
        ((STNKD, "-o", "https://example.com/x.html"), "write it here"),
        ((STNKD, "--root", "none", "-o", "x.html"), "root"),
    ],
)
def test_bad_input_is_one_line_and_no_page(tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    done = run("report", *words, folder=tmp_path)
    assert_one_line(done, said)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_shown_and_reported(tmp_path: Path) -> None:
    whole = STNKD.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) * 2 // 3])
    done = run("report", "cut.pt", folder=tmp_path)
    assert done.returncode == 2
    assert "wrote cut.report.html" in done.stderr
    assert run("shapes", "cut.pt", folder=tmp_path).returncode == 2
    html = (tmp_path / "cut.report.html").read_text(encoding="utf-8")
    data = json.loads(Parts(html).texts[[attrs.get("id") for _, attrs in Parts(html).tags].index("data")])
    assert data["models"][0]["problems"]
