"""What notebooks show of a record: the table that a terminal shows, as HTML.

Records lie below the tables that are made of them, and may not import these. So the Python API, which knows both,
gives each class its `_repr_html_` from here, the first time that it hands one out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from convinspect.render.table import Block, Table

Tables: TypeAlias = Table | Block | Sequence[Table | Block]


def show_in_notebooks(record: type, draw: Callable[[Any], Tables]) -> None:
    """Give a class of records the method that notebooks look for.

    Args:
        record: The class.
        draw: What the command shows of one; called when a notebook asks, so that it may import what it needs then.
    """

    def _repr_html_(self: object) -> str:
        from convinspect.render.html import html_of

        drawn = draw(self)
        return html_of([drawn] if isinstance(drawn, (Table, Block)) else drawn)

    record._repr_html_ = _repr_html_  # type: ignore[attr-defined]


def checkpoint_table(checkpoint: Any) -> Tables:
    """As `convinspect shapes`."""
    from convinspect.layers.find import find_layers
    from convinspect.layers.folding import unfolded
    from convinspect.layers.select import select
    from convinspect.report.shapes import listing_table

    layers = find_layers(checkpoint)
    return listing_table(checkpoint, layers, unfolded(select(layers)), everything=False)


def layer_table(layer: Any) -> Tables:
    """One row of `convinspect shapes`, and what its short words stand for."""
    from convinspect.report.shapes import layer_table as table

    return table(layer)
