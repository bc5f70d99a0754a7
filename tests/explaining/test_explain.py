"""`explain`: the numbers are PyTorch's, what is printed adds up, and the drawing fits."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import convinspect
from convinspect.errors import CannotShow
from convinspect.explaining.data import read_rows
from convinspect.explaining.example import adds_up, built_in, decimals, decimals_of_terms, example, sum_of
from convinspect.render.cells import cell_width
from convinspect.render.plain_table import block_cells
from convinspect.render.table import Block, plain
from convinspect.showing.explain import cell_focus, frame, row_focus
from convinspect.showing.explain_layouts import layouts
from support.in_process import call_main
from support.paths import FIXTURES
from support.program import assert_one_line, run
from support.saving import layer_of


def text_of(block: Block) -> str:
    return "\n".join(plain(line) for line in block_cells(block))


def test_the_built_in_example_is_what_torch_computes() -> None:
    made = built_in(5)
    conv = nn.Conv1d(3, 6, 1, dtype=torch.float64)
    conv.load_state_dict({"weight": torch.tensor(made.w).double(), "bias": torch.tensor(made.b).double()})
    x = torch.tensor(made.x, dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(made.f, dtype=torch.float64), conv(x.T).T.detach(), rtol=1e-6, atol=1e-6)
    assert len(made.f) == 5
    assert len(made.f[0]) == 6


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_terms_as_printed_add_up_to_the_result_as_printed(data: st.DataObject) -> None:
    """Read back from the page: products and bias, added, are the result to its last decimal."""
    wide_in, wide_out, taps = (data.draw(st.integers(1, most)) for most in (12, 5, 3))
    seed = data.draw(st.integers(0, 2**20))
    scale = 10.0 ** data.draw(st.integers(-6, 4))
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(wide_out, wide_in, taps, generator=generator, dtype=torch.float64) * scale
    bias = torch.randn(wide_out, generator=generator, dtype=torch.float64) * scale if data.draw(st.booleans()) else None
    x = torch.randn(5, wide_in, generator=generator, dtype=torch.float64)
    made = example("layer", "Conv1d", tuple(weight.shape), weight, bias, x)
    row, kernel = data.draw(st.integers(0, len(made.f) - 1)), data.draw(st.integers(0, wide_out - 1))
    one = sum_of(made, row, kernel)
    torch.testing.assert_close(
        torch.tensor(sum(a * b for _, _, a, b in one.terms) + (one.bias or 0.0)), torch.tensor(one.result)
    )
    digits = decimals(made)
    more = decimals_of_terms([one], digits)
    assert adds_up(one, digits, more)
    page = text_of(frame(made, cell_focus(row, kernel), False, 4000, [one], (digits, more)))
    lines = page.splitlines()
    result = max(n for n, line in enumerate(lines) if re.fullmatch(r" +=\s-?[\d.]+", line))
    terms = [Decimal(word) for word in re.findall(r"-?[\d.]+", lines[result - 2].partition("=")[2])]
    assert abs(sum(terms) - Decimal(lines[result].split()[-1])) * 2 < Decimal(1).scaleb(-digits)


@pytest.mark.parametrize("width", [40, 80, 118, 160])
@pytest.mark.parametrize("linear", [False, True])
def test_every_frame_fits(width: int, linear: bool) -> None:
    made = built_in(4)
    sums = [sum_of(made, 1, kernel) for kernel in range(6)]
    page = text_of(frame(made, row_focus(1, 2), linear, width, sums, (2, 2)))
    assert max(map(cell_width, page.splitlines())) <= width
    assert page.count("▸") == 2
    assert "[-0.70]" in page
    if width >= 118:
        assert any("X, data" in line and "result" in line for line in page.splitlines())


def test_a_step_fits_the_usual_terminal() -> None:
    """24 lines of 80 cells hold panels, arithmetic and the line of keys, also of wide layers and many rows."""
    generator = torch.Generator().manual_seed(1)
    weight, data = (torch.randn(*size, dtype=torch.float64, generator=generator) for size in ((40, 24, 1), (30, 24)))
    wide = example("wide", "Conv1d", (40, 24, 1), weight, None, data)
    for made in (built_in(4), built_in(30), wide):
        one = sum_of(made, 2, 3)
        block = frame(made, cell_focus(2, 3), False, 80, [one], (2, 2), height=23)
        lines = text_of(block).splitlines()
        assert len(lines) <= 23
        assert max(map(cell_width, lines)) <= 80
        assert lines[-1].split() == ["=", f"{one.result:.2f}"]


def test_nothing_moves_from_step_to_step() -> None:
    made = built_in(4)
    pages = [text_of(frame(made, cell_focus(i, j), False, 118, [], (2, 2))) for i in range(4) for j in range(6)]
    places = {tuple(page.splitlines()[3].index(f"f{j}") for j in range(6)) for page in pages}
    assert len(places) == 1


def test_a_layer_of_many_weights_is_elided() -> None:
    done = run("explain", FIXTURES / "pointnet_stnkd.pt", "fc3", "--width", "80")
    assert done.returncode == 0, done.stderr
    assert "⋮" in done.stdout
    weight = torch.randn(60, 1024, 1, dtype=torch.float64)
    made = example("wide", "Linear", (60, 1024), weight, None, torch.randn(3, 1024, dtype=torch.float64))
    one = sum_of(made, 0, 31)
    page = text_of(frame(made, cell_focus(0, 31), True, 80, [one], (2, 4)))
    assert max(map(cell_width, page.splitlines())) <= 80
    assert "(1019 more)" in page


def test_done_cells_are_filled_and_the_rest_dotted() -> None:
    made = built_in(4)
    page = text_of(frame(made, cell_focus(1, 2), False, 160, [], (2, 2)))
    rows = [
        line.partition("kernel")[2] or line for line in page.splitlines() if re.search(r"row [0-3] .*row [0-3]", line)
    ]
    dots = [line.count("·") for line in rows]
    assert dots == [0, 3, 6, 6]


def test_both_layouts_and_a_sliding_kernel() -> None:
    made = built_in(4)
    page = text_of(layouts(made, row_focus(0, 0), 160, 2))
    assert "(C, L) = (3, 4)" in page
    assert "(out, in, 1)" in " ".join(page.split())
    assert "Linear takes (L, C) = (4, 3)" in page
    assert "the same to within 1e-15, which is rounding" in " ".join(page.split())
    assert made.y is not None
    torch.testing.assert_close(torch.tensor(made.f), torch.tensor(made.y))
    weight = torch.randn(2, 3, 3, dtype=torch.float64)
    wide = example("conv", "Conv1d", (2, 3, 3), weight, None, torch.randn(5, 3, dtype=torch.float64))
    page = text_of(layouts(wide, row_focus(0, 0), 160, 2))
    assert "3 positions wide" in page
    page = text_of(frame(wide, cell_focus(1, 0), False, 160, [sum_of(wide, 1, 0)], (2, 4)))
    assert page.count("▸") == 6


@pytest.mark.parametrize("arguments", [[], ["--as", "linear"], ["--as", "both"], ["--row", "1", "--kernel", "4"]])
def test_the_command_draws_three_rows(arguments: list[str]) -> None:
    done = run("explain", *arguments)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^row (\d) of 0–3", done.stdout, re.MULTILINE)
    assert rows == (["1"] if "--row" in arguments else ["0", "1", "3"])
    assert "6 kernels, so 6 columns" in done.stdout
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("pointnet_stnkd.pt", "conv1"),
        ("pointnet_stnkd.pt", "fc1"),
        ("gpt2_names.pt", "transformer.h.0.attn.c_attn"),
        ("weight_norm_old.pt", "conv"),
    ],
)
def test_a_files_layer_is_drawn_as_torch_computes_it(tmp_path: Path, name: str, layer: str) -> None:
    done = run("explain", FIXTURES / name, layer, "--rows", "5", "-o", tmp_path / "x.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "x.json").read_text())
    x, w = torch.tensor(found["x"]).double(), torch.tensor(found["weight"]).double()
    bias = None if found["bias"] is None else torch.tensor(found["bias"]).double()
    wanted = nn.functional.conv1d(x.T[None], w, bias)[0].T
    torch.testing.assert_close(torch.tensor(found["result"]).double(), wanted, rtol=1e-5, atol=1e-5)


def test_data_come_from_files(tmp_path: Path) -> None:
    import numpy as np

    data = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    np.savetxt(tmp_path / "x.csv", data, delimiter=",")
    np.save(tmp_path / "x.npy", data)
    torch.save({"x": torch.from_numpy(data)}, tmp_path / "x.pt")
    pages = [run("explain", "-i", tmp_path / f"x.{suffix}").stdout for suffix in ("csv", "npy", "pt")]
    assert pages[0] == pages[1] == pages[2]
    assert "[0.60]" in pages[0]


def test_the_page_has_every_step_and_loads_nothing(tmp_path: Path) -> None:
    done = run("explain", "-o", tmp_path / "x.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert page.count("<pre id=") == 24
    assert not re.search(r"https?://|src=|@import|url\(", page)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--row", "9"], "there is no row 9; they count from 0 to 3"),
        (["--row", "4"], "there is no row 4; they count from 0 to 3"),
        (["--kernel", "6"], "there is no kernel 6; they count from 0 to 5"),
        ([FIXTURES / "pointnet_stnkd.pt"], "no layer is named; name one: conv1, conv2, conv3 and 3 more"),
        ([FIXTURES / "pointnet_stnkd.pt", "--patches"], "no layer is named; name a convolution that cuts patches"),
        ([FIXTURES / "pointnet_stnkd.pt", "bn1"], "only convolutions and Linear"),
        ([FIXTURES / "pointnet_stnkd.pt", "conv9"], "the closest are"),
        ([FIXTURES / "pointnet_stnkd.pt", "conv*"], "means 3 layers"),
        ([FIXTURES / "grouped_module.pt", "groups"], "groups=2"),
        (["-i", "gone.csv"], "no such file"),
        (["-i", __file__], "git-lfs|no checkpoint|not a checkpoint|neither|is no"),
    ],
)
def test_wrong_wishes_get_one_line(arguments: list[object], line: str) -> None:
    done = run("explain", *arguments)
    assert done.returncode == 2
    assert re.search(line, done.stderr) or str(arguments[-1]) == __file__
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_wrong_columns_get_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2\n3,4\n")
    done = run("explain", "-i", tmp_path / "x.csv")
    assert done.returncode == 2
    assert "the data are 2 × 2, and conv1 takes 3 columns" in done.stderr
    (tmp_path / "x.csv").write_text("1,2\n3,b\n")
    assert "no matrix of numbers" in run("explain", "-i", tmp_path / "x.csv").stderr


def test_keys_move_through_the_cells() -> None:
    from convinspect.cli.player import moved

    keys = ("\x1b[C", " ", "\x1b[D", "2", "9", "q")
    assert [moved(key, 2, (3, 2))[0] for key in keys] == [3, 3, 1, 4, 2, -1]
    assert moved("\x1b[C", 5, (3, 2)) == (5, "")
    assert moved("\x1b[D", 0, (3, 2)) == (0, "")
    assert moved("0", 5, (3, 2)) == (0, "0")
    assert moved("1", 0, (12, 2)) == (2, "1")
    assert moved("1", 2, (12, 2), "1") == (22, "11"), "a row's number may have two digits"
    assert moved("2", 2, (12, 2), "1") == (4, "2"), "there is no row 12"


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("more", [[], ["--as", "both"]])
def test_sentences_and_layouts_fit_too(width: int, more: list[str]) -> None:
    done = run("explain", "--width", width, *more)
    assert done.returncode == 0, done.stderr
    assert max(map(cell_width, done.stdout.splitlines())) <= width
    said = " ".join(done.stdout.split())
    assert "6 columns: each number is the dot product of a row of X and a kernel, plus the kernel's bias." in said
    if more:
        assert "the same to within 1e-15, which is rounding" in said
        assert "Y5" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kernel_size": 3, "dilation": 2}, "its dilation 2;"),
        ({"kernel_size": 3, "padding": 1}, "its padding 1;"),
        ({"kernel_size": 3, "padding": "same"}, "its padding same;"),
        ({"kernel_size": 1, "padding": 1, "stride": 2}, "its stride 2 and padding 1;"),
        ({"kernel_size": 1, "padding": "same", "dilation": 4}, ""),
    ],
)
def test_what_the_drawing_leaves_out_is_said_everywhere(tmp_path: Path, options: Any, said: str) -> None:
    torch.save(nn.Sequential(nn.Conv1d(3, 4, **options)), tmp_path / "m.pt")
    pages = [run("explain", tmp_path / "m.pt", "0", "--rows", "9").stdout]
    run("explain", tmp_path / "m.pt", "0", "--rows", "9", "-o", tmp_path / "x.html")
    pages.append((tmp_path / "x.html").read_text(encoding="utf-8"))
    for page in pages:
        if said:
            assert f"left out of the drawing: {said}" in " ".join(page.split())
        else:
            assert "left out of the drawing" not in page
        assert "assumed" not in page
        assert ("a window of 3 neighbouring rows" in " ".join(page.split())) == (options["kernel_size"] == 3)


def test_a_bias_is_spoken_of_where_there_is_one(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv1d(3, 4, 1, bias=False), nn.Linear(3, 4)), tmp_path / "m.pt")
    without, with_one = (" ".join(run("explain", tmp_path / "m.pt", name).stdout.split()) for name in "01")
    assert "each number is the dot product of a row of X and a kernel. " in f"{without} "
    assert "each number is the dot product of a row of X and a kernel, plus the kernel's bias." in with_one


def test_a_state_dict_does_not_tell_and_that_is_said(tmp_path: Path) -> None:
    assert (
        "are assumed, which a state_dict does not record"
        in run("explain", FIXTURES / "pointnet_stnkd.pt", "conv1").stdout
    )
    assert "assumed" not in run("explain", FIXTURES / "pointnet_stnkd.pt", "fc1").stdout


def test_a_wide_kernel_is_no_linear(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv1d(3, 4, 3)), tmp_path / "m.pt")
    done = run("explain", tmp_path / "m.pt", "0", "--as", "linear")
    assert done.returncode == 2
    assert "0 has a kernel of size 3, which no Linear is" in done.stderr
    assert "b0 = " in run("explain", tmp_path / "m.pt", "0", "--rows", "5").stdout


def test_the_page_has_both_layouts_when_asked(tmp_path: Path) -> None:
    run("explain", "--as", "both", "-o", tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert page.count("Linear takes (L, C) = (4, 3)") == page.count("<pre id=") == 24
    assert page.count("6 kernels, so 6 columns") == 24


def test_what_is_elided_is_counted() -> None:
    said = run("explain", FIXTURES / "pointnet_stnkd.pt", "conv3", "--rows", "30", "--width", "80").stdout
    assert re.search(r"left out: \d+ rows of X, \d+ columns of X, \d+ kernels", said)
    assert "left out" not in run("explain").stdout


def test_names_above_the_numbers_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("x,y,z\n1,0,0\n0,1,0\n")
    assert "[0.60]" in run("explain", "-i", tmp_path / "x.csv").stdout
    (tmp_path / "x.csv").write_text("\n")
    done = run("explain", "-i", tmp_path / "x.csv")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "it is empty" in done.stderr
    (tmp_path / "x.csv").write_text("1,2\n3,4\n")
    assert "x.csv: the data are 2 × 2" in run("explain", "-i", tmp_path / "x.csv").stderr


def test_a_line_of_names_alone_is_no_matrix(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("x,y,z\n")
    with pytest.raises(CannotShow, match="no matrix of numbers"):
        read_rows(tmp_path / "x.csv")


def test_numbers_that_are_not_finite_are_drawn_too(tmp_path: Path) -> None:
    weight = torch.tensor([[[float("inf")], [1.0]], [[float("nan")], [2.0]], [[1.0], [0.5]]], dtype=torch.float64)
    made = example("layer", "Conv1d", (3, 2, 1), weight, None, torch.ones(2, 2, dtype=torch.float64))
    for kernel, shown in ((0, "inf"), (1, "nan"), (2, "1.50")):
        one = sum_of(made, 0, kernel)
        digits = decimals(made)
        page = text_of(
            frame(made, cell_focus(0, kernel), False, 118, [one], (digits, decimals_of_terms([one], digits)))
        )
        assert shown in page.splitlines()[-1]


def test_fewer_rows_than_a_kernel_sees_are_refused() -> None:
    weight = torch.ones(2, 3, 5, dtype=torch.float64)
    with pytest.raises(CannotShow, match="the data have 4 rows, and a kernel of layer sees 5 at once"):
        example("layer", "Conv1d", (2, 3, 5), weight, None, torch.ones(4, 3, dtype=torch.float64))


def test_kernels_of_more_dimensions_are_explained_where_they_are_pointwise(tmp_path: Path) -> None:
    from convinspect.explaining.example import of_layer

    plane, wide = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3)
    made = of_layer(layer_of(tmp_path, plane), None, 4, 0)
    expected = nn.functional.linear(torch.tensor(made.x), plane.weight.detach()[:, :, 0, 0], plane.bias.detach())  # type: ignore[union-attr]
    torch.testing.assert_close(torch.tensor(made.f), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(CannotShow, match="layer is a Conv2d of kernel size 3×3"):
        of_layer(layer_of(tmp_path, wide), None, 4, 0)


@pytest.mark.parametrize("shape", [(4, 0, 1), (0, 3, 1), (4, 3, 0), (4, 0, 3), (0, 4, 3), (4, 0), (0, 3), (4, 0, 1, 1)])
def test_a_weight_without_numbers_gets_one_line(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "empty.pt"
    torch.save({"x.weight": torch.ones(shape), "x.bias": torch.ones(shape[0])}, path)
    for more in ([], ["--as", "both"], ["--row", "1", "--kernel", "1"], ["-o", tmp_path / "x.html"]):
        done = run("explain", path, "x", *more)
        assert_one_line(done, "empty.pt: x has a weight of " + " × ".join(map(str, shape)), "no numbers to draw")
        assert done.stdout == ""
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (0, 0)])
def test_data_without_numbers_get_one_line(tmp_path: Path, shape: tuple[int, ...]) -> None:
    torch.save(torch.ones(shape), tmp_path / "x.pt")
    assert_one_line(run("explain", "-i", tmp_path / "x.pt"), "x.pt: the data ")


@pytest.mark.parametrize("more", [[], ["--patches"], ["--as", "both"]])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_everything_counts_from_0_as_pytorch_does(more: list[str], lang: str, tmp_path: Path) -> None:
    """What is numbered in the drawing is numbered from 0 to one less than there are: as in the weight's own indices."""
    size = {"row": 4, "patch": 4, "channel": 3, "kernel": 6, "x": 3, "w": 3, "a": 3, "f": 6, "Y": 6, "tap": 1}
    if more == ["--patches"]:
        size |= {"channel": 2, "kernel": 3, "x": 4, "a": 8, "Y": 3}
    words = (
        {"row": "行", "patch": "图像块", "channel": "通道", "kernel": "卷积核", "tap": "位置"} if lang == "zh" else {}
    )
    said = call_main("explain", *more, "--lang", lang, "--width", "160").out
    for name, count in size.items():
        word = words.get(name, name)
        found = set(map(int, re.findall(rf"(?<![\w·]){word} ?(\d+)(?![,\d]|[–-]\d)", said)))
        assert found <= set(range(count)), word
        assert found == set() or {0, count - 1} <= found, word
    weight = torch.tensor(convinspect.explain(patches="--patches" in more).w)
    last = tuple(size - 1 for size in weight.shape[:2])
    ended = call_main("explain", *more, "--lang", lang, "--row", "3", "--kernel", str(last[0]), "--width", "160")
    assert f"[3,{last[0]}] = " in ended.out
    letter = "a" if more == ["--patches"] else "w"
    (symbols,) = re.findall(r"\[3,\d\] = (.*)", ended.out)
    assert f"{letter}{last[0]},{last[1]} + b{last[0]}" in symbols
    for option, count in (("--row", 4), ("--kernel", len(weight))):
        assert f"they count from 0 to {count - 1}" in call_main("explain", *more, option, str(count)).err
