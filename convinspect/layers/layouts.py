"""Layers of files that other libraries than PyTorch wrote: which layout a file has, and a layer read in it.

A layout is known from the file's metadata (MLX), from tensors' names (Flax, Keras, Paddle), from a layer's class, or
from shapes: nearly all kernels of several dimensions are as long in each of them, and often in one order of axes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from convinspect.layers.by_module import by_module
from convinspect.layers.by_shape import Context, by_shape, maybe_another, with_doubt
from convinspect.layouts import KnownFrom, Layout, Maker, axis_names, in_torch_order, is_turned, torch_order
from convinspect.records import Doubt, Layer, Module

_SPCONV = (Maker.SPCONV_1, Maker.SPCONV_2)


def layout_by_kernels(shapes: Iterable[tuple[int, ...]], said: Layout | None) -> Layout | None:
    """A file's layout, once its kernels of two and more dimensions are looked at.

    Args:
        shapes: Of its convolutions' weights.
        said: What the file says itself; None where it says nothing, so that only spconv's five-dimensional weights are
            known by their shapes.
    """
    if said is None:
        found = {maker for shape in shapes if (maker := _spconv(shape)) is not None}
        return Layout(found.pop(), KnownFrom.LIKELY) if len(found) == 1 else None
    votes = {_even_only_in(said.maker, shape) for shape in shapes if len(shape) > 3}
    if False in votes:
        return said._replace(known_from=KnownFrom.CONTRADICTED)
    if True in votes and said.known_from is KnownFrom.WRITER:
        return said._replace(known_from=KnownFrom.SHAPES)
    return said


def _even_only_in(maker: Maker, shape: tuple[int, ...]) -> bool | None:
    """True where the kernel is as long in every direction in this order alone, False where in PyTorch's alone."""
    theirs = _is_even(shape, maker)
    return None if theirs == _all_equal(shape[2:]) else theirs


def _is_even(shape: tuple[int, ...], maker: Maker) -> bool:
    return _all_equal([shape[axis] for axis in torch_order(maker, len(shape))[2:]])


def _all_equal(sizes: Iterable[int]) -> bool:
    return len(set(sizes)) == 1


_LONG = 8
"""A kernel is seldom as long in one direction and shorter in another."""


def _spconv(shape: tuple[int, ...]) -> Maker | None:
    """Which version's order makes a kernel of 5 dimensions even, where PyTorch's makes it long in one direction."""
    if len(shape) != 5 or _all_equal(shape[2:]):
        return None
    even = [maker for maker in _SPCONV if _is_even(shape, maker)]
    if len(even) != 1:
        return None
    # What would be lengths of the kernel in PyTorch's order. (8, 1, 1, 1, 64) is as likely a kernel of 1 × 1 × 64.
    channels = shape[3:] if even[0] is Maker.SPCONV_1 else shape[4:]
    return even[0] if min(channels) >= _LONG and 1 < shape[torch_order(even[0], 5)[2]] < _LONG else None


def by_layout(layer: Layer, context: Context) -> Layer:
    """As `by_shape`, in the file's layout where it has one.

    Args:
        layer: Neither quantized nor a list.
        context: Evidence from the rest of the file.
    """
    layout, dims = context.layout, len(layer.weight.shape)
    if layout is None or not 2 <= dims <= 5 or (layout.maker in _SPCONV and _elsewhere(layer, layout)):
        return by_shape(layer, context)
    found = _through(layer, layout, lambda seen: _read(seen, layout, context))
    return by_shape(layer, context) if found is None else _explained(found)


def _elsewhere(layer: Layer, layout: Layout) -> bool:
    """Whether a layer beside spconv's is PyTorch's own: not sparse in three dimensions, or even in its order."""
    shape = layer.weight.shape
    return len(shape) != 5 or (_all_equal(shape[2:]) and not _is_even(shape, layout.maker))


def _through(layer: Layer, layout: Layout, read: Callable[[Layer], Layer | None]) -> Layer | None:
    """What `read` makes of a layer whose weight it sees in PyTorch's order, with the weight as stored."""
    seen = in_torch_order(layer._replace(layout=layout))
    known = read(seen)
    if known is None:
        return None
    return known._replace(tensors=layer.tensors, weight=layer.weight, bias=layer.bias, layout=layout)


def _read(layer: Layer, layout: Layout, context: Context) -> Layer | None:
    """A layer whose axes are in PyTorch's order; None where the layout does not fit it."""
    known = by_shape(layer, context)
    if len(layer.weight.shape) == 2:
        fits = known.kind == "Linear" and Doubt.BIAS_DOES_NOT_FIT not in known.doubts
        return known if layout.maker is Maker.MLX or fits else None
    if layout.maker is Maker.PADDLE:
        return known
    first = layer.weight.shape[0]
    if layer.bias is not None and layer.bias.shape != (first,):
        # The bias of a ConvTranspose has the first size too.
        return None
    conv = maybe_another(known, alike=True) if not known.doubts else known
    return conv if layout.known_from.sure else with_doubt(conv, Doubt.LAYOUT)


def by_class(layer: Layer, module: Module) -> Layer | None:
    """As `by_module`, for classes of libraries with other layouts: spconv's."""
    if module.class_name.startswith("spconv.") and 3 <= len(layer.weight.shape) <= 5:
        layout = _of_widths(layer, module)
        if layout is not None:
            found = _through(layer, layout, lambda seen: by_module(seen, module))
            # Of a transposed one the weight has the outputs first too, so the class's own numbers count.
            wide_in, wide_out = module.attributes.get("in_channels"), module.attributes.get("out_channels")
            return None if found is None else _explained(found._replace(in_width=wide_in, out_width=wide_out))
    return by_module(layer, module)


def _of_widths(layer: Layer, module: Module) -> Layout | None:
    """Which version of spconv stores a weight so, by the class's own numbers of channels."""
    widths = (module.attributes.get("out_channels"), module.attributes.get("in_channels"))
    shape = layer.weight.shape
    for maker in reversed(_SPCONV):
        order = torch_order(maker, len(shape))
        if (shape[order[0]], shape[order[1]]) == widths:
            return Layout(maker, KnownFrom.CLASS)
    return None


def _explained(layer: Layer) -> Layer:
    """The layer with a tag and a note of its layout, where its axes are not in PyTorch's order."""
    return with_layout_note(layer) if is_turned(layer) else layer


def with_layout_note(layer: Layer) -> Layer:
    """The layer with a tag and a note that name its layout."""
    assert layer.layout is not None
    maker, known_from = layer.layout
    names = [name.replace("kernel_size", "kernel") for name in axis_names(layer)]
    note = f"its weight is ({', '.join(names)}), {maker.value}'s layout, {known_from.value}"
    tag = f"{maker.value} layout{'' if known_from.sure else '?'}"
    return layer._replace(tags=(*layer.tags, tag), notes=(*layer.notes, note))
