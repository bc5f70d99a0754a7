"""The rows of the tree."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convinspect.browsing.model import Model, open_model
from convinspect.browsing.outline import Outline


def model(folder: Path, *names: str) -> Model:
    path = folder / "model.pt"
    torch.save({name: torch.zeros(2, 2) for name in names}, path)
    return open_model(path)


def shown(outline: Outline) -> list[str]:
    return ["  " * row.depth + row.node.name for row in outline.rows]


def test_a_small_model_is_open_and_a_large_one_shows_its_parts(tmp_path: Path) -> None:
    small = model(tmp_path, "a.0.weight", "a.1.weight", "b.weight")
    assert shown(Outline(small)) == ["a", "  0", "  1", "b"]
    assert shown(Outline(small, room=2)) == ["a", "b"]


def test_a_module_that_is_alone_is_open_however_much_it_has(tmp_path: Path) -> None:
    outline = Outline(model(tmp_path, *(f"net.layers.{n}.fc.weight" for n in range(30))), room=5)
    assert shown(outline)[:3] == ["net.layers", "  0.fc", "  1.fc"]
    assert len(outline.rows) == 31


def test_a_module_that_has_nothing_but_one_other_shares_its_row(tmp_path: Path) -> None:
    names = ["m.a.b.0.fc.weight", "m.a.b.0.norm.weight", "m.a.b.1.proj.lin.weight", "m.a.bias", "top.one.two.weight"]
    opened = model(tmp_path, *names)
    outline = Outline(opened)
    assert shown(outline) == ["m.a", "  b", "    0", "      fc", "      norm", "    1.proj.lin", "top.one.two"]
    assert [row.has_children for row in outline.rows] == [True, True, True, False, False, False, False]
    assert set(opened.names) == {"m.a", "m.a.b.0.fc", "m.a.b.0.norm", "m.a.b.1.proj.lin", "top.one.two"}
    outline.set_open(0, False)
    lin = opened.nodes[opened.names.index("m.a.b.1.proj.lin")]
    assert outline.place(lin) == 0
    number = outline.reveal(lin)
    assert outline.rows[number].node is lin
    assert outline.rows[outline.parent(outline.place(lin))].node.path == "m.a.b"
    outline.keep([opened.names.index("m.a.b.1.proj.lin")])
    assert shown(outline) == ["m.a", "  b", "    1.proj.lin"]


def test_rows_open_and_close_and_know_what_they_lie_under(tmp_path: Path) -> None:
    outline = Outline(model(tmp_path, "a.0.weight", "a.1.weight", "b.weight"))
    outline.set_open(0, False)
    assert shown(outline) == ["a", "b"]
    outline.set_open(1, True)
    assert shown(outline) == ["a", "b"]
    outline.set_open(0, True)
    assert (outline.parent(2), outline.parent(0)) == (0, 0)


def test_what_is_kept_is_shown_with_the_modules_above_it(tmp_path: Path) -> None:
    opened = model(tmp_path, *(f"a.{n}.{part}.weight" for n in range(9) for part in ("fc", "out")), "b.weight")
    outline = Outline(opened, room=2)
    assert shown(outline) == ["a", "b"]
    outline.keep([opened.names.index("a.7.fc")])
    assert shown(outline) == ["a", "  7", "    fc"]
    outline.set_open(1, False)
    assert shown(outline) == ["a", "  7"]
    outline.keep([])
    assert shown(outline) == []
    outline.keep(None)
    assert shown(outline) == ["a", "b"]


def test_a_row_is_revealed_by_opening_what_is_around_it(tmp_path: Path) -> None:
    opened = model(tmp_path, *(f"a.{n}.fc.weight" for n in range(9)), "b.weight")
    outline = Outline(opened, room=2)
    node = opened.nodes[opened.names.index("a.7.fc")]
    assert outline.place(node) == 0
    number = outline.reveal(node)
    assert outline.rows[number].node is node
    outline.keep([opened.names.index("b")])
    number = outline.reveal(node)
    assert outline.rows[number].node.path == "b"


@pytest.mark.parametrize("others", [(), ("a.weight",)])
def test_tensors_of_the_root_have_a_row_that_can_be_left_out(tmp_path: Path, others: tuple[str, ...]) -> None:
    opened = model(tmp_path, "weight", *others)
    outline = Outline(opened)
    assert [row.node.path for row in outline.rows] == ["", *(name.split(".")[0] for name in others)]
    assert not outline.rows[0].has_children
    if others:
        outline.keep([opened.names.index("a")])
        assert [row.node.path for row in outline.rows] == ["a"]
        outline.keep([opened.names.index("(root)")])
        assert [row.node.path for row in outline.rows] == [""]
