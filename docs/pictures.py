"""Makes the pictures of README and docs from real runs on the fixtures: `python docs/pictures.py`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from convinspect.arrays.kernels import Choice, load_kernel, matrices
from convinspect.checkpoint import open_checkpoint
from convinspect.errors import CannotShow
from convinspect.explaining.example import built_in, decimals, decimals_of_terms, sum_of
from convinspect.explaining.patches import built_in_patches
from convinspect.explaining.words import Language
from convinspect.layers.find import find_layers
from convinspect.layers.folding import unfolded
from convinspect.layers.select import select
from convinspect.render.emit import TerminalSize
from convinspect.render.picture import save, save_steps
from convinspect.render.raster import check_wide_face
from convinspect.render.table import Block
from convinspect.showing.explain import cell_focus, frame, row_focus
from convinspect.showing.explain_steps import COMFORT, drawer
from convinspect.showing.shapes import listing_table
from convinspect.showing.weights import matrix_view, shown_heatmap, shown_matrix

ROOT = Path(__file__).resolve().parent.parent
FIXTURE = ROOT / "fixtures" / "pointnet_stnkd.pt"


def make(folder: Path) -> list[Path]:
    """Write every picture to `folder`; the moving ones need Pillow, and in Chinese a font for it."""
    checkpoint = open_checkpoint(FIXTURE)
    layers = find_layers(checkpoint)
    table = listing_table(checkpoint, layers, unfolded(select(layers)), everything=False)
    conv1 = select(layers, ["conv1"])[0]
    matrix = next(iter(matrices(load_kernel(conv1), Choice())))
    view = matrix_view(conv1, matrix, (), None)
    pictures = {
        "shapes": ("convinspect shapes pointnet_stnkd.pt", table, 98),
        "weights": (
            "convinspect weights pointnet_stnkd.pt conv1",
            shown_matrix(view, TerminalSize(90, 24), True, False),
            90,
        ),
        "heatmap": (
            "convinspect weights pointnet_stnkd.pt conv1 --heatmap",
            shown_heatmap(matrix, view, TerminalSize(72, 24), True, True),
            72,
        ),
        "explain": ("convinspect explain --row 1", explained(1, "en"), 118),
        "explain-zh": ("convinspect explain --row 1 --lang zh", explained(1, "zh"), 118),
        "patches": ("convinspect explain --patches --row 1", patched(1, "en"), COMFORT),
        "patches-zh": ("convinspect explain --patches --row 1 --lang zh", patched(1, "zh"), COMFORT),
    }
    written = []
    for name, (title, thing, width) in pictures.items():
        # Each has the colours of both schemes, and shows the reader's.
        written.append(folder / f"{name}.svg")
        save(thing, written[-1], title, width)
    moving = {
        "explain": ("convinspect explain --animate", stepped("en"), 118),
        "patches": ("convinspect explain --patches --animate", patched_steps("en"), COMFORT),
    }
    if has_wide_face():
        moving |= {
            "explain-zh": ("convinspect explain --animate --lang zh", stepped("zh"), 118),
            "patches-zh": ("convinspect explain --patches --animate --lang zh", patched_steps("zh"), COMFORT),
        }
    else:
        print("no font with Chinese characters is here: explain-zh.gif and patches-zh.gif stay as they are")
    for name, (title, steps, width) in moving.items():
        written.append(folder / f"{name}.gif")
        save_steps(steps, written[-1], title, width)
    return written


def has_wide_face() -> bool:
    """Whether Chinese can be drawn in pixels here."""
    try:
        check_wide_face()
    except CannotShow:
        return False
    return True


def stepped(lang: Language) -> list[Block]:
    """All cells of the built-in example, one after another."""
    example = replace(built_in(4), lang=lang)
    digits = decimals(example)
    sums = [sum_of(example, row, kernel) for row in range(4) for kernel in range(6)]
    return [
        frame(example, cell_focus(one.row, one.kernel), False, 118, [one], (digits, decimals_of_terms([one], digits)))
        for one in sums
    ]


def explained(row: int, lang: Language) -> Block:
    """One row of the built-in example with its six kernels."""
    example = replace(built_in(4), lang=lang)
    sums = [sum_of(example, row, kernel) for kernel in range(6)]
    digits = decimals(example)
    return frame(example, row_focus(row, row), False, 118, sums, (digits, decimals_of_terms(sums, digits)))


def patched(row: int, lang: Language) -> Block:
    """One patch of the built-in image, as the convolution and as the Linear have it."""
    return drawer(replace(built_in_patches(None, 4), lang=lang), True, COMFORT)(row_focus(row, 0), [0, 1, 2])


def patched_steps(lang: Language) -> list[Block]:
    """All cells of the same, one after another."""
    example = replace(built_in_patches(None, 4), lang=lang)
    draw = drawer(example, True, COMFORT)
    return [draw(cell_focus(row, kernel), [kernel]) for row in range(4) for kernel in range(3)]


if __name__ == "__main__":
    for made in make(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"):
        print(made.name)
