"""Changes that a model's code needs to load a converted checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convinspect.converting.plan import Conversion, Plan
from convinspect.converting.reshape import out_in
from convinspect.kinds import CONV_TRANSPOSES, CONVOLUTIONS, KINDS, MULTIPLIED, TRANSFORMERS_CONV1D, is_in_out
from convinspect.layers.folding import fold
from convinspect.layouts import Maker, torch_shape
from convinspect.records import Layer
from convinspect.render.cells import safe, wrap
from convinspect.showing.patch_code import patch_advice

_SPATIAL = {
    f"{kind}{dims}d": names
    for kind in ("Conv", "ConvTranspose")
    for dims, names in enumerate((("L",), ("H", "W"), ("D", "H", "W")), 1)
}


def advice(plan: Plan, names: Mapping[str, str]) -> list[str]:
    """The lines of code to edit for each layer, repeated blocks as one, and how the layers' inputs change.

    Args:
        plan: The conversions.
        names: Tensors' new names by stored key, as `Renaming.names` gives them; {} if none is renamed.
    """
    kinds: dict[tuple[object, ...], list[Conversion]] = {}
    for conversion in plan.conversions:
        layer = conversion.layer
        sort = (layer.kind, conversion.to, conversion.groups, layer.layout, _is_pointwise(conversion), conversion.patch,
                conversion.last)  # fmt: skip
        kinds.setdefault(sort, []).append(conversion)
    lines = []
    for alike in kinds.values():
        old, new = alike[0].layer.kind, alike[0].to
        layers = [called(conversion.layer, names) for conversion in alike]
        by_layer = {id(layer): conversion for layer, conversion in zip(layers, alike, strict=True)}
        known = {old, new} <= {*KINDS, *CONV_TRANSPOSES}
        for block in fold(layers):
            conversion = by_layer[id(block.layers[0])]
            name = block.name or "(root)"
            if conversion.patch:
                lines += patch_advice(name, conversion)
            elif not _is_pointwise(conversion):
                lines += _shapes(name, conversion)
            elif conversion.layer.layout is not None:
                lines += _in_layout(name, conversion, conversion.layer.layout.maker)
            elif known and (old == new or (new == "Linear" and MULTIPLIED in conversion.layer.tags)):
                stored = f"whose weight was stored as (in, out), {conversion.old_shape}"
                lines.append(f"{name}: {_call(new, conversion, 1)}, {stored}")
            elif known:
                was = "Linear" if MULTIPLIED in conversion.layer.tags else old
                lines.append(f"{name}: {_call(was, conversion, conversion.groups)} → {_call(new, conversion, 1)}")
            else:
                lines += _shapes(name, conversion)
        layout = alike[0].layer.layout
        if layout is not None and layout.maker is not Maker.PADDLE:
            lines += _channels_last(old, new)
        elif known and _is_pointwise(alike[0]) and _input(old) != _input(new):
            lines += _turns(old, new)
    return lines


def _is_pointwise(conversion: Conversion) -> bool:
    """Whether the weight is a matrix before and after, but for dimensions of size 1."""
    shapes = (conversion.old_shape, conversion.new_shape)
    return conversion.layer.layout is not None or all(out_in(shape) is not None for shape in shapes)


def advice_lines(plan: Plan, names: Mapping[str, str], width: int | None = None) -> Sequence[str]:
    """`advice` with a heading, or [] if nothing changed.

    Args:
        plan: As of `advice`.
        names: As of `advice`.
        width: Cells of a line; None for lines of any length.
    """
    lines = [line for said in advice(plan, names) for line in _indented(safe(said), width)]
    return ["", "In the model's code:", *lines] if lines else []


def _indented(line: str, width: int | None) -> list[str]:
    """A line, or several if it is too long, of which those after the first stand further to the right."""
    text = line.lstrip()
    begins = " " * (2 + len(line) - len(text))
    spans = [(0, len(text))] if width is None else wrap(text, width - len(begins) - 4)
    return [f"{begins}{'    ' if start else ''}{text[start:end]}" for start, end in spans]


def called(layer: Layer, names: Mapping[str, str]) -> Layer:
    """The layer, named after the module that its weight belongs to after renaming.

    Args:
        layer: As stored.
        names: As of `advice`.
    """
    new = names.get(layer.weight.key)
    if new is None:
        return layer
    leaf = next(leaf for leaf, tensor in layer.tensors.items() if tensor is layer.weight)
    whole = f".{new}"
    module = whole.removesuffix(f".{leaf}") if leaf else whole
    if leaf and module == whole:
        # If the weight's last level is renamed too, the module is all that comes before it.
        module = whole.rpartition(".")[0]
    return layer._replace(name=module.removeprefix("."))


def _shapes(name: str, conversion: Conversion) -> list[str]:
    """The new shapes of a layer that is neither a convolution nor a Linear, whose class is not known."""
    leaves = {id(tensor): leaf for leaf, tensor in conversion.layer.tensors.items()}
    return [
        f"{f'{name}.{leaf}' if (leaf := leaves[id(edit.tensor)]) else name}"
        f" must be of shape {edit.shape}, not {edit.tensor.shape}"
        for edit in conversion.edits
    ]


def _in_layout(name: str, conversion: Conversion, maker: Maker) -> list[str]:
    """The change of another library's layer: MLX's classes take what PyTorch's do, of others the shapes are said."""
    layer = conversion.layer
    if maker is not Maker.MLX:
        return _shapes(name, conversion)
    wide_out, wide_in = torch_shape(layer)[:2]
    bias = ", bias=False" * (layer.bias is None)
    old, new = (
        f"nn.{kind}({wide_in}, {wide_out}{', 1' * (kind in CONVOLUTIONS)}{bias})"
        for kind in (layer.kind, conversion.to)
    )
    return [f"{name}: {old} → {new}"]


def _channels_last(old: str, new: str) -> list[str]:
    """How the inputs change where channels are last in every layer."""
    before, after = (f"(N, {', '.join(_SPATIAL[kind])}, C)" if kind in _SPATIAL else "(N, …, C)" for kind in (old, new))
    return [f"  takes {before} → takes {after}: channels are last in both"]


def _call(kind: str, conversion: Conversion, groups: int) -> str:
    wide_out, wide_in = conversion.new_shape[:2]
    if is_in_out(conversion.to):
        wide_out, wide_in = wide_in, wide_out
    if kind == TRANSFORMERS_CONV1D:
        return f"Conv1D(nf={wide_out}, nx={wide_in})"
    parts = [str(wide_in), str(wide_out)]
    parts += ["1"] * (kind in _SPATIAL) + [f"groups={groups}"] * (groups > 1)
    parts += ["bias=False"] * (conversion.layer.bias is None)
    return f"nn.{kind}({', '.join(parts)})"


def _input(kind: str) -> str:
    return f"(N, C, {', '.join(_SPATIAL[kind])})" if kind in _SPATIAL else "(N, …, C)"


def _turns(old: str, new: str) -> list[str]:
    """Input layouts of the two layers, and how to transpose the data before and after so that other code can stay."""
    takes = f"  takes {_input(old)} → takes {_input(new)}:"
    if old in _SPATIAL:
        return [f"{takes} {_turn(old, new)}"]
    dims = len(_SPATIAL[new])
    none, first, ones = (", ".join([index] * dims) for index in ("None", "0", "1"))
    return [
        takes,
        f"    for x of (N, C): x[..., {none}] before it, x[..., {first}] after it",
        f"    for x of (N, {', '.join(_SPATIAL[new])}, C): x.movedim(-1, 1) before it, x.movedim(1, -1) after it",
        f"    for any x, giving y: x.reshape(-1, x.shape[-1], {ones}) before it, y.reshape(*x.shape[:-1], -1) after it",
    ]


def _turn(old: str, new: str) -> str:
    if new not in _SPATIAL:
        return "x.movedim(1, -1) before it, x.movedim(-1, 1) after it"
    left, wanted = len(_SPATIAL[old]), len(_SPATIAL[new])
    if left < wanted:
        return f"x[..., {', '.join(['None'] * (wanted - left))}] before it, x.flatten({left + 1}) after it"
    merged = ", ".join(_SPATIAL[old][wanted - 1 :])
    return f"x.flatten({wanted + 1}) before it, x.unflatten({wanted + 1}, ({merged})) after it"
