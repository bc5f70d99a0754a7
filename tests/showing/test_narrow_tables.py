"""What narrow terminals may not hide: shapes, notes such as "pointwise" and "patch", what an error was, the verdict."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import convinspect
from convinspect.checkpoint import Checkpoint
from convinspect.cli.main import app
from convinspect.errors import ConvInspectError
from convinspect.layers.find import find_layers
from convinspect.layers.folding import unfolded
from convinspect.layers.tree import joined, module_tree
from convinspect.records import Container, Contents, Layer, Root, Tensor, contiguous
from convinspect.render.cells import cell_width
from convinspect.render.fitting import fit
from convinspect.render.plain_table import block_lines, lines
from convinspect.render.table import Block, Cell, Styled, Table, plain
from convinspect.showing import module_tree as module_tree_shown
from convinspect.showing.module_tree import tree_table
from convinspect.showing.shapes import listing_table
from support.paths import FIXTURES, STNKD
from support.sampling import times

WIDTHS = [24, 30, 50, 60, 80, 120]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = nn.ModuleDict({"patch_embed": nn.Conv2d(3, 32, 4, 4), "up": nn.Conv1d(6, 5, 1), "wide": nn.Conv1d(6, 5, 3)})
    torch.save(model.state_dict(), tmp_path / "a.pt")
    return tmp_path / "a.pt"


def shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, command: str, *words: object
) -> str:
    """What a terminal of so many columns shows."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    with suppress(typer.Exit):
        app([command, *map(str, words)], prog_name="convinspect", standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", WIDTHS)
def test_shapes_and_notes_are_there_at_any_width(
    file: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = shown(monkeypatch, capsys, width, "shapes", file).partition("conv and linear")[0]
    assert all(shape in table for shape in ("(32, 3, 4, 4)", "(5, 6, 1)", "(5, 6, 3)"))
    assert "pointwise" in table
    assert "patch," in table
    plan = shown(monkeypatch, capsys, width, "convert", file, "--to", "linear", "-n")
    assert plan.index("1 layer to convert") < plan.index("(5, 6, 1)") < plan.index("(5, 6)")
    assert "its kernel" in plan


@pytest.mark.parametrize("width", WIDTHS)
def test_a_plan_has_both_shapes_of_a_large_layer_at_any_width(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.ModuleDict({"pw": nn.Conv1d(65536, 131072, 1, bias=False, device="meta"), "wide": nn.Conv1d(6, 5, 3)})
    torch.save(model.state_dict(), tmp_path / "a.pt")
    plan = shown(monkeypatch, capsys, width, "convert", tmp_path / "a.pt", "--to", "linear", "-n")
    table = plan.partition("In the model")[0]
    assert table.index("(131072, 65536, 1)") < table.index("(131072, 65536)")
    assert "assumed" in table
    if width < 60:
        # What is left has no shapes to show, so the reason has the line to itself.
        assert "\n  its kernel size" in table


@pytest.mark.parametrize("width", WIDTHS)
def test_what_the_error_was_is_there_at_any_width(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "Error(s) in loading state_dict for M:\n\tsize mismatch for conv1.weight: copying a param with shape "
    text += "torch.Size([16, 8, 1]) from checkpoint, the shape in current model is torch.Size([16, 8])."
    (tmp_path / "e.txt").write_text(text, encoding="utf-8")
    report = shown(monkeypatch, capsys, width, "diff", STNKD, "--error", tmp_path / "e.txt")
    assert "size mismatch" in report.partition("\n\nA ")[2].replace("\n", " ")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_verdict_of_verify_comes_first_on_a_terminal(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    convinspect.convert(STNKD, tmp_path / "b.pt", to="linear")
    report = shown(monkeypatch, capsys, width, "verify", STNKD, tmp_path / "b.pt")
    assert report.index("equal") < report.index("conv1")
    assert report.count("strength:") == 1


LONG = (
    "encoder.conformer_layers.0.convolution_module.pointwise_conv1",
    "decoder.decoder_layers.transformer_decoder_block.cross_attention.out_proj",
)


@pytest.fixture
def long_names(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A checkpoint of long names, one that differs, and the error of loading one where the other does."""
    a, b, error = tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "error.txt"
    state = {f"{name}.weight": torch.randn(6, 4, 1) for name in LONG}
    torch.save(state, a)
    torch.save({key: weight[..., 0] for key, weight in state.items()}, b)
    said = "copying a param with shape torch.Size([6, 4, 1]) from checkpoint, the shape in current model is torch.Size"
    lines = [f"\tsize mismatch for {key}: {said}([6, 4])." for key in state]
    error.write_text("\n".join(["Error(s) in loading state_dict for M:", *lines]), encoding="utf-8")
    return a, b, error


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
@pytest.mark.parametrize(
    "words",
    [
        ("convert", "A", "--to", "linear", "-n"),
        ("diff", "A", "B"),
        ("diff", "A", "B", "--values"),
        ("diff", "A", "--error", "E"),
        ("verify", "A", "B"),
        ("weights", "A", "--stats"),
    ],
    ids=" ".join,
)
def test_a_name_is_never_cut_since_it_is_copied(
    long_names: tuple[Path, Path, Path],
    width: int,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = dict(zip("ABE", long_names, strict=True))
    drawn = shown(monkeypatch, capsys, width, *(str(given.get(word, word)) for word in words)).splitlines()
    rule = next(place for place, line in enumerate(drawn) if set(line) == {"─"})
    end = next(place for place, line in enumerate(drawn) if place > rule and not line)
    body = drawn[rule + 1 : end]
    assert "…" not in "".join(body).replace(", …", "")
    for name in LONG:
        assert name in ("".join(line.strip() for line in body) if len(name) > width else "\n".join(body))


# --- listings of any layers at any width

NAME_PARTS = st.sampled_from(["0", "11", "conv", "self_attention", "a-b", "编码器", "x" * 45, "blocks", "module name"])
LISTED_NAMES = st.lists(NAME_PARTS, min_size=1, max_size=6).map(".".join)
SHAPES = st.sampled_from(
    [(4, 6, 1), (1024, 512, 1), (64, 32), (151936, 8192), (8, 3, 3), (64, 3, 7, 7), (8, 8, 1, 1), (9, 1, 3, 3, 3)]
)


def listing(named: list[tuple[str, tuple[int, ...]]]) -> tuple[Table, tuple[Layer, ...]]:
    tensors = tuple(Tensor(f"{name}.weight", "float32", shape, contiguous(shape)) for name, shape in named)
    checkpoint = Checkpoint(Contents(Path("m.pt"), Container.TORCH_ZIP, (Root("", "model", tensors),), 0))
    layers = find_layers(checkpoint)
    return listing_table(checkpoint, layers, unfolded(layers), everything=True), layers


def bare(text: str) -> str:
    return re.sub(r"\s", "", text)


def lacking(table: Table, layers: tuple[Layer, ...], width: int) -> list[str]:
    """What a listing of this width must say of its layers and does not."""
    drawn = list(lines(table, width))
    rule = next(place for place, line in enumerate(drawn) if set(line) == {"─"})
    end = next((place for place, line in enumerate(drawn) if place > rule and not line), len(drawn))
    body = bare("".join(drawn[rule:end]))
    faults = [line for line in drawn if cell_width(line) > max(width, MOST_IN_ONE_WORD)]
    faults += ["something is cut"] if "…" in body else []
    for layer in layers:
        said = (
            f"{re.escape(bare(layer.name))}.{{0,60}}?{re.escape(bare(layer.kind))}{re.escape(bare(shape_text(layer)))}"
        )
        mark = ".{0,60}?pointwise" if layer.pointwise else ""
        faults += [] if re.search(said + mark, body) else [f"{layer.name} at {width}"]
    if body.count("pointwise") != sum(layer.pointwise for layer in layers):
        faults.append("pointwise")
    return faults


MOST_IN_ONE_WORD = 30
"""A number is not cut, nor the widest word that a note begins with."""


def shape_text(layer: Layer) -> str:
    return f"({', '.join(map(str, layer.weight.shape))})"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(LISTED_NAMES, SHAPES), min_size=1, max_size=6, unique_by=lambda pair: pair[0]),
    st.integers(30, 200),
)
def test_names_kinds_shapes_and_pointwise_are_whole_at_any_width(
    named: list[tuple[str, tuple[int, ...]]], width: int
) -> None:
    table, layers = listing(named)
    assert lacking(table, layers, width) == []


@pytest.mark.parametrize("column", ["name", "kind", "weight", "notes"])
def test_a_listing_that_drops_one_of_them_is_found(column: str) -> None:
    table, layers = listing([("encoder.layers.0.self_attention.out_proj", (1024, 512, 1)), ("b", (64, 32))])
    loose = tuple(
        each._replace(never_hidden=False, priority=1, min_width=4) if each.title == column else each
        for each in table.columns
    )
    assert any(lacking(table._replace(columns=loose), layers, width) for width in range(30, 90))


ORDER = ("in → out", "dtype", "size", "params")
"""What a narrow listing goes without, in this order."""


@cache
def listings() -> list[tuple[str, Table]]:
    """The listing of each fixture, and of layers whose columns differ from row to row."""
    drawn = [("blocks", listing([(f"blocks.{i}.conv", (4 * i + 4, 6, 1)) for i in range(3)] + [("fc", (64, 32))])[0])]
    for path in sorted(FIXTURES.iterdir()):
        with suppress(ConvInspectError):
            checkpoint = convinspect.open(path)
            layers = find_layers(checkpoint)
            drawn += [(path.name, listing_table(checkpoint, layers, unfolded(layers), everything)) for everything in
                      (True, False)]  # fmt: skip
    return drawn


def out_of_order(table: Table, width: int) -> list[str]:
    """Columns that such a listing is without, and before which another should have gone."""
    titles = re.split(r"\s{2,}|\n *", "  ".join(column.title for column in fit(table, width).columns))
    there = [title for title in ORDER if title in titles]
    return [title for place, title in enumerate(ORDER) if title not in titles and set(ORDER[:place]) & set(there)]


@pytest.mark.parametrize("widths", [range(40, 70), range(70, 100), range(100, 131)], ids=str)
def test_columns_are_dropped_in_the_order_of_what_is_missed_least(widths: range) -> None:
    # Each listing at every third width, and each width with every third listing; by hand all of both.
    step = times(3, 1)
    faults = {
        (name, width): out_of_order(table, width)
        for place, (name, table) in enumerate(listings())
        for width in widths[place % step :: step]
    }
    assert len(faults) > 500
    assert {place: fault for place, fault in faults.items() if fault} == {}


def test_a_column_that_goes_out_of_its_turn_is_found() -> None:
    _, table = listings()[0]
    late = tuple(each._replace(repeats=False) for each in table.columns)
    assert {title for width in range(60, 100) for title in out_of_order(table._replace(columns=late), width)} == {
        "dtype"
    }


def test_what_is_the_same_in_all_rows_is_said_below_before_figures_are_left_out() -> None:
    _, table = listings()[0]
    shown = fit(table, 70)
    assert [column.title for column in shown.columns] == ["name", "kind", "weight", "k", "params", "size", "notes"]
    assert "bias –, dtype float32 in all rows" in shown.notes
    assert shown.notes[-1] == "1 column hidden: in → out; --width 97 or a pipe shows it"


# --- trees at any width


def tree_of(path: Path) -> Table:
    checkpoint = convinspect.open(path)
    layers = find_layers(checkpoint)
    return tree_table(checkpoint, layers, joined(module_tree(checkpoint, layers)), layers, True)


def tree_faults(table: Table, width: int) -> list[str]:
    """What a tree of this width lacks of its names, kinds and shapes, and where its lines are broken."""
    drawn = list(lines(table, width))
    rule = next(place for place, line in enumerate(drawn) if set(line) == {"─"})
    end = next((place for place, line in enumerate(drawn) if place > rule and not line), len(drawn))
    body = drawn[rule + 1 : end]
    faults = [f"too wide: {line}" for line in body if cell_width(line) > width]
    for above, line in pairwise(body):
        lead = re.match("[│ ]*[├└]", line)
        if lead is not None:
            place = len(lead[0]) - 1
            # A child hangs below a line, or below the name of what it is in.
            ends = re.match("[│ ]*(?:[├└]─ )?", above)
            hangs = above[place : place + 1] in ("│", "├") or (ends is not None and ends.end() == place)
            faults += [] if hangs else [f"broken above: {line}"]
    text = bare(re.sub("[│├└─]", "", "".join(body)))
    for row in table.rows:
        said = [bare(plain(cell)) for cell in (row[0][1], row[1], row[2])]
        faults += [] if all(map(text.__contains__, said)) else [f"lacks {said}"]
    return faults


TREES = [
    "attention_recurrent.pt",
    "pointnet_stnkd_module.pt",
    "qwen2_vl.safetensors",
    "gpt2_names.pt",
    "lora.safetensors",
]


@pytest.mark.parametrize("name", TREES)
def test_a_tree_is_whole_at_any_width_and_its_lines_unbroken(name: str) -> None:
    table = tree_of(FIXTURES / name)
    assert {width: faults for width in range(40, 131) if (faults := tree_faults(table, width))} == {}
    layer_lines = [line for line in lines(table, 40) if "Linear  (" in line or "Conv1d  (" in line]
    assert layer_lines, "kind and shape are on one line"


def test_a_tree_whose_lines_are_broken_is_found() -> None:
    table = tree_of(FIXTURES / "attention_recurrent.pt")
    assert any("broken" in fault for fault in tree_faults(table._replace(under=()), 40))


def test_a_deep_tree_of_long_names_is_whole(tmp_path: Path) -> None:
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_A.default.weight"
    shapes = {name.format(n): (64, 64) for n in range(3)} | {
        "a_name_that_is_longer_than_the_line_is.c.weight": (4, 3, 1)
    }
    torch.save({key: torch.zeros(dims) for key, dims in shapes.items()}, tmp_path / "deep.pt")
    table = tree_of(tmp_path / "deep.pt")
    for width in range(40, 131):
        assert [fault for fault in tree_faults(table, width) if "lacks" in fault or "wide" in fault] == []


def test_below_60_columns_a_layer_has_two_lines() -> None:
    table, _ = listing([("encoder.layers.0.self_attention.out_proj", (1024, 512, 1)), ("b", (64, 32))])
    drawn = [line.rstrip() for line in lines(table, 45)]
    rule = next(place for place, line in enumerate(drawn) if set(line) == {"─"})
    assert drawn[rule + 1] == "encoder.layers.0.self_attention.out_proj"
    assert drawn[rule + 2].split()[:4] == ["Conv1d", "(1024,", "512,", "1)"]
    assert "pointwise" in drawn[rule + 2]


# --- what stands around the tables


def test_sentences_of_a_block_are_wrapped_beside_their_indent_and_drawings_are_not() -> None:
    said: tuple[Cell, ...] = ("a sentence that goes on and on", Styled("  and its figures, which go on too", "bold"))
    for flows, most in ((True, 20), (False, 40)):
        block = Block(said, "the title", ("a note of several words that goes on",), flows=flows)
        drawn = list(block_lines(block, width=20))
        assert max(map(cell_width, drawn)) <= most
        told = ["the title", *map(plain, said), "a note of several words that goes on"]
        assert " ".join(drawn).split() == " ".join(told).split()
        assert "  which go on too" in drawn or not flows
        assert drawn[-2:] == ["a note of several", "words that goes on"]


def test_no_titles_stand_over_a_table_without_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save({"norm.weight": torch.ones(4), "norm.bias": torch.ones(4)}, tmp_path / "a.pt")
    for width in (40, 120):
        text = shown(monkeypatch, capsys, width, "shapes", tmp_path / "a.pt")
        assert "no layer to show" in text
        assert "kind" not in text
        assert "──" not in text
    assert shown(monkeypatch, capsys, 80, "shapes", tmp_path / "a.pt", "--format", "csv").startswith("name,kind,")


def test_a_trees_note_on_its_figures_goes_with_them() -> None:
    table = tree_of(FIXTURES / "attention_recurrent.pt")
    table = table._replace(notes=(*table.notes, module_tree_shown._COUNTED))
    for width in range(40, 131):
        fitted = fit(table, width)
        figures = "params" in " ".join(column.title for column in fitted.columns)
        assert any("params, share, size: of all" in plain(note).replace("\n", " ") for note in fitted.notes) == figures
