"""`explain --patches`: both forms are PyTorch's, they are compared, and what is drawn is what was computed."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convinspect.errors import CannotShow
from convinspect.explaining.example import Example, check_same, decimals, decimals_of_terms, sum_of
from convinspect.explaining.patches import built_in_patches, patch_example
from convinspect.modules.patches import Patches
from convinspect.render.cells import cell_width
from convinspect.render.plain_table import block_cells
from convinspect.render.table import Block, plain
from convinspect.showing.explain import cell_focus, row_focus
from convinspect.showing.explain_steps import drawer
from support.paths import FIXTURES
from support.program import assert_one_line, run
from support.sampling import some, times

QWEN = FIXTURES / "qwen2_vl.safetensors"
CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
WIDTHS = [40, 50, 60, 80, 100, 120, 160]


def text_of(block: Block) -> str:
    return "\n".join(plain(line) for line in block_cells(block))


def drawn(made: Example, row: int, kernel: int, width: int, height: int | None = None) -> str:
    return text_of(drawer(made, True, width, height)(cell_focus(row, kernel), [kernel]))


def example_of(conv: Any, image: torch.Tensor) -> Example:
    bias = None if conv.bias is None else conv.bias.detach()
    return patch_example("proj", type(conv).__name__, conv.weight.shape, conv.weight.detach(), bias, image)


@st.composite
def layers(draw: Any) -> tuple[Any, torch.Tensor]:
    """A convolution over patches in float64, and an image that it may have to crop."""
    dims = draw(st.integers(1, 3))
    patch = tuple(draw(st.lists(st.integers(1, 5), min_size=dims, max_size=dims)))
    channels, outs = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    sizes = [step * draw(st.integers(1, 4)) + draw(st.integers(0, step - 1)) for step in patch]
    torch.manual_seed(draw(st.integers(0, 2**20)))
    conv = CONVS[dims](channels, outs, patch, stride=patch, bias=draw(st.booleans()), dtype=torch.float64)
    return conv, torch.randn(channels, *sizes, dtype=torch.float64) * 10.0 ** draw(st.integers(-3, 3))


@settings(deadline=None, max_examples=100)
@given(layers())
def test_both_forms_are_those_of_pytorch(case: tuple[Any, torch.Tensor]) -> None:
    conv, image = case
    made = example_of(conv, image)
    dims = image.dim() - 1
    expected = conv(image[None])[0].detach()
    assert made.image is not None
    assert made.image.grid[-dims:] == expected.shape[1:]
    for results in (made.f, made.y):
        found = torch.tensor(results, dtype=torch.float64).T.reshape(expected.shape)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    if dims == 2:
        rows = nn.functional.unfold(image[None], conv.kernel_size, stride=conv.stride)[0].T
        assert torch.equal(torch.tensor(made.x, dtype=torch.float64), rows)
    places = [made.image.place(row) for row in range(len(made.x))]
    assert len(set(places)) == math.prod(made.image.grid) == len(places)


@settings(deadline=None, max_examples=times(25, 60))
@given(layers(), st.data())
def test_every_drawing_fits_and_adds_up(case: tuple[Any, torch.Tensor], data: st.DataObject) -> None:
    made = example_of(*case)
    row = data.draw(st.integers(0, len(made.x) - 1))
    kernel = data.draw(st.integers(0, len(made.w) - 1))
    page = drawn(made, row, kernel, data.draw(st.sampled_from([80, 120, 200])))
    one = sum_of(made, row, kernel)
    result = re.sub(r"^-(0\.0*)$", r"\1", f"{one.result:.{decimals(made)}f}")
    assert page.splitlines()[-1].split() == ["=", result]
    assert decimals_of_terms([one], decimals(made)) < 20
    assert f"patch {row} of 0–{len(made.x) - 1}: " in page
    # Both forms have the active result in brackets, in the grid and in its row.
    assert page.count("[") == 3


# --- the comparison


def test_a_difference_of_one_rounding_is_the_same_and_more_is_not() -> None:
    f = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    # One row, (1, 1), whose sums over absolute values are the results themselves.
    linear = torch.ones(1, 2, dtype=torch.float64), torch.tensor([[0.5, 0.5], [1.0, 1.0]], dtype=torch.float64), None
    check_same(f, torch.nextafter(f, f + 1), linear, "proj")
    for other in (f + torch.tensor([0.0, 1e-12]), f * torch.tensor([1.0, math.nan]), f.flip(1)):
        with pytest.raises(CannotShow, match="convolution and Linear give other numbers for proj"):
            check_same(f, other, linear, "proj")
    nowhere = torch.tensor([[math.inf, math.nan]], dtype=torch.float64)
    check_same(nowhere, nowhere, (linear[0], nowhere.T.expand(2, 2), None), "proj")


def test_another_order_of_flattening_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels last, the usual mistake: the drawing is refused."""
    right = Patches.rows

    def channels_last(self: Patches, x: torch.Tensor) -> torch.Tensor:
        rows = right(self, x)
        return rows.reshape(*rows.shape[:-1], x.shape[-3], -1).mT.flatten(-2)

    monkeypatch.setattr(Patches, "rows", channels_last)
    with pytest.raises(CannotShow, match=r"give other numbers for patch_embed: \d\.\de[+-]\d+ apart, where rounding"):
        built_in_patches(None, 4)


@pytest.mark.parametrize("patches", [True, False])
@pytest.mark.parametrize("name", ["linear", "conv"])
def test_a_result_that_is_off_is_found_out(monkeypatch: pytest.MonkeyPatch, name: str, patches: bool) -> None:
    import convinspect
    from convinspect.explaining import patches as module

    def off(right: Any) -> Any:
        return lambda *args, **options: right(*args, **options) + 1e-10

    if name == "linear":
        monkeypatch.setattr(nn.functional, "linear", off(nn.functional.linear))
    else:
        monkeypatch.setattr(nn.functional, "conv1d", off(nn.functional.conv1d))
        monkeypatch.setitem(module._CONVOLVE, 2, off(nn.functional.conv2d))
    with pytest.raises(CannotShow, match="give other numbers"):
        convinspect.explain(patches=patches)


# --- the drawing


def windows(page: str) -> list[str]:
    """The numbers inside heavy frames, as they stand on the page."""
    parts = (re.findall(r"┃([^┃│]*)┃", line) for line in page.splitlines())
    return [number for line in parts for part in line for number in part.split()]


@pytest.mark.parametrize("width", [50, 80, 120])
def test_windows_never_overlap_and_leave_nothing_out(width: int) -> None:
    """Read back from the pages: over all patches, each number of the image was in the window once."""
    made = built_in_patches(None, 6)
    seen: list[float] = []
    for row in range(6):
        inside = list(map(float, windows(drawn(made, row, 0, width).partition("kernel 0 of W")[0])))
        assert sorted(inside) == sorted(made.x[row])
        seen += inside
    assert made.image is not None
    assert sorted(seen) == sorted(np.array(made.image.values).flatten().tolist())


def test_a_patch_is_the_marked_row_in_the_order_of_channels() -> None:
    made = built_in_patches(None, 4)
    page = drawn(made, 2, 1, 80)
    (row,) = re.findall(r"^▸ patch 2 │(.*)$", page, re.MULTILINE)
    (kernel,) = re.findall(r"^▸ kernel 1│(.*)$", page, re.MULTILINE)
    assert [float(part) for part in row.replace("│", " ").split()] == made.x[2]
    *numbers, bias = (float(part) for part in kernel.replace("│", " ").split())
    assert ([[number] for number in numbers], bias) == (made.w[1], (made.b or [])[1])
    first, second = (part.split() for part in row.split("│"))
    assert (first, second) == (["0.0", "1.0", "1.5", "-1.0"], ["-0.4", "0.8", "0.6", "0.0"])
    framed = windows(page.partition("kernel 1 of W")[0])
    assert framed == ["0.0", "1.0", "-0.4", "0.8", "1.5", "-1.0", "0.6", "0.0"]


def test_channels_have_the_same_colour_in_image_row_and_kernel() -> None:
    block = drawer(built_in_patches(None, 4), True, 120)(row_focus(1, 0), [0])
    pieces = [piece for line in block.lines if not isinstance(line, str) for piece in line if isinstance(piece, tuple)]
    by_style: dict[str, list[str]] = {}
    for text, style in pieces:
        by_style.setdefault(style.partition(" on ")[2], []).extend(text.split())
    channel_2 = ["-0.6", "0.8", "0.6", "0.4"], ["0.4", "-0.6", "0.2", "0.1"]
    # In the image line by line with the row of X beside it, then the kernel the same.
    assert sorted(by_style["#8ecbff"]) == sorted(2 * channel_2[0] + 2 * channel_2[1])


@pytest.mark.parametrize("width", WIDTHS)
def test_the_built_in_layer_fits(width: int) -> None:
    page = drawn(built_in_patches(None, 4), 1, 2, width)
    assert max(map(cell_width, page.splitlines())) <= width
    assert page.count("[3.96]") == 2
    beside = [line for line in page.splitlines() if "and gives (O, " in line and "and gives Y" in line]
    assert len(beside) == (width >= 100)
    assert ("left out" in page) == (width < 60)


def test_nothing_is_left_out_at_the_usual_widths() -> None:
    for width in (80, 120):
        page = drawn(built_in_patches(None, 4), 0, 0, width)
        assert "…" not in page
        assert "more)" not in page


LARGE: list[tuple[int, int, tuple[int, ...], tuple[int, ...]]] = [
    (3, 768, (16, 16), (2, 2)), (3, 8, (2, 14, 14), (2, 2, 3)), (96, 192, (2, 2), (14, 14)), (2, 4, (400,), (9,)),
    (1, 3, (1, 4), (3, 3)), (1, 1, (2,), (1,)),
]  # fmt: skip
"""Channels, kernels, their size and how many patches there are each way."""


@cache
def large_example(channels: int, outs: int, patch: tuple[int, ...], grid: tuple[int, ...]) -> Example:
    torch.manual_seed(0)
    conv = CONVS[len(patch)](channels, outs, patch, stride=patch, dtype=torch.float64)
    sizes = [step * number for step, number in zip(patch, grid, strict=True)]
    return example_of(conv, (torch.randn(channels, *sizes, dtype=torch.float64) * 10).round() / 10)


# Two or three widths of each layer, and of each width two or three layers: no rule of what is cut is about both.
@pytest.mark.parametrize(("layer", "width"), some(product(LARGE, WIDTHS), 16))
def test_large_layers_are_cut_to_fit(layer: tuple[int, int, tuple[int, ...], tuple[int, ...]], width: int) -> None:
    made, outs = large_example(*layer), layer[1]
    row, kernel = (len(made.x) - 1) // 2, (outs - 1) // 2
    for height in (None, 23):
        lines = drawn(made, row, kernel, width, height).splitlines()
        assert max(map(cell_width, lines)) <= width
        assert ("left out" in "\n".join(lines)) or len(made.x[0]) < 12
        if height is not None and width >= 80:
            assert len(lines) <= height


def test_a_step_fits_the_usual_terminal() -> None:
    for made in (built_in_patches(None, 4), built_in_patches(None, 30)):
        one = sum_of(made, 2, 1)
        lines = drawn(made, 2, 1, 80, 23).splitlines()
        assert len(lines) <= 23
        assert lines[-1].split() == ["=", f"{one.result:.2f}"]
        assert any("▸ patch 2" in line for line in lines)
        assert any("▸ kernel 1" in line for line in lines)


def test_nothing_moves_from_step_to_step() -> None:
    made = built_in_patches(None, 4)
    pages = [drawn(made, row, kernel, 120).splitlines() for row in range(4) for kernel in range(3)]
    assert len({tuple(line.find("Linear takes") for line in page[:4]) for page in pages}) == 1
    assert len({len(page) for page in pages}) == 1
    assert len({next(line.find("Y1") for line in page if "Y1" in line) for page in pages}) == 1


# --- the command


def test_the_command_draws_three_patches_without_colours() -> None:
    done = run("explain", "--patches", "--width", "80")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^patch (\d) of 0–3: ", done.stdout, re.MULTILINE) == ["0", "1", "3"]
    assert "\x1b" not in done.stdout
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())
    said = " ".join(done.stdout.split())
    assert "each number is the dot product of a patch and a kernel, plus the kernel's bias." in said
    assert "the same to within 1e-15, which is rounding." in said
    assert run("explain", "--patches", "--width", "80", "--as", "both").stdout == done.stdout


def test_a_files_layer_is_drawn_as_torch_computes_it(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    name = "visual.patch_embed.proj"
    done = run("explain", QWEN, name, "--patches", "--rows", "6", "-o", tmp_path / "x.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "x.json").read_text())
    weight = next(tensor for key, tensor in load_file(QWEN).items() if key.endswith(f"{name}.weight")).double()
    image = torch.tensor(found["image"], dtype=torch.float64)
    assert (found["patch"], found["grid"]) == ([2, 14, 14], [1, 2, 3])
    assert image.shape == (3, 2, 28, 42)
    expected = nn.functional.conv3d(image[None], weight, stride=(2, 14, 14))[0].flatten(1).T
    for key in ("result", "linear_result"):
        torch.testing.assert_close(torch.tensor(found[key], dtype=torch.float64), expected)
    apart = np.abs(np.array(found["result"]) - np.array(found["linear_result"])).max()
    assert found["largest_difference"] == apart < 1e-12


def test_its_first_numbers_are_drawn_and_what_is_assumed_is_said() -> None:
    from safetensors.torch import load_file

    done = run("explain", QWEN, "visual.patch_embed.proj", "--patches", "--row", "2", "--width", "120")
    weight = next(tensor for key, tensor in load_file(QWEN).items() if key.endswith("visual.patch_embed.proj.weight"))
    (kernel,) = re.findall(r"^▸ kernel 0│ +(\S+) +(\S+) …", done.stdout, re.MULTILINE)
    assert [float(number) for number in kernel] == pytest.approx(weight[0].flatten()[:2].tolist(), abs=6e-4)
    assert "left out: 1,167 columns of X, 3 kernels" in done.stdout
    assert "assumed, since the file does not record it: stride as the kernel's size" in " ".join(done.stdout.split())


def test_a_recorded_stride_is_not_assumed(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv1d(2, 3, 4, stride=4)), tmp_path / "m.pt")
    done = run("explain", tmp_path / "m.pt", "0", "--patches", "--row", "1")
    assert "positions 4–7 of the sequence" in done.stdout
    assert "assumed" not in done.stdout


IMAGE = (np.arange(2 * 5 * 4) % 7 - 3).reshape(2, 5, 4).astype(np.float32)


@pytest.mark.parametrize("batch", [False, True])
def test_an_image_comes_from_a_file_and_what_fills_no_patch_is_said(tmp_path: Path, batch: bool) -> None:
    given = IMAGE[None] if batch else IMAGE
    np.save(tmp_path / "x.npy", given)
    torch.save(torch.from_numpy(given), tmp_path / "x.pt")
    pages = [
        run("explain", "--patches", "--row", "2", "-i", tmp_path / f"x.{suffix}").stdout for suffix in ("npy", "pt")
    ]
    assert pages[0] == pages[1]
    assert "patch 2 of 0–3: rows 2–3, columns 0–1 of the image" in pages[0]
    assert "the last 1 row of the image fill no patch, and neither form sees them" in " ".join(pages[0].split())


def test_a_plane_of_numbers_is_an_image_of_one_channel(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(1, 2, 2, stride=2)), tmp_path / "m.pt")
    (tmp_path / "x.csv").write_text("1,2,3,4\n5,6,7,8\n")
    done = run("explain", tmp_path / "m.pt", "0", "--patches", "-i", tmp_path / "x.csv", "--row", "1")
    assert done.returncode == 0, done.stderr
    assert windows(done.stdout)[:4] == ["3.0", "4.0", "7.0", "8.0"]


MODEL = {
    "over": nn.Conv1d(3, 4, 3),
    "flat": nn.Conv2d(3, 4, 3),
    "up": nn.ConvTranspose2d(3, 4, 2, stride=2),
    "fc": nn.Linear(3, 4),
    "point": nn.Conv2d(3, 4, 1),
    "groups": nn.Conv2d(4, 4, 2, stride=2, groups=2),
    "pads": nn.Conv1d(4, 4, 2, stride=2, padding=1),
    "gaps": nn.Conv2d(4, 4, 2, stride=2, dilation=2),
    "norm": nn.BatchNorm2d(3),
}


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("over", "over does not cut patches: its stride is 1, not its kernel size 3, so its windows are no patches; "
                 "leave out --patches to draw its sliding window"),
        ("flat", "flat does not cut patches: its stride is"),
        ("up", "up is a ConvTranspose2d, and patches can be drawn of Conv1d, Conv2d and Conv3d"),
        ("fc", "fc is a Linear, and the size of its patches is not in the file; leave out --patches to draw its rows"),
        ("point", "point has kernel size 1, so that its patches are single positions; leave out --patches"),
        ("groups", "groups does not cut patches: it has groups=2"),
        ("pads", "pads does not cut patches: it has padding="),
        ("gaps", "gaps does not cut patches: it has dilation="),
        ("norm", "norm is a BatchNorm"),
    ],
)  # fmt: skip
def test_what_cuts_no_patches_gets_one_line(tmp_path: Path, layer: str, said: str) -> None:
    torch.save(nn.ModuleDict(MODEL), tmp_path / "m.pt")
    done = run("explain", tmp_path / "m.pt", layer, "--patches")
    assert_one_line(done, said)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--row", "9"], "there is no row 9; they count from 0 to 3"),
        (["--kernel", "3"], "there is no kernel 3; they count from 0 to 2"),
        (["--as", "linear"], "--patches draws both forms side by side, and --as linear one; leave out --as"),
        (["--as", "conv1d"], "leave out --as"),
    ],
)
def test_wrong_wishes_get_one_line(words: list[str], said: str) -> None:
    assert_one_line(run("explain", "--patches", *words), said)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((3, 4, 4), "x.npy: the data are 3 × 4 × 4, and patch_embed takes (2, H, W); give them in that shape"),
        ((4, 4), "the data are 4 × 4, and patch_embed takes (2, H, W)"),
        ((2, 2, 4, 4), "the data are 2 × 2 × 4 × 4, and patch_embed takes (2, H, W)"),
        ((2, 1, 4), "the data are 2 × 1 × 4, less than one patch of patch_embed, 2 × 2; give more"),
        ((2, 0, 4), "less than one patch"),
        ((0,), "the data are 0, and"),
    ],
)
def test_an_image_that_does_not_fit_gets_one_line(tmp_path: Path, shape: tuple[int, ...], said: str) -> None:
    np.save(tmp_path / "x.npy", np.ones(shape))
    assert_one_line(run("explain", "--patches", "-i", tmp_path / "x.npy"), said)


@pytest.mark.parametrize("shape", [(4, 0, 2, 2), (0, 3, 2, 2), (4, 3, 0, 2)])
def test_a_weight_without_numbers_gets_one_line(tmp_path: Path, shape: tuple[int, ...]) -> None:
    torch.save({"x.weight": torch.ones(shape), "x.bias": torch.ones(shape[0])}, tmp_path / "empty.pt")
    done = run("explain", tmp_path / "empty.pt", "x", "--patches")
    assert_one_line(done, "empty.pt: x ")


def test_numbers_that_are_not_finite_are_drawn_too() -> None:
    weight = torch.ones(2, 1, 2, dtype=torch.float64)
    weight[0, 0, 0], weight[1, 0, 1] = math.inf, math.nan
    made = patch_example("proj", "Conv1d", (2, 1, 2), weight, None, torch.ones(1, 4, dtype=torch.float64))
    assert drawn(made, 0, 0, 80).splitlines()[-1].split() == ["=", "inf"]
    assert drawn(made, 1, 1, 80).splitlines()[-1].split() == ["=", "nan"]


@pytest.mark.parametrize("patches", [True, False])
def test_complex_numbers_are_not_cut_in_half(tmp_path: Path, patches: bool) -> None:
    import convinspect

    more = ["--patches"] if patches else []
    conv = nn.Conv1d(2, 3, 2 if patches else 1, stride=2 if patches else 1, dtype=torch.complex64)
    torch.save(nn.Sequential(conv), tmp_path / "m.pt")
    assert_one_line(
        run("explain", tmp_path / "m.pt", "0", *more), "0 has complex numbers, and only real ones are drawn"
    )
    data = torch.ones(2, 4, 4, dtype=torch.complex64) if patches else torch.ones(4, 3, dtype=torch.complex64)
    torch.save(data, tmp_path / "x.pt")
    np.save(tmp_path / "x.npy", data.numpy())
    for name in ("x.pt", "x.npy"):
        assert_one_line(run("explain", "-i", tmp_path / name, *more), f"{name}: it holds complex numbers")
    with pytest.raises(CannotShow, match="the data are complex"):
        convinspect.explain(input=data, patches=patches)


@pytest.mark.parametrize("suffix", ["html", "svg"])
def test_pictures_load_nothing_and_have_every_step(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    assert run("explain", "--patches", "-o", path).returncode == 0
    page = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|src=|@import|url\(", page)
    for colour in ("#ffd84d", "#8ecbff"):
        assert colour in page
    if suffix == "html":
        assert page.count("<pre id=") == 12
        assert page.count("the same to within 1e-15") == 12


def test_the_function_gives_what_the_command_draws() -> None:
    import convinspect

    made = convinspect.explain(patches=True)
    assert repr(made) == "<example of layer 'patch_embed': Conv2d (3, 2, 2, 2), 4 patches>"
    assert made.image is not None
    assert made.image.patch == (1, 2, 2)
    page = made._repr_html_()  # type: ignore[attr-defined]
    assert "┏" in page
    assert "#8ecbff" in page
    image = torch.zeros(2, 4, 6)
    assert len(convinspect.explain(patches=True, input=image).x) == 6
