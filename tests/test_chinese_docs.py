"""The Chinese pages say what the English ones do: the same headings, blocks, code spans, tables and links."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from support.paths import ROOT

CHINESE = sorted([*ROOT.glob("*.zh-CN.md"), *(ROOT / "docs").glob("*.zh-CN.md")])
CJK = r"[\u3400-\u9fff]"


def english(page: Path) -> Path:
    """The page that it translates."""
    return page.with_name(page.name.replace(".zh-CN", ""))


def blocks(text: str) -> list[str]:
    """Fenced blocks, whose comments alone are translated, and what `explain` prints."""
    found = re.findall(r"^```\w+\n.*?^```", text, re.MULTILINE | re.DOTALL)
    return [_EXPLAINED.sub(r"\1", re.sub(r"  # .*", "", block)) for block in found]


_EXPLAINED = re.compile(r"^(\$ convinspect explain .*?)(?: --lang zh)?\n(?:(?!```|\$ ).*\n)*", re.MULTILINE)


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```\w+\n.*?^```\n", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[str]:
    """The level of each heading."""
    return re.findall(r"^#+(?= )", prose(text), re.MULTILINE)


def spans(text: str) -> Counter[str]:
    """Each code span, in whatever order a sentence needs; `explain` speaks the page's language."""
    return Counter(span.replace("explain --lang zh", "explain") for span in re.findall(r"`[^`]+`", prose(text)))


def tables(text: str) -> list[list[int]]:
    """The number of cells of each row of each table."""
    found = re.findall(r"(?:^\|.*\|\n)+", prose(text), re.MULTILINE)
    return [[len(re.split(r"(?<!\\)\|", row)) - 2 for row in table.splitlines()] for table in found]


def links(text: str) -> Counter[str]:
    """Where links and pictures lead; a page and its translation are one place, as are pictures."""
    found = re.findall(r"(?:\]\(|srcset=\"|src=\")([^)\"]+)", prose(text))
    return Counter(re.sub(r"\.zh-CN|-zh(?=-|\.)", "", target) for target in found)


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
@pytest.mark.parametrize("part", [headings, blocks, spans, tables])
def test_a_chinese_page_has_the_parts_of_the_english_one(page: Path, part: object) -> None:
    assert callable(part)
    assert part(page.read_text(encoding="utf-8")) == part(english(page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_a_chinese_page_leads_where_the_english_one_does(page: Path) -> None:
    own = {english(page).name}
    there, here = (links(one.read_text(encoding="utf-8")) for one in (english(page), page))
    assert {key: n for key, n in here.items() if key not in own} == {
        key: n for key, n in there.items() if key not in own
    }


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_a_chinese_paragraph_is_one_line(page: Path) -> None:
    """A line end between two signs is shown as a space, which Chinese does not have."""
    text = prose(page.read_text(encoding="utf-8"))
    assert re.findall(rf"{CJK}[，。：；、）]?\n {{0,4}}(?:[（《“]?{CJK}|`)", text) == []


def test_the_comparison_sees_what_is_lost() -> None:
    text = "# A\n\n`b` [c](d)\n\n| e | f |\n|---|---|\n| g | h |\n\n```console\n$ i\n```\n"
    for part, cut in ((headings, "# A\n"), (spans, "`b`"), (tables, "| g | h |\n"), (blocks, "$ i\n"), (links, "(d)")):
        assert part(text) != part(text.replace(cut, ""))


@pytest.mark.parametrize("word", ["点积", "共享 MLP", "1×1 卷积"])
def test_words_that_people_search_for_are_there(word: str) -> None:
    assert any(word in page.read_text(encoding="utf-8") for page in CHINESE)
