"""`convinspect explain`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convinspect.cli.completion import complete_layers
from convinspect.cli.options import RootOption, WidthOption, naming
from convinspect.cli.output import Sink
from convinspect.errors import CannotShow, NotThere
from convinspect.render.format import Format
from convinspect.text import plural

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from convinspect.explaining import Example
    from convinspect.render.table import Block
    from convinspect.report.explain import Focus

    Draw = Callable[[Focus, list[int]], Block]


class Names(str, Enum):
    """Whose words to use."""

    conv1d = "conv1d"
    linear = "linear"
    both = "both"


def explain(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", readable=False, help="A checkpoint; without it, a small layer of 3 → 6."),
    ] = None,
    layer: Annotated[
        str | None, typer.Argument(metavar="[LAYER]", help="One of its layers.", autocompletion=complete_layers)
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=10_000, metavar="N", help="Rows of data.")] = 4,
    row: Annotated[int | None, typer.Option("--row", metavar="I", help="Only this row, from 1.")] = None,
    kernel: Annotated[int | None, typer.Option("--kernel", metavar="J", help="Only this kernel, from 1.")] = None,
    names: Annotated[
        Names | None,
        typer.Option("--as", help="Draw it as Conv1d, as Linear, or both layouts; what it is by default."),
    ] = None,
    step: Annotated[bool, typer.Option("--step", help="Cell by cell, by the arrow keys.")] = False,
    animate: Annotated[bool, typer.Option("--animate", help="Play all cells.")] = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**63 - 1, metavar="N", help="Of the data drawn for a file's layer.")
    ] = 0,
    given: Annotated[
        Path | None, typer.Option("--input", "-i", metavar="FILE", help="Your data, n × in: .csv, .npy or .pt.")
    ] = None,
    root: RootOption = None,
    width: WidthOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Keep it as .svg, .html, .gif, .png, .txt or .json."),
    ] = None,
) -> None:
    """Draw how n rows of 3 columns become n rows of 6: data, kernels and result, on real numbers.

    Each row of the data meets each kernel; their products, added up, are one number of the result. So 6 kernels make 6
    columns. The active row, kernel and cell are marked, and the arithmetic stands below. Rows and kernels count from 1.

    [bold]Examples[/bold]

      convinspect explain

      convinspect explain --as both

      convinspect explain model.pt conv1 --row 2 --kernel 5

      convinspect explain --step

      convinspect explain -o pointwise.html
    """
    from convinspect.kinds import TRANSFORMERS_CONV1D

    if path is not None and layer is None:
        raise NotThere("no layer is named", "name one, as in: convinspect explain model.pt conv1", path)
    example = _example(path, layer, root, (rows, seed), given)
    sink = Sink(Format.table, width, output, f"convinspect explain {example.name}")
    columns = width or (sink.space.width if output is None else None) or _COMFORT
    linear = names is Names.linear or (names is not Names.conv1d and not example.kind.startswith("Conv"))
    linear = linear or (names is not Names.conv1d and example.kind == TRANSFORMERS_CONV1D)
    if names is Names.linear and example.taps > 1:
        raise CannotShow(f"{example.name} has a kernel of size {example.taps}, which no Linear is", "leave out --as")
    draw = _drawer(example, linear, columns)
    playing = (step or animate) and output is None and sys.stdout.isatty() and (animate or sys.stdin.isatty())
    if output is not None and output.suffix.lower() in (".html", ".gif"):
        _save_steps(example, draw, output, sink.title, names is Names.both)
    elif playing and names is Names.both:
        raise CannotShow("both layouts do not fit one step", "leave out --as both, or keep a page with -o x.html")
    elif playing:
        lines = sink.space.height or _LINES
        _play(example, _drawer(example, linear, columns, lines - 1), step, (row or 1, kernel or 1), lines)
    else:
        sink.show(_frames(example, draw, row, kernel, names is Names.both, columns), _payload(example))


def _payload(example: Example) -> dict[str, object]:
    return {"layer": example.name, "kind": example.kind, "x": example.x, "weight": example.w, "bias": example.b,
            "result": example.f}  # fmt: skip


def _example(
    path: Path | None, layer: str | None, root: str | None, drawn: tuple[int, int], given: Path | None
) -> Example:
    from convinspect import explaining

    data = None if given is None else _data(given)
    if path is None:
        made = explaining.built_in(drawn[0])
        if data is None:
            return made
        import torch

        weight, bias = (torch.tensor(one, dtype=torch.float64) for one in (made.w, made.b))
        with naming(given or Path()):
            return explaining.example(made.name, made.kind, made.stored, weight, bias, data)
    from convinspect.checkpoint import open_checkpoint
    from convinspect.layers.find import find_layers
    from convinspect.layers.select import select

    with naming(path):
        chosen = select(find_layers(open_checkpoint(path, root)), [layer or ""])
        if len(chosen) > 1:
            raise CannotShow(f"{layer!r} means {len(chosen)} layers", f"name one, such as {chosen[0].name}")
        return explaining.of_layer(chosen[0], data, *drawn)


def _data(path: Path) -> torch.Tensor:
    """(n, in) in float64.

    Raises:
        CannotShow: The file holds no such matrix.
        NotThere: There is no such file.
    """
    import numpy as np
    import torch

    if not path.exists():
        raise NotThere("there is no such file", path=path)
    try:
        if path.suffix == ".csv":
            return torch.from_numpy(_csv(path))
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float64))
    except (ValueError, OSError, TypeError, EOFError) as error:
        raise CannotShow(f"it holds no matrix of numbers ({error})", "give one row per line", path) from None
    from convinspect.arrays.to_torch import single_tensor
    from convinspect.checkpoint import open_checkpoint

    return single_tensor(open_checkpoint(path).tensors, path).double()


def _csv(path: Path) -> npt.NDArray[np.float64]:
    """Rows of numbers below a row of names, if there is one.

    Raises:
        ValueError: It holds none.
    """
    import numpy as np

    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ValueError("it is empty")
    try:
        return np.loadtxt(lines, delimiter=",", ndmin=2, dtype=np.float64)
    except ValueError:
        if len(lines) < 2:
            raise
        return np.loadtxt(lines[1:], delimiter=",", ndmin=2, dtype=np.float64)


def _drawer(example: Example, linear: bool, width: int, height: int | None = None) -> Draw:
    """What draws one step of an example: the step, and the kernels whose sums are printed."""
    from convinspect.explaining import decimals, decimals_of_terms, sum_of
    from convinspect.report.explain import frame

    digits = decimals(example)

    def draw(focus: Focus, kernels: list[int]) -> Block:
        sums = [sum_of(example, focus.row, kernel) for kernel in kernels]
        return frame(example, focus, linear, width, sums, (digits, decimals_of_terms(sums, digits)), height)

    return draw


def _frames(example: Example, draw: Draw, row: int | None, kernel: int | None, both: bool, width: int) -> list[Block]:
    """Rows 1, 2 and n, or the one asked for; the two layouts after them when asked for."""
    from convinspect.explaining import decimals, sum_of
    from convinspect.report.explain import cell_focus, row_focus
    from convinspect.report.explain_layouts import layouts

    count, outs = len(example.f), len(example.w)
    shown = [row] if row is not None else sorted({1, min(2, count), count})
    blocks: list[Block] = []
    for n, one in enumerate(shown):
        sum_of(example, one, kernel or 1)
        if kernel is not None:
            blocks.append(draw(cell_focus(one, kernel), [kernel]))
        else:
            active = outs if n == 2 else min(n + 1, outs)
            listed = [j for j in range(1, outs + 1) if outs <= 8 or j <= 4 or j > outs - 2 or j == active]
            blocks.append(draw(row_focus(one, active), listed))
    if both:
        blocks.append(layouts(example, row_focus(shown[0], kernel or 1), width, decimals(example)))
    return [*blocks, _moral(example, width)]


def _moral(example: Example, width: int) -> Block:
    """What the drawing shows, in one sentence, and what it leaves out."""
    from convinspect.render.panels import prose
    from convinspect.render.table import Block

    outs = len(example.w)
    kernels, columns = (plural(outs, what) for what in ("kernel", "column"))
    meets = (
        "each row of X meets each kernel once and gives one number."
        if example.taps == 1
        else f"each window of {example.taps} neighbouring rows meets each kernel once and gives one number."
    )
    lines = prose(f"{kernels}, so {columns}: {meets}", width)
    return Block((*lines, *(prose(f"{example.note}.", width) if example.note else ())))


_COMFORT = 118
"""Cells where no terminal sets a limit: three panels of the built-in example side by side."""
_LINES = 24
_MOST_STEPS = 400
_MOST_PICTURES = 100
"""Steps that anyone would look at on a page, or wait for in a GIF or an animation."""


def _cells(example: Example) -> int:
    """How many numbers the result has."""
    return len(example.f) * len(example.w)


def _cell(example: Example, at: int) -> tuple[int, int]:
    """Row and kernel, from 1, of one number of the result; row after row."""
    row, kernel = divmod(at, len(example.w))
    return row + 1, kernel + 1


def _play(example: Example, draw: Draw, step: bool, first: tuple[int, int], height: int) -> None:
    from rich.console import Console
    from rich.live import Live

    from convinspect.explaining import sum_of
    from convinspect.render.rich_table import render_block
    from convinspect.report.explain import cell_focus

    sum_of(example, *first)
    at, typed = (first[0] - 1) * len(example.w) + first[1] - 1, ""
    last = min(at + _MOST_PICTURES, _cells(example)) - 1
    with Live(console=Console(), auto_refresh=False, screen=step) as live:
        while at >= 0:
            i, j = _cell(example, at)
            block = draw(cell_focus(i, j), [j])
            # A title and a blank line above, the keys below; of what does not fit, the result is kept.
            most = height - 3
            lines = block.lines if len(block.lines) <= most else (*block.lines[: most - 2], "…", block.lines[-1])
            block = replace(block, lines=lines, notes=(_KEYS,) if step else ())
            live.update(render_block(block), refresh=True)
            if step:
                at, typed = _moved(typer.getchar(), at, (len(example.f), len(example.w)), typed)
            else:
                time.sleep(0.6)
                at = at + 1 if at < last else -1


_KEYS = "→ next · ← back · a row's number goes to that row · q leaves"


def _moved(key: str, at: int, size: tuple[int, int], typed: str = "") -> tuple[int, str]:
    """What a key does.

    Args:
        key: As the terminal sends it.
        at: The number of the result that is shown, from 0, row after row.
        size: Rows and columns of the result.
        typed: Digits of a row's number so far, since it may have several.

    Returns:
        The number to go to, or -1 to leave; and the digits so far.
    """
    rows, outs = size
    if key in ("q", "Q", "\x1b", "\x03", "\x04"):
        return -1, ""
    if key.isdigit():
        number = next((digits for digits in (typed + key, key) if 1 <= int(digits) <= rows), "")
        return ((int(number) - 1) * outs if number else at), number
    if key in ("\x1b[D", "\x1bOD", "\xe0K", "h", "p", "b", "\x7f"):
        return max(0, at - 1), ""
    return min(rows * outs - 1, at + 1), ""


def _save_steps(example: Example, draw: Draw, output: Path, title: str, both: bool) -> None:
    from convinspect.explaining import decimals
    from convinspect.render.page import page
    from convinspect.render.picture import save_steps, save_text
    from convinspect.report.explain import cell_focus, row_focus
    from convinspect.report.explain_layouts import layouts

    moving, every = output.suffix.lower() == ".gif", _cells(example)
    shown = min(every, _MOST_PICTURES if moving else _MOST_STEPS)
    more = (f"the first {shown:,} of {every:,} numbers",) if shown < every else ()
    moral = _moral(example, _COMFORT).lines
    blocks = []
    for i, j in (_cell(example, at) for at in range(shown)):
        block = draw(cell_focus(i, j), [j])
        turned = layouts(example, row_focus(i, j), _COMFORT, decimals(example)) if both else None
        below = () if turned is None else ("", turned.title, "", *turned.lines)
        blocks.append(replace(block, lines=(*block.lines, *below, "", *moral, *more)))
    if moving:
        save_steps(blocks, output, title)
    else:
        save_text(output, page(blocks, f"{example.name}: {example.kind} {tuple(example.stored)}"))
