"""Show records in notebooks: the same table as on a terminal, as HTML.

Records are defined in lower layers than their tables, and may not import them. So the Python API, which may import
both, adds `_repr_html_` to each class the first time that it returns an instance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from convinspect.render.table import Block, Table
from convinspect.showing.flags import Reader, read_by

Tables: TypeAlias = Table | Block | Sequence[Table | Block]


def show_in_notebooks(record: type, draw: Callable[[Any], Tables]) -> None:
    """Add the method that notebooks call, `_repr_html_`, to a class of records.

    Args:
        record: The class.
        draw: Makes the command's tables for an instance; called only when a notebook shows it, so it can import lazily.
    """

    def _repr_html_(self: object) -> str:
        from convinspect.render.emit import as_shown
        from convinspect.render.html import html_of

        with read_by(Reader.PYTHON):
            return html_of(as_shown(draw(self)))

    record._repr_html_ = _repr_html_  # type: ignore[attr-defined]


def with_lines(table: Table, lines: Sequence[str]) -> Tables:
    """A table, and below it lines to copy, of which the first is blank, if there are any."""
    return [table, Block(tuple(lines[1:]))] if lines else table


def checkpoint_table(checkpoint: Any) -> Tables:
    """As `convinspect shapes`."""
    from convinspect.layers.find import find_layers
    from convinspect.layers.order import sort_rows
    from convinspect.layers.select import select
    from convinspect.showing.shapes import listing_table

    layers = find_layers(checkpoint)
    return listing_table(checkpoint, layers, sort_rows(checkpoint, select(layers)), everything=False)


def layer_table(layer: Any) -> Tables:
    """One row of `convinspect shapes`, and the meaning of its abbreviations."""
    from convinspect.showing.shapes import layer_table as table

    return table(layer)
