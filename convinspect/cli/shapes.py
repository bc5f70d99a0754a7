"""`convinspect shapes`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from convinspect.cli.completion import complete_kinds
from convinspect.cli.listing import LimitOption, SortOption, first, say_how_many_more
from convinspect.cli.options import (
    FoldOption,
    ForceOption,
    FormatOption,
    LayerOption,
    ModelOption,
    OutputOption,
    PathArgument,
    RootOption,
    WidthOption,
    naming,
)
from convinspect.cli.output import Sink, check_output, end_with_problems
from convinspect.formats.sources import short_name
from convinspect.render.format import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convinspect.checkpoint import Checkpoint
    from convinspect.layers.order import Order
    from convinspect.records import Layer


def shapes(
    path: PathArgument,
    layer: LayerOption = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind", metavar="KIND", help="Only this kind, as in conv1d or 'conv*'.", autocompletion=complete_kinds
        ),
    ] = None,
    pointwise: Annotated[bool, typer.Option("--pointwise", help="Only convolutions of kernel size 1.")] = False,
    everything: Annotated[bool, typer.Option("--all", "-a", help="List everything: every tensor's owner.")] = False,
    fold: FoldOption = False,
    tree: Annotated[bool, typer.Option("--tree", help="Modules as a tree, repeats folded, with their sums.")] = False,
    depth: Annotated[
        int | None, typer.Option("--depth", min=1, metavar="N", help="The tree to N levels; implies --tree.")
    ] = None,
    sort: SortOption = None,
    limit: LimitOption = None,
    model: ModelOption = None,
    root: RootOption = None,
    fmt: FormatOption = Format.table,
    width: WidthOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """List the convolution and Linear layers of a saved model, with their kernel shapes.

    Nothing in the file is run and only its headers are read; --model runs your own code, which says what a state_dict
    does not record. Params counts a layer's parameters without its buffers
    (batch statistics, masks, position ids), as the total does, which counts ties once.

    [bold]Examples[/bold]

      convinspect shapes model.pt

      convinspect shapes model.pt --pointwise --fold

      convinspect shapes model.pt --tree --depth 3

      convinspect shapes model.pt --sort params --limit 10

      convinspect shapes model.safetensors --layer 'encoder.*' --format json

      convinspect shapes model.ckpt --root ema --output table.svg
    """
    from convinspect.layers.find import find_layers
    from convinspect.layers.select import select

    check_output(output, fmt, [path], force)
    checkpoint = _opened(path, root, model)
    layers = find_layers(checkpoint)
    with naming(path):
        shown = select(layers, layer or (), kind or (), pointwise, everything)
    sink = Sink(fmt, width, output, f"convinspect shapes {short_name(path)}")
    listing = _Listing(checkpoint, layers, shown, everything or bool(layer or kind or pointwise))
    by: Order | None = None if sort is None else sort.value
    if tree or depth is not None:
        _show_tree(listing, sink, depth, by, limit)
    else:
        _show_rows(listing, sink, fold, by, limit)
    end_with_problems(checkpoint, layers)


class _Listing(NamedTuple):
    """What is listed of a checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        layers: All of its layers.
        shown: Those that the user asked for.
        everything: Nothing was left out but what the user did not ask for.
    """

    checkpoint: Checkpoint
    layers: Sequence[Layer]
    shown: list[Layer]
    everything: bool


def _opened(path: Path, root: str | None, model: str | None) -> Checkpoint:
    """The checkpoint, with what the user's code says of it."""
    from convinspect.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(path, root)
    if model is None:
        return checkpoint
    from convinspect.converting.checks import described_by_code

    with naming(path):
        modules = described_by_code(checkpoint, model).modules
    # Of layers that the code has not, the file's names tell what is a parameter.
    return checkpoint.described_by(modules, checkpoint.known_parameters)


def _show_rows(listing: _Listing, sink: Sink, fold: bool, by: Order | None, limit: int | None) -> None:
    """A row for each layer, or for each fold of them; JSON has every layer by itself."""
    from convinspect.layers.order import sort_rows
    from convinspect.showing.shapes import listing_payload, listing_table

    checkpoint, layers, shown, everything = listing
    rows, beyond = first(sort_rows(checkpoint, shown, by, folded=fold and not sink.wants_payload), limit)
    if sink.wants_payload:
        left_out = None if limit is None else len(beyond)
        sink.show(None, listing_payload(checkpoint, layers, [row.layers[0] for row in rows], left_out))
    else:
        sink.show(listing_table(checkpoint, layers, rows, everything, beyond), None)
    say_how_many_more(sink, len(beyond), limit)


def _show_tree(listing: _Listing, sink: Sink, depth: int | None, by: Order | None, limit: int | None) -> None:
    """A row for each module; JSON has the tree beside the layers in it."""
    from convinspect.layers.tree import first_nodes, joined, module_tree, walk
    from convinspect.showing.module_tree import tree_payload, tree_table
    from convinspect.showing.shapes import listing_payload

    checkpoint, layers, shown, everything = listing
    whole = module_tree(checkpoint, layers, shown, depth=depth, sort=by)
    if not sink.for_machines:
        whole = joined(whole)
    tree = whole if limit is None else first_nodes(whole, limit)
    beyond = sum(1 for _ in walk(whole)) - sum(1 for _ in walk(tree))
    if sink.wants_payload:
        inside = [layer for _, node in walk(tree) for layer in node.layers]
        payload = listing_payload(checkpoint, layers, inside, None if limit is None else beyond)
        sink.show(None, {**payload, "tree": tree_payload(tree, tree.parameters)})
    else:
        sink.show(tree_table(checkpoint, layers, tree, shown, everything, beyond), None)
    say_how_many_more(sink, beyond, limit)
