"""`explain --lang zh`: every fixed string has a translation, numbers are the English drawing's, columns align."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from rich.cells import cell_len
from torch import nn

import convinspect
from convinspect.explaining import words
from convinspect.explaining.words import CHINESE, LANGUAGES, Language, Said, Words, names_in
from convinspect.render import raster
from convinspect.render.table import plain
from convinspect.showing.explain_steps import drawer, frames, overview, steps
from support.in_process import call_main
from support.paths import FIXTURES, ROOT
from support.program import assert_one_line, run

NO_WORDS = {"Conv", "Linear", "PyTorch", "MLP", "Aᵀ", "state", "dict", "stride", "padding", "dilation", "groups", "out",
            "in", "conv", "patch", "embed", "fc", "pointwise"}  # fmt: skip
"""What stays as it is: names of PyTorch and of layers."""
PLACES = ["convinspect/showing/explain.py", "convinspect/showing/explain_steps.py",
          "convinspect/showing/explain_layouts.py",
          "convinspect/showing/explain_patches.py", "convinspect/showing/patch_panels.py", "convinspect/cli/explain.py",
          "convinspect/explaining/example.py", "convinspect/explaining/patches.py"]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers of every kind that is drawn: pointwise, sliding, over patches in one to three dimensions."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    layers = {
        "point": nn.Conv1d(12, 40, 1), "slide": nn.Conv1d(3, 5, 3, stride=2, padding=1), "one": nn.Conv1d(2, 1, 1),
        "line": nn.Linear(3, 4, bias=False), "seq": nn.Conv1d(2, 3, 4, stride=4), "img": nn.Conv2d(1, 3, 2, stride=2),
        "vid": nn.Conv3d(1, 2, (2, 2, 2), stride=2),
    }  # fmt: skip
    torch.save(nn.ModuleDict(layers), folder / "modules.pt")
    torch.save(nn.ModuleDict(layers).state_dict(), folder / "state.pt")
    torch.save(torch.arange(25.0).reshape(1, 5, 5), folder / "image.pt")
    return folder


EXAMPLES: list[tuple[str, str, dict[str, object]]] = [
    ("", "", {}), ("", "", {"patches": True}), ("state.pt", "point", {"samples": 30}), ("modules.pt", "slide", {}),
    ("state.pt", "slide", {}), ("modules.pt", "one", {}), ("state.pt", "line", {}),
    ("modules.pt", "seq", {"patches": True}), ("state.pt", "img", {"patches": True, "input": "image.pt"}),
    ("modules.pt", "vid", {"patches": True, "samples": 12}),
]  # fmt: skip


def drawn(models: Path, case: int, lang: Language, width: int = 100) -> str:
    """All that `explain` shows of an example: rows, both layouts, every step, and a low screen."""
    file, layer, options = EXAMPLES[case]
    given = options | ({"input": models / str(options["input"])} if "input" in options else {})
    example = convinspect.explain(models / file if file else None, layer or None, lang=lang, **given)  # type: ignore[arg-type]
    both = example.image is None
    shown = []
    for linear in {False, example.taps == 1}:
        draw = drawer(example, linear, width)
        shown += [*frames(example, draw, None, None, both, width), *frames(example, draw, 0, 0, both, width)]
        shown += steps(example, draw, 3, both)
        shown += frames(example, drawer(example, linear, 60, 14), 0, 0, False, 60)
    shown += overview(example)
    lines = [line for block in shown for line in (block.title, *block.lines)]
    return "\n".join(map(plain, lines))


@pytest.mark.parametrize("case", range(len(EXAMPLES)))
def test_nothing_is_left_in_english_and_numbers_are_the_same(models: Path, case: int) -> None:
    english, chinese = drawn(models, case, "en"), drawn(models, case, "zh")
    left = set(re.findall(r"[A-Za-zᵀ]{2,}", chinese)) - NO_WORDS - set(EXAMPLES[case][1:2])
    assert left == set()
    # Which rows and columns are left out depends on the width of words, and Chinese names the outputs twice.
    results = [
        set(re.findall(r"^(?:[fY]\[[\d,]+\])? += (?:.* = )?(-?\d+\.\d+)$", text, re.MULTILINE))
        for text in (english, chinese)
    ]
    assert results[0] == results[1] != set()
    assert "点积" in chinese
    assert "卷积核" in chinese


def test_of_a_small_example_all_numbers_are_the_same() -> None:
    english, chinese = (call_main("explain", "--lang", lang, "--width", "140").out for lang in LANGUAGES)
    numbers = [re.findall(r"-?\d+(?:\.\d+)?", text.rpartition("\n6 ")[0]) for text in (english, chinese)]
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) > 300


def said_in(path: Path) -> set[str]:
    """Whole templates in calls of what speaks to the reader."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            is_words = isinstance(node.func, ast.Call) and getattr(node.func.func, "id", "") == "Words"
            if (called in ("say", "word", "Said") or is_words) and isinstance(node.args[0].value, str):
                found.add(node.args[0].value)
    return found


def test_every_fixed_string_has_a_translation() -> None:
    said = set[str]().union(*(said_in(ROOT / place) for place in PLACES)) - {"note"}
    assert len(said) > 25
    assert said - set(CHINESE) == set()
    for english, chinese in CHINESE.items():
        assert names_in(chinese) - {"outs"} <= names_in(english), english
        assert chinese != english or not re.search(r"[A-Za-z]{2,}", re.sub(r"\{\w+\}", "", english))


def test_a_string_without_a_translation_would_be_found(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(words.CHINESE, "running sum")
    with pytest.raises(KeyError, match="running sum"):
        drawn(models, 0, "zh")
    with pytest.raises(KeyError):
        Words("zh").of(Said("no {thing}", thing=1))


def test_columns_align_in_cells() -> None:
    text = call_main("explain", "--lang", "zh", "--width", "120", "--patches", "--row", "1").out.split("\n")
    tops = [line for line in text if "┏" in line]
    for top in tops[:1]:
        below = text[text.index(top) + 1]
        corner, side = (cell_len(line[: line.index(mark)]) for line, mark in ((top, "┏"), (below, "┃")))
        assert corner == side
    rows = [line for line in text if re.match(r".*图像块 \d│", line)]
    assert len(rows) == 4
    assert len({cell_len(line[: line.index("│", line.index("图像块"))]) for line in rows}) == 1


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_fit_and_no_line_begins_with_a_closing_mark(width: int) -> None:
    for option in ("--as=both", "--patches"):
        text = call_main("explain", "--lang", "zh", "--width", str(width), option).out
        assert max(map(cell_len, text.split("\n"))) <= width
        assert not re.search(r"^[，。：；、）”]", text, re.MULTILINE)


def test_pages_and_pictures_are_in_chinese(tmp_path: Path) -> None:
    for name in ("x.html", "x.svg"):
        assert run("explain", "--lang", "zh", "-o", tmp_path / name).returncode == 0
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "卷积核" in re.sub(r"<[^>]*>", "", text)
        assert "Noto Sans Mono CJK SC" in text
    html = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert '<html lang="zh">' in html
    assert "下一步 ▶" in html
    # In a drawing two cells wide, whatever the font; in prose of the page's own not.
    assert '<span class="two">卷</span>' in html
    assert '"第 {at} 步，共 {count} 步".replace("{at}", at + 1)' in html


def test_pixels_need_a_font_with_chinese(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(raster, "_wide_face", lambda: None)
    for name in ("x.gif", "x.png"):
        ended = call_main("explain", "--lang", "zh", "-o", tmp_path / name)
        assert ended.code == 2
        assert ended.err.startswith("error: no font with Chinese characters was found")
        assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_languages_are_those_of_the_function() -> None:
    assert get_args(Language) == LANGUAGES == get_args(Literal["en", "zh"])
    assert_one_line(run("explain", "--lang", "fr"), "--lang: 'fr' is not one of 'en', 'zh'")
    shown = convinspect.explain(FIXTURES / "pointnet_stnkd.pt", "conv1", lang="zh")._repr_html_()  # type: ignore[attr-defined]
    assert "卷积核" in re.sub(r"<[^>]*>", "", shown)
