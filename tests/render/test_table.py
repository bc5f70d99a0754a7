"""Tables: their text, their width, and what is never lost from them. The oracle for layout is Rich."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
import unicodedata
from itertools import pairwise, product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.color import Color, ColorSystem

from convinspect.errors import CannotShow
from convinspect.render import plain_table as layout
from convinspect.render.cells import cell_width, count, elide, is_narrow, safe, shape, size, wrap
from convinspect.render.data import json_text, markdown
from convinspect.render.emit import emit, terminal_size, wants_color
from convinspect.render.fitting import fit
from convinspect.render.format import Format
from convinspect.render.heatmap import heatmap
from convinspect.render.matrix import MatrixView, machine_table, matrix_table, sparkline
from convinspect.render.picture import save
from convinspect.render.style import GOOD, NAME, QUIET, WARN, Depth, sgr
from convinspect.render.table import Block, Cell, Column, Styled, Table, pieces, plain
from support.rich_table import by_rich
from support.sampling import times

GOLDEN = Path(__file__).parent / "golden"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?")

COLUMNS = (
    Column("name", style=NAME, priority=100, elide=True),
    Column("kind", priority=80),
    Column("weight", priority=90, key="shape"),
    Column("in → out", justify="right", priority=60, key="channels"),
    Column("k", justify="right", priority=50, foldable=True, key="kernel_size"),
    Column("bias", style=QUIET, priority=20, foldable=True),
    Column("dtype", style=QUIET, priority=30, foldable=True),
    Column("params", justify="right", priority=40, key="numel"),
    Column("size", justify="right", style=QUIET, priority=35, key="nbytes"),
    Column("notes", priority=70, wrap=True),
)


def stnkd(prefix: str = "") -> Table:
    """What `shapes` shows of PointNet's feature transform."""
    layers: list[tuple[str, str, tuple[int, ...]]] = [
        ("conv1", "Conv1d", (64, 64, 1)),
        ("conv2", "Conv1d", (128, 64, 1)),
        ("conv3", "Conv1d", (1024, 128, 1)),
        ("fc1", "Linear", (512, 1024)),
        ("fc2", "Linear", (256, 512)),
        ("fc3", "Linear", (4096, 256)),
    ]
    rows: list[tuple[Cell, ...]] = []
    raw: list[tuple[object, ...]] = []
    for name, kind, dims in layers:
        numel = dims[0] * dims[1] + dims[0]
        is_conv = kind == "Conv1d"
        assumed = (Styled(", "), Styled("assumed stride=1", WARN)) if is_conv else ()
        rows.append(
            (
                prefix + name,
                kind,
                shape(dims),
                f"{dims[1]} → {dims[0]}",
                "1" if is_conv else "–",
                "yes",
                "float32",
                count(numel),
                size(4 * numel),
                (Styled("pointwise", GOOD), *assumed),
            )
        )
        tags = ["pointwise", "assumed stride=1"] if is_conv else ["pointwise"]
        raw.append(
            (prefix + name, kind, dims, dims[1::-1], 1 if is_conv else None, True, "float32", numel, 4 * numel, tags)
        )
    return Table(
        columns=COLUMNS,
        rows=rows,
        title="pointnet_stnkd.pt",
        summary=("6 layers, 6 pointwise · 1,853,376 parameters · 7.4 MB in tensors, 7.5 MB on disk",),
        notes=("torch.save (zip); stride, padding and groups are not recorded",),
        raw=raw,
    )


def kernel() -> MatrixView:
    """A kernel with something of everything in it."""
    values = np.random.default_rng(7).normal(size=(64, 64)).astype(np.float32) / 10
    values[0, 1], values[1, 2], values[2], values[61, 0] = np.nan, -np.inf, 0, 3e-9
    return MatrixView(
        values=values.tolist(),
        row_names=[f"out {i}" for i in range(64)],
        column_names=[f"in {i}" for i in range(64)],
        bias=(values[:, 5] / 10).tolist(),
        title="conv1.weight (64, 64, 1) float32",
    )


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


# Text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("conv1.weight", "conv1.weight"),
        ("卷积.weight é 😀", "卷积.weight é 😀"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\tc\r", r"a\x0ab\x09c\x0d"),
        ("a\u202eb\u200d", r"a\u202eb\u200d"),
        ("\ud800\x9b\x7f", r"\ud800\x9b\x7f"),
        ("\U000e0001", r"\U000e0001"),
        ("\xa0\u3000", r"\xa0\u3000"),
    ],
)
def test_safe_shows_what_a_terminal_would_obey(text: str, shown: str) -> None:
    assert safe(text) == shown


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_safe_never_emits_control_characters(text: str) -> None:
    shown = safe(text)
    assert all(unicodedata.category(c)[0] != "C" for c in shown)
    assert shown.isprintable()
    assert safe(shown) == shown
    assert text != text.encode("utf-8", "replace").decode() or not text.isprintable() or shown == text


@given(st.text(st.characters(exclude_categories=("C", "Z")), max_size=30))
@example("─…→×·⋯⋮▁█▀")
@example("❤\ufe0f")
def test_cell_width_is_that_of_rich(text: str) -> None:
    assert cell_width(text) == cell_len(text)


def test_every_character_of_the_fast_path_is_one_cell_wide() -> None:
    narrow = [chr(i) for i in range(0x3000) if is_narrow(chr(i))]
    assert len(narrow) > 500
    assert {cell_len(c) for c in narrow} == {1}


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (16640, "16.6 kB"), (128_000, "128 kB"),
        (999_499, "999 kB"), (999_500, "1.0 MB"), (2_100_000_000, "2.1 GB"), (99_960, "100 kB"),
    ],
)  # fmt: skip
def test_size_is_decimal(nbytes: int, shown: str) -> None:
    assert size(nbytes) == shown


def test_count_and_shape() -> None:
    assert count(1234567) == "1,234,567"
    assert [shape(s) for s in ((64, 64, 1), (64,), ())] == ["(64, 64, 1)", "(64,)", "()"]


def test_elide_keeps_both_ends_and_whole_numbers() -> None:
    assert elide("encoder.layers.11.self_attn.out_proj", 24) == "encoder…lf_attn.out_proj"
    assert elide("short", 5) == "short"
    assert elide("layer123456.conv9.weight", 17) == "layer…onv9.weight"
    assert elide("1" * 30, 5) == "1…111"


@given(st.text(st.characters(exclude_categories=("C", "Z")), max_size=40), st.integers(1, 30))
def test_elide_fits(text: str, width: int) -> None:
    shown = elide(text, width)
    assert cell_width(shown) <= width
    assert shown == text or "…" in shown


@pytest.mark.parametrize("width", range(10, 90))
def test_a_unit_stays_beside_its_number(width: int) -> None:
    text = "6 layers, 3 pointwise · 3,900 parameters · 16.6 kB in tensors, in storages of 700 B, 53.6 MB on disk"
    lines = [text[a:b] for a, b in wrap(text, width)]
    assert " ".join(lines) == text
    assert all(len(line) <= width for line in lines if " " in line)
    assert not any(re.match(r"(B|kB|MB)\b", line) for line in lines)


def test_where_nothing_else_fits_a_unit_parts_from_its_number() -> None:
    assert [text[a:b] for text in ["16.6 kB"] for a, b in wrap(text, 5)] == ["16.6", "kB"]


@given(st.text("ab .,/_-0123456789卷é", max_size=60), st.integers(1, 30))
def test_wrap_loses_nothing_and_cuts_no_number(text: str, width: int) -> None:
    lines = [text[a:b] for a, b in wrap(text, width)]
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert [n for line in lines for n in re.findall(r"\d+", line)] == re.findall(r"\d+", text)
    longest = max((len(n) for n in NUMBER.findall(text)), default=0)
    assert all(cell_width(line) <= max(width, longest + 1, 2) for line in lines)


PARTS = ["encoder", "layers", "0", "11", "self_attn", "conv1", "1x1", "res2net50", "BatchNorm2d", "lin_12a", "h"]


@given(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=8),
    st.lists(st.sampled_from("..._"), min_size=7, max_size=7),
    st.integers(12, 40),
)
def test_a_name_is_broken_within_a_word_only_where_the_word_has_no_room(
    parts: list[str], marks: list[str], width: int
) -> None:
    """PARTS have room on any of these widths; a number may end a line before the mark that follows it."""
    name = "".join(part + mark for part, mark in zip(parts, [*marks[: len(parts) - 1], ""], strict=True))
    lines = [name[a:b] for a, b in wrap(name, width)]
    for line, rest in pairwise(lines):
        assert line[-1] in "._" or rest[0] in "._", lines


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (40, ["encoder.conformer_layers.0.", "self_attention.query_key_value"]),
        (24, ["encoder.conformer_", "layers.0.self_attention.", "query_key_value"]),
        (10, ["encoder.", "conformer_", "layers.0.", "self_", "attention.", "query_key_", "value"]),
    ],
)
def test_the_parts_of_a_dotted_name_stay_whole_as_long_as_lines_stay_long(width: int, lines: list[str]) -> None:
    name = "encoder.conformer_layers.0.self_attention.query_key_value"
    assert [name[a:b] for a, b in wrap(name, width)] == lines


# Layout


@pytest.mark.parametrize("width", [None, 120, 80, 40])
@pytest.mark.parametrize("prefix", ["", "module.feature_transform.block.0."])
def test_shapes_of_stnkd_are_as_kept(width: int | None, prefix: str) -> None:
    name = f"view_shapes_{'long' if prefix else 'short'}_{width or 'piped'}.txt"
    shown = list(layout.lines(stnkd(prefix), width))
    assert "\n".join(shown) + "\n" == (GOLDEN / name).read_text(encoding="utf-8")
    assert shown == by_rich(stnkd(prefix), width)
    assert width is None or max(map(cell_width, shown)) <= width


cells_of_files = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(exclude_categories=()), max_size=8),
    st.text("卷积層é😀 ab.", max_size=20),
    st.sampled_from(["[bold]x[/]", ":smile:", "a\x1b[31m", "", " ", "x  ", "1,234,567", "0.125"]),
)
any_cell = st.one_of(
    cells_of_files,
    st.builds(Styled, cells_of_files, st.sampled_from(["", "bold", "dim cyan", "#ff0000", "color(33)"])),
    st.lists(st.builds(Styled, cells_of_files, st.sampled_from(["", "green", "yellow"])), max_size=3).map(tuple),
)
any_column = st.builds(
    Column,
    st.text(max_size=8),
    justify=st.sampled_from(["left", "right"]),
    style=st.sampled_from(["", "cyan", "dim"]),
    priority=st.integers(0, 3),
    wrap=st.booleans(),
    elide=st.booleans(),
    foldable=st.booleans(),
    min_width=st.integers(1, 16),
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    columns = draw(st.lists(any_column, max_size=6))
    rows = draw(st.lists(st.tuples(*(any_cell for _ in columns)), max_size=6))
    loose = st.lists(cells_of_files, max_size=2).map(tuple)
    return Table(tuple(columns), rows, draw(st.text(max_size=20)), draw(loose), draw(loose))


@settings(max_examples=times(40, 100), deadline=None)
@given(tables(), st.one_of(st.none(), st.integers(20, 160)), st.booleans())
def test_own_layout_is_that_of_rich(table: Table, width: int | None, color: bool) -> None:
    drawn = [ESCAPE.sub("", line).rstrip(" ") for line in layout.lines(table, width, color)]
    assert drawn == by_rich(table, width)
    assert all(line.isprintable() for line in drawn)


numbers = st.one_of(
    st.integers(-(10**12), 10**12).map(count), st.floats(allow_nan=False).map(lambda v: f"{v:.4g}"), st.just("7")
)


@settings(max_examples=times(40, 100), deadline=None)
@given(
    st.lists(
        st.tuples(st.text("ab.0123456789", max_size=60), numbers, numbers, st.lists(numbers, max_size=6)), max_size=5
    ),
    st.integers(40, 130),
    st.integers(0, 2),
)
def test_no_number_is_cut_at_any_width(rows: list[tuple[str, str, str, list[str]]], width: int, first: int) -> None:
    columns = (
        Column("name", elide=True, priority=9),
        Column("a", justify="right", priority=first),
        Column("b", justify="right", priority=1),
        Column("notes", wrap=True, priority=2),
    )
    table = Table(columns, [(n, a, b, f"from {', '.join(more)} on") for n, a, b, more in rows])
    fitted = fit(table, width)
    titles = [column.title for column in fitted.columns]
    if "\n" in titles[0]:
        # Two lines a row: its numbers stand below the name.
        for (_, a, b, more), (cell,) in zip(rows, fitted.rows, strict=True):
            below = re.split(r"\s|,(?!\d)", plain(cell).partition("\n")[2])
            assert [n for n, title in ((a, "a"), (b, "b")) if title in titles[0].split() and n not in below] == []
            assert "notes" not in titles[0] or set(more) <= set(below)
        return
    for (_, a, b, more), cells in zip(rows, fitted.rows, strict=True):
        shown = dict(zip(titles, map(plain, cells), strict=True))
        assert shown.get("a", a) == a
        assert shown.get("b", b) == b
        for line_number in more if "notes" in shown else ():
            assert line_number in re.split(r"[\s]|,(?!\d)", shown["notes"])
    assert all(cell_width(line) <= width for line in layout.lines(table, width))


def test_hidden_columns_are_named_with_the_way_to_see_them() -> None:
    table = stnkd()
    note = plain(fit(table, 60).notes[-1])
    needed = int(re.findall(r"--width (\d+)", note)[0])
    assert "columns hidden" in note.replace("\n", " ")
    assert [c.title for c in fit(table, needed).columns] == [c.title for c in table.columns]
    assert [c.title for c in fit(table, needed - 1).columns] != [c.title for c in table.columns]


@pytest.mark.parametrize("width", [45, 50, 59])
@pytest.mark.parametrize("color", [False, True])
def test_below_60_columns_the_name_has_a_line_of_its_own(width: int, color: bool) -> None:
    table = stnkd("module.feature_transform.")
    shown = [ESCAPE.sub("", line).rstrip(" ") for line in layout.lines(table, width, color)]
    assert shown == by_rich(table, width)
    assert max(map(cell_width, shown)) <= width
    for row in table.rows:
        name, weight, notes = plain(row[0]), plain(row[2]), plain(row[-1])
        place = shown.index(name)
        assert shown[place + 1].startswith("  ")
        assert weight in shown[place + 1]
        assert notes.split(",")[0] in shown[place + 1]


def test_at_60_columns_and_in_a_pipe_a_row_is_one_line() -> None:
    table = stnkd("module.feature_transform.")
    for width in (None, 60):
        assert len(list(zip(*fit(table, width).rows, strict=True))) > 1
        assert not any("\n" in column.title for column in fit(table, width).columns)


def test_narrow_rows_that_fit_stay_on_one_line() -> None:
    columns = (Column("name", elide=True, priority=9), Column("shape"), Column("notes", wrap=True, min_width=10))
    assert fit(Table(columns, [("a", "(2, 3)", "word " * 20)]), 50).columns == columns


def test_what_explains_a_columns_words_goes_with_it() -> None:
    columns = (Column("name", priority=9), Column("notes", wrap=True, min_width=10, legend=("odd: \x1b not even",)))
    table = Table(columns, [("a" * 30, "odd")], notes=("all: of them", "odd: \x1b not even"))
    assert [len(fit(table, width).notes) for width in (None, 80, 42, 41)] == [2, 2, 2, 2]
    wide, narrow = fit(table, 42), fit(table, 30)
    assert "odd: " in plain(wide.notes[1])
    assert "odd: " not in " ".join(map(plain, narrow.notes))
    assert plain(narrow.notes[0]) == "all: of them"


def test_a_column_is_folded_only_when_needed_and_all_rows_agree() -> None:
    columns = (Column("name"), Column("dtype", foldable=True), Column("k", foldable=True))
    table = Table(columns, [("a" * 20, "float32", "1"), ("b" * 20, "float32", "3")])
    assert len(fit(table, 40).columns) == 3
    folded = fit(table, 30)
    assert [c.title for c in folded.columns] == ["name", "k"]
    assert folded.notes == ("dtype float32 in all rows",)


def test_text_of_a_file_is_not_markup() -> None:
    table = Table((Column("[red]t[/]"),), [("[bold]x[/bold] :smile:",), ("\x1b[31mred",)], title="[i]t[/i]")
    shown = by_rich(table, 80)
    assert shown[0] == "[i]t[/i]"
    assert shown[4:] == ["[bold]x[/bold] :smile:", r"\x1b[31mred"]


def test_a_table_without_rows_or_columns_is_drawn() -> None:
    assert list(layout.lines(Table((Column("name"),), ()))) == ["name", "────"]
    assert list(layout.lines(Table((), (), summary=("no layers",)))) == ["no layers"]


def test_neither_rich_nor_numpy_is_loaded_for_plain_output() -> None:
    code = (
        "import sys, io\n"
        "from convinspect.render import emit, plain_table as layout, data as machine, table, cells as text\n"
        "t = table.Table((table.Column('name'),), [('a → b …',)])\n"
        "class Terminal(io.StringIO):\n"
        "    encoding, isatty = 'utf-8', lambda self: True\n"
        "for f in emit.Format: [emit.emit(t, f, out()) for out in (io.StringIO, Terminal)]\n"
        "assert not {'rich', 'numpy', 'torch'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_256_colours_are_those_that_rich_chooses() -> None:
    parts = (0, 1, 42, 47, 48, 58, 90, 95, 107, 115, 128, 171, 254, 255)
    for color in product(parts, repeat=3):
        style = "#{:02x}{:02x}{:02x}".format(*color)
        number = Color.parse(style).downgrade(ColorSystem.EIGHT_BIT).number
        assert sgr(style, Depth.INDEXED) == f"\x1b[38;5;{number}m", style


def test_styles_are_understood_or_refused() -> None:
    assert sgr("bold cyan") == "\x1b[1;36m"
    assert sgr("#102030 on color(9)") == "\x1b[38;2;16;32;48;48;5;9m"
    assert sgr("#ff0000", Depth.INDEXED) == "\x1b[38;5;196m"
    assert sgr("") == ""
    with pytest.raises(ValueError, match="unknown style"):
        sgr("loud")


# Output


@pytest.fixture(autouse=True)
def no_color_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def emitted(thing: object, fmt: Format, out: io.StringIO | None = None, width: int | None = None) -> str:
    out = out if out is not None else io.StringIO()
    emit(thing, fmt, out, width)
    return out.getvalue()


def test_a_pipe_gets_all_of_it_and_a_terminal_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    piped = emitted(stnkd(), Format.table)
    assert piped.splitlines() == list(layout.lines(stnkd()))
    on_terminal = emitted(stnkd(), Format.table, Terminal())
    assert "\x1b[" in on_terminal
    plain_lines = [line.rstrip() for line in ESCAPE.sub("", on_terminal).splitlines()]
    assert plain_lines == list(layout.lines(stnkd(), 80))
    assert emitted(stnkd(), Format.table, width=60).splitlines() == list(layout.lines(stnkd(), 60))


def test_a_long_table_looks_the_same_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    table = stnkd()
    few, many = (Table(table.columns, [*table.rows] * n) for n in (50, 51))
    shown = [
        [ESCAPE.sub("", line).rstrip() for line in emitted(t, Format.table, Terminal()).splitlines()]
        for t in (few, many)
    ]
    assert [line for line in shown[1] if line not in shown[0]] == []


def test_numbers_wider_than_the_terminal_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table((Column("n", justify="right"),), [("1" * 60,)])
    assert "1" * 60 in emitted(table, Format.table, Terminal())


def test_color_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wants_color(Terminal())
    assert not wants_color(io.StringIO())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert wants_color(io.StringIO())
    assert "\x1b[" in emitted(stnkd(), Format.table)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_color(Terminal())
    assert "\x1b" not in emitted(stnkd(), Format.table, Terminal())


def test_room_is_the_terminals_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("LINES", "30")
    assert terminal_size(Terminal()) == (90, 30)
    assert terminal_size(Terminal(), 50) == (50, 30)
    assert terminal_size(io.StringIO()) == (None, None)


def test_an_encoding_without_line_drawing_still_gets_the_table() -> None:
    buffer = io.BytesIO()
    out = io.TextIOWrapper(buffer, encoding="ascii")
    emit(Table((Column("name"),), [("é → 卷",)]), Format.table, out)
    out.flush()
    assert buffer.getvalue() == b"name\n------\n\\xe9 > \\u5377\n"


def test_csv_has_machine_names_and_values() -> None:
    rows = list(csv.DictReader(io.StringIO(emitted(stnkd(), Format.csv))))
    assert rows[0]["shape"] == "(64, 64, 1)"
    assert rows[0]["nbytes"] == "16640"
    assert rows[3]["kernel_size"] == ""
    assert rows[0]["bias"] == "true"
    assert rows[0]["notes"] == "pointwise; assumed stride=1"
    table = Table((Column("a"), Column("b")), [("x", "y")], raw=[(math.nan, 'q"\n\x1b,')])
    assert emitted(table, Format.csv) == 'a,b\nNaN,"q""\\x0a\\x1b,"\n'


def test_markdown_shows_text_as_it_is() -> None:
    assert markdown("a|b *c* <d> `e` _f_ self_attn [g] \\ &amp; &") == (
        r"a\|b \*c\* &lt;d> \`e\` \_f\_ self_attn \[g\] \\ &amp;amp; &"
    )
    lines = emitted(stnkd(), Format.md).splitlines()
    assert lines[0] == "**pointnet_stnkd.pt**"
    assert lines[2].startswith("| name")
    assert len({line.count("|") for line in lines[2:10]}) == 1
    assert re.fullmatch(r"\|( -+:? \|)+", lines[3])


@settings(max_examples=times(40, 100), deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(exclude_categories=()))),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.text(st.characters(exclude_categories=())), inner, max_size=4),
        ),
        max_leaves=12,
    )
)
def test_json_reads_back_and_prints_safely(payload: object) -> None:
    text = "".join(json_text(payload))
    assert json.loads(text, parse_constant=pytest.fail) == finite(payload)
    assert all(c.isprintable() or c == "\n" for c in text)


def finite(value: object) -> object:
    """The payload as JSON can say it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, list):
        return list(map(finite, value))
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return value


def test_blocks_are_preformatted_text_in_markdown_and_tables_stay_tables() -> None:
    block = Block(("x", Styled("*a*", "bold")), "a title", ("a note", Styled("more", "dim")))
    table = Table((Column("n"),), [("1",)])
    text = emitted([block, table, Block(("y",))], Format.md)
    assert text.startswith("**a title**\n\n```text\n")
    assert "*a*\n```\n" in text, "what is preformatted is not escaped"
    assert "\na note\n" in text
    assert "| n   |\n| --- |\n| 1   |" in text
    assert text.endswith("\n\n```text\ny\n```\n")
    with pytest.raises(TypeError, match="a Block has no columns"):
        emitted([table, block], Format.csv)


def test_a_blank_line_parts_what_is_shown_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    things = [Block(("x",), "one"), Block(("y",), "two")]
    piped = emitted(things, Format.table)
    assert piped.splitlines().count("") >= 1
    on_terminal = [line.rstrip() for line in ESCAPE.sub("", emitted(things, Format.table, Terminal())).splitlines()]
    assert on_terminal == [line.rstrip() for line in piped.splitlines()]


def test_json_takes_tuples_and_arrays_and_keeps_shapes_on_one_line() -> None:
    payload = {"shape": (64, 64, 1), "values": np.array([[1.5, np.nan]], np.float32), "n": np.int64(3), "none": []}
    text = "".join(json_text(payload))
    assert '"shape": [64, 64, 1],\n' in text
    assert json.loads(text) == {"shape": [64, 64, 1], "values": [[1.5, "NaN"]], "n": 3, "none": []}


def test_emit_refuses_what_it_cannot_write() -> None:
    with pytest.raises(TypeError, match="neither a Table nor a Block"):
        emitted({"a": 1}, Format.table)
    with pytest.raises(TypeError, match="no columns"):
        emitted(Block(("x",)), Format.csv)


# Pictures


@pytest.mark.parametrize("suffix", [".svg", ".html", ".md", ".txt", ".csv", ".json"])
def test_every_kind_of_picture_holds_the_table(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"shapes{suffix}"
    path.write_text("old")
    save(stnkd(), path, title="{shapes} <1>")
    text = path.read_text(encoding="utf-8")
    assert "1024" in text
    assert "conv3" in text
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_svg_is_well_formed_and_needs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    save([stnkd("卷积."), Block((Styled("▀▄█", "red on blue"),))], path, title="a & b <c>")
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "卷积.conv1" in words
    assert "a & b <c>" in words
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text)


def test_a_narrow_picture_has_its_whole_title(tmp_path: Path) -> None:
    narrow, title = Block(("▀▄█",)), "convinspect weights a_model_with_a_long_name.pt"
    words = []
    for name, width in (("a.svg", None), ("b.svg", 30)):
        save(narrow, tmp_path / name, title=title, width=width)
        root = ElementTree.fromstring((tmp_path / name).read_text(encoding="utf-8"))
        words.append([node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")])
    assert title in words[0]
    # A width that was asked for is kept.
    assert title not in words[1]
    assert any("…" in word for word in words[1])


def test_html_needs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    save(stnkd(), path, title="<script>{x}")
    text = path.read_text(encoding="utf-8")
    assert "<title>&lt;script&gt;{x}</title>" in text
    assert not re.search(r"https?://|@import|url\(|<script|<link", text)


def test_other_suffixes_are_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(CannotShow, match=r"\.svg, \.html, \.png, \.gif, \.md, \.txt, \.csv or \.json"):
        save(stnkd(), tmp_path / "a.pdf")
    with pytest.raises(CannotShow, match="cannot be written"):
        save(stnkd(), tmp_path / "none" / "a.svg")
    with pytest.raises(CannotShow, match="no rows"):
        save(Block(("x",)), tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == []


# Matrices


def test_a_kernel_is_as_kept() -> None:
    shown = list(layout.lines(matrix_table(kernel(), 80, 24), 80))
    assert "\n".join(shown) + "\n" == (GOLDEN / "view_matrix_80x24.txt").read_text(encoding="utf-8")
    assert len(shown) < 24
    assert shown == by_rich(matrix_table(kernel(), 80, 24), 80)


@settings(max_examples=times(40, 100), deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(40, 140), st.integers(8, 60), st.booleans(), st.data())
def test_a_matrix_fits_and_its_numbers_are_whole(
    rows: int, columns: int, width: int, height: int, with_bias: bool, data: st.DataObject
) -> None:
    magnitude = data.draw(st.sampled_from([1e-8, 0.01, 1.0, 3e4, 1e30]))
    values = (np.random.default_rng(rows * columns).normal(size=(rows, columns)) * magnitude).tolist()
    view = MatrixView(
        lambda i, j: values[i][j],
        [f"out {i}" for i in range(rows)],
        [f"in {i}" for i in range(columns)],
        bias=[v[0] for v in values] if with_bias else None,
    )
    table = matrix_table(view, width, height)
    shown = list(layout.lines(table, width))
    assert max(map(cell_width, shown)) <= width
    assert len(shown) <= max(height, 10)
    assert len(fit(table, width).columns) == len(table.columns)
    names = {f"in {j}": j for j in range(columns)}
    for row in table.rows:
        name = plain(row[0]).strip()
        for column, cell in zip(table.columns, row, strict=True):
            if name.startswith("out") and column.machine_name in names:
                true = values[int(name[4:])][names[column.machine_name]]
                assert float(plain(cell)) == pytest.approx(true, rel=1e-3, abs=magnitude * 2e-3)


def test_all_of_a_matrix_goes_to_a_pipe_and_to_csv() -> None:
    table = matrix_table(kernel())
    assert (len(table.rows), len(table.columns)) == (64, 66)
    rows = list(csv.reader(io.StringIO(emitted(machine_table(kernel()), Format.csv))))
    assert rows[0][:2] == ["row", "in 0"]
    assert len(rows) == 65
    assert (rows[1][2], rows[2][3]) == ("NaN", "-Infinity")
    values = kernel().values
    assert not callable(values)
    assert float(rows[40][7]) == values[39][6]


def test_zeros_are_told_from_small_numbers_and_points_are_aligned() -> None:
    view = MatrixView([[0.0, 12.5], [1e-9, -3.25]], ["a", "b"], ["x", "y"])
    shown = list(layout.lines(matrix_table(view)))
    assert shown[2:] == ["a  0     12.50", "b  0.00  -3.25"]


@pytest.mark.parametrize(
    ("values", "first"),
    [
        ([[1, -20]], "a  1  -20"),
        ([[123456.0]], "a  1.235e+05"),
        ([[1e-4]], "a  1.000e-04"),
        ([[99999.0]], "a  99999"),
        ([[math.nan, math.inf]], "a  nan  inf"),
        ([[0.5]], "a  0.5000"),
    ],
)
def test_decimals_follow_the_largest_magnitude(values: list[list[float]], first: str) -> None:
    view = MatrixView(values, ["a"], ["x", "y"][: len(values[0])])
    assert next(line for line in list(layout.lines(matrix_table(view)))[2:]) == first


def test_a_heatmap_shows_signs_means_and_what_is_not_finite() -> None:
    values = np.zeros((8, 8), np.float32)
    values[:4, :4], values[4:, 4:], values[0, 7] = 1, -1, np.nan
    block = heatmap(values, 4, 8, color=False)
    assert [plain(line) for line in block.lines[:2]] == ["## ?", "  ≡≡"]
    assert "each cell is the mean of about 4 × 2" in " ".join(map(plain, block.notes))
    colored = heatmap(values, 80, 40)
    assert {len(plain(line)) for line in colored.lines[: colored.lines.index("")]} == {64}
    styles = [piece.style for line in colored.lines for piece in pieces(line)]
    assert any("#ff00ff" in style for style in styles)
    assert list(map(plain, heatmap(np.zeros((0, 3))).notes)) == ["no values"]


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("width", [40, 50, 80, 100])
def test_a_heatmaps_legend_fits_and_says_only_what_is_there(width: int, color: bool) -> None:
    def legend(values: object) -> str:
        block = heatmap(np.array(values), width, 20, color)
        assert max(cell_width(plain(line)) for line in block.lines) <= width
        lines = list(map(plain, block.lines))
        return " ".join(lines[-lines[::-1].index("") :])

    full = legend([[-1.234e-21, 3.456e-21, 0.5e-21]])
    assert "3.456e-21" in full
    assert "finite" not in full
    mixed = legend([[np.nan, 1.5]])
    assert "not finite" in mixed
    assert "1.5" in mixed
    alone = legend([[np.nan, np.inf]])
    assert "no finite value" in alone
    assert "0" not in alone
    assert legend(np.zeros((3, 3))) == "all values are 0"
    assert "all others are 0" in legend([[0.0, np.inf]])


def test_a_heatmap_without_colour_fits_the_screen() -> None:
    for height in (12, 20, 48):
        block = heatmap(np.random.default_rng(0).standard_normal((100, 100)), 60, height, color=False)
        assert len(block.lines) + len(block.notes) + 3 <= height


def test_a_heatmap_takes_any_real_dtype() -> None:
    import ml_dtypes

    for dtype in (np.int8, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.bool_):
        block = heatmap(np.eye(6).astype(dtype), color=False)
        assert plain(block.lines[0]) == "##"
        assert plain(block.lines[5]) == " " * 10 + "##"


def test_a_sparkline_shows_tails_and_gaps() -> None:
    assert sparkline([0, 1, 100, 25, 0]) == " ▁▇▄ "
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "  "


def test_columns_that_must_be_shown_go_below_the_row() -> None:
    columns = (
        Column("name", elide=True, priority=9, min_width=20),
        Column("shape", priority=8, never_hidden=True),
        Column("rounding", priority=7),
        Column("notes", priority=2, wrap=True, never_hidden=True, min_width=14),
    )
    rows = [("a" * 30, "(8, 8, 3, 3)", "1.0e-05", "no reshaping fixes it"), ("b", "(1,)", "0", "")]
    drawn = list(layout.lines(Table(columns, rows), 32))
    assert drawn[:3] == ["name", "  shape         rounding", "  notes"]
    assert drawn[4:9] == ["a" * 30, "  (8, 8, 3, 3)  1.0e-05", "  no reshaping fixes it", "b", "  (1,)          0"]
    assert not any("hidden" in line for line in drawn)
