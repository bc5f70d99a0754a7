"""Every fixture and every hostile file: what the explorer shows of it is text, and what cannot be shown one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convinspect.browsing.facts import layer_lines, module_lines
from convinspect.browsing.model import Model, open_model
from convinspect.browsing.numbers import read_numbers
from convinspect.browsing.outline import Outline
from convinspect.browsing.sheet import picture_lines
from convinspect.browsing.stats_lines import stats_lines
from convinspect.browsing.tree_rows import head_texts, tree_line
from convinspect.converting.possible import possible
from convinspect.errors import ConvInspectError
from convinspect.layers.tree import walk
from convinspect.render.cells import cell_width
from convinspect.render.style import Depth
from convinspect.render.table import Styled
from support.hostile import HOSTILE, LARGE
from support.paths import FIXTURES

FILES = sorted(path for path in FIXTURES.glob("*") if path.suffix in (".pt", ".safetensors", ".ckpt", ".pt2"))
MOST = 12
"""Layers of a file whose numbers are read."""
EVERY = int(os.environ.get("EVERY_HOSTILE", "40"))
"""Of the hostile files one in so many is taken: each costs what building it does. 1 takes all."""


def check(lines: list[tuple[Styled, ...]], width: int) -> None:
    for line in lines:
        text = "".join(part.text for part in line)
        assert text.isprintable()
        # A number is never cut, so a narrow line may be longer; the screen ends it.
        assert cell_width(text) <= width + 120, text


def walk_through(model: Model, width: int) -> int:
    """Everything that keys can bring onto the screen; how many layers' numbers were shown."""
    outline = Outline(model)
    outline.keep(range(len(model.nodes)))
    check([tree_line(row, width) for row in outline.rows], width)
    check(
        [(Styled(head_texts(model)[-1].replace("\n", " ")),)] if model.checkpoint.path.name.isprintable() else [], 999
    )
    for _, node in list(walk(model.tree))[:MOST]:
        check(module_lines(model, node, width), width)
    shown = 0
    for layer in model.layers[:MOST]:
        check(layer_lines(model, layer, possible(model.checkpoint, model.layers, [layer]), width), width)
        try:
            numbers = read_numbers(model.checkpoint, layer, lambda: False)
        except ConvInspectError:
            continue
        check(stats_lines(numbers, width), width)
        for sheet in numbers.sheets[:4]:
            for depth in (None, Depth.BASIC, Depth.INDEXED):
                check(picture_lines(sheet, width, 12, depth), width)
        shown += 1
    return shown


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_fixtures(path: Path) -> None:
    try:
        model = open_model(path)
    except ConvInspectError:
        return
    shown = walk_through(model, 38)
    assert shown or not model.layers or path.stem in ("odd_tensors", "quantized") or model.checkpoint.problems


@pytest.mark.parametrize("name", sorted(set(HOSTILE) - set(LARGE))[::EVERY])
def test_hostile_files(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    path = HOSTILE[name](tmp_path, marker)
    said = ""
    try:
        walk_through(open_model(path), 38)
    except ConvInspectError as error:
        said = str(error)
    assert "\n" not in said
    assert not marker.exists()
