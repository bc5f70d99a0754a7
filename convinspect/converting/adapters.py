"""Adapters beside a layer (peft, LyCORIS): they change together with the layer that they adapt, or neither does.

Which shapes an adapter has beside which kind of layer is that of peft's `tuners` (0.17 to 0.18), tried with outputs on
both sides. On kernels of size 1 LoHa, OFT and HRA keep their shapes; IA³, BOFT and LoKr change theirs. LoKr's whole
second factor beside a Conv1d is another product in peft (`make_kron` in tuners/lokr/layer.py adds dimensions to the
first factor only where the second has four), so it is never reshaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from convinspect.converting.decisions import Conversion, Decisions, Refusal
from convinspect.converting.reshape import out_in, reshaped
from convinspect.kinds import CONV_TRANSPOSES, EXTRA_DIMS, KIND_OF_RANK
from convinspect.records import Edit, Layer, Tensor, contiguous

_PART = re.compile(
    r"(?:^|\.)(lora_(?:[ABE]|down|up)|ia3_l|boft_[sR]|hada_\w+|lokr_\w+|oft_\w+|hra_u|vera_lambda_\w+|fourierft_\w+"
    r"|vblora_\w+|miss_block|c3a_kernel)(?=\.|$)"
)
_ANY_PART = re.compile(r"lora_|ia3_l|boft_|hada_|lokr_|oft_|hra_u|vera_|fourierft_|vblora_|miss_block|c3a_kernel")
_HALVES = ("lora_A", "lora_B", "lora_down", "lora_up")
_FAMILIES = (
    # how its tensors' names begin, what it is called, the kernel dimensions of the layers that peft puts it on
    ("lora_E", "AdaLoRA", (0,)),
    ("lora_", "LoRA", (0, 1, 2, 3)),
    ("ia3_", "IA³", (0, 2, 3)),
    ("boft_", "BOFT", (0, 2)),
    ("hada_", "LoHa", (0, 1, 2)),
    ("lokr_", "LoKr", (0, 1, 2)),
    ("oft_", "OFT", (0, 2)),
    ("hra_", "HRA", (0, 2)),
)
_MERGE = "merge the adapter first"


class _Part(NamedTuple):
    """A layer that is part of an adapter.

    Attributes:
        layer: The layer, most often a "Parameter".
        leaf: What its adapter calls it, such as "ia3_l".
    """

    layer: Layer
    leaf: str

    @property
    def half(self) -> bool:
        """Whether it is half of a LoRA pair, and a layer by itself."""
        return self.leaf in _HALVES and self.layer.low_rank


class Adapters(NamedTuple):
    """The adapters in a root.

    Attributes:
        parts: By the name of what they adapt.
        bases: The layers that they adapt, by the same name, where the file has them.
    """

    parts: Mapping[str, Sequence[_Part]]
    bases: Mapping[str, Layer]


def find_adapters(layers: Sequence[Layer]) -> Adapters | None:
    """The adapters among the layers; None where there is none."""
    if not _ANY_PART.search("\n".join([layer.name for layer in layers])):
        return None
    parts: dict[str, list[_Part]] = {}
    for layer in layers:
        match = _PART.search(layer.name)
        if match is not None:
            parts.setdefault(layer.name[: match.start()], []).append(_Part(layer, match[1]))
    by_name = {layer.name: layer for layer in layers}
    owners = {name: by_name.get(f"{name}.base_layer".lstrip("."), by_name.get(name)) for name in parts}
    return Adapters(parts, {name: base for name, base in owners.items() if base is not None})


def halves_on(layers: Sequence[Layer], fits: Callable[[Layer], bool]) -> frozenset[str]:
    """Names of the halves of LoRA pairs whose layer fits; where the file does not have it, one half under its name.

    Args:
        layers: All of the root.
        fits: Whether a layer does.
    """
    adapters = find_adapters(layers)
    found: set[str] = set()
    for name, parts in adapters.parts.items() if adapters is not None else ():
        base = None if adapters is None else adapters.bases.get(name)
        halves = [part.layer for part in parts if part.half]
        if any(map(fits, [base] if base is not None else [half._replace(name=name) for half in halves])):
            found.update(half.name for half in halves)
    return frozenset(found)


def unfollowed(adapters: Adapters, decisions: Decisions) -> list[Refusal]:
    """Refusals of layers whose adapter cannot change with them, and of parts whose layer stays."""
    refusals = []
    for name, parts in adapters.parts.items():
        base = adapters.bases.get(name)
        conversion = None if base is None else decisions.conversions.get(base.name)
        for part in parts:
            own = decisions.conversions.get(part.layer.name)
            if own is not None and not part.half and part.leaf.startswith(("oft_", "hra_", "hada_")):
                refusals.append(Refusal(part.layer.name, f"part of an adapter ({_family(part)[0]}), and no layer"))
            elif own is not None and not part.half and isinstance(edit := _edit(part, base, own.to), str):
                refusals.append(Refusal(part.layer.name, edit))
            elif own is not None and part.half and base is not None and conversion is None and base.kind != own.to:
                refusals.append(Refusal(part.layer.name, f"part of the adapter of {base.name}, which does not change"))
        if base is not None and conversion is not None:
            why = next((why for part in parts if (why := _obstacle(part, base, conversion, decisions))), None)
            refusals += [Refusal(base.name, why)] if why else []
    return refusals


def following(adapters: Adapters, decisions: Decisions) -> dict[str, Conversion]:
    """Conversions of the adapters' parts that are no layers, with the layers that they adapt."""
    conversions = {}
    for name, base in adapters.bases.items():
        conversion = decisions.conversions.get(base.name)
        for part in adapters.parts[name] if conversion is not None else ():
            edit = None if part.half or conversion is None else _edit(part, base, conversion.to)
            if isinstance(edit, Edit):
                conversions[part.layer.name] = Conversion(part.layer, part.layer.kind, (edit,))
    return conversions


def alone(
    adapters: Adapters, to: str, origins: Collection[str], chosen: Collection[str]
) -> tuple[dict[str, Conversion], list[Refusal]]:
    """Conversions and refusals of the parts of adapters whose layers are not in the file (`adapter_model.safetensors`).

    Args:
        adapters: All of the root.
        to: The target kind.
        origins: Kinds to convert.
        chosen: Names of the layers that may change.
    """
    conversions, refusals = dict[str, Conversion](), list[Refusal]()
    parts = [part for name, parts in adapters.parts.items() if name not in adapters.bases for part in parts]
    for part in parts:
        kind = _kind_alone(part)
        if part.half or part.layer.name not in chosen or kind not in origins or kind == to:
            continue
        edit = _edit(part, None, to)
        if isinstance(edit, Edit):
            conversions[part.layer.name] = Conversion(part.layer, part.layer.kind, (edit,))
        elif edit is not None:
            refusals.append(Refusal(part.layer.name, edit))
    return conversions, refusals


def _kind_alone(part: _Part) -> str | None:
    """The kind of layer that a part adapts, by its own shape; None where this does not show."""
    shape = part.layer.weight.shape
    if part.leaf == "boft_s" and len(shape) == 2:
        return "Conv2d" if shape[0] == 1 else "Linear"
    return KIND_OF_RANK.get(len(shape)) if part.leaf in ("ia3_l", "lokr_w2") else None


def _obstacle(part: _Part, base: Layer, conversion: Conversion, decisions: Decisions) -> str | None:
    """Why a part cannot change with its layer, or None."""
    name, dims = _family(part)
    if conversion.patch and name not in ("LoRA", "DoRA"):
        return f"its adapter {part.layer.name} is {name}, which is another function over flattened patches; {_MERGE}"
    for kind in (base.kind, conversion.to):
        if kind in CONV_TRANSPOSES:
            return f"its adapter {part.layer.name} is {name}, which peft does not put on a {kind}; {_MERGE}"
        extra = EXTRA_DIMS.get(kind)
        if extra is not None and extra not in dims:
            return f"its adapter {part.layer.name} is {name}, which peft does not put on a {kind}; {_MERGE}"
    if part.half:
        own = decisions.conversions.get(part.layer.name)
        same = part.layer.kind == conversion.to if own is None else own.to == conversion.to
        return None if same else f"{part.layer.name} of its adapter does not change with it"
    edit = _edit(part, base, conversion.to)
    return f"its adapter's {part.layer.name}: {edit}" if isinstance(edit, str) else None


def _family(part: _Part) -> tuple[str, tuple[int, ...]]:
    found = next(((name, dims) for start, name, dims in _FAMILIES if part.leaf.startswith(start)), None)
    return found or (part.leaf.partition("_")[0], (0,))


def _edit(part: _Part, base: Layer | None, to: str) -> Edit | str | None:
    """The edit of a part that is no layer; the reason where there is none; None where it keeps its shape.

    Args:
        part: The part.
        base: The layer that it adapts; None where the file does not have it.
        to: The kind that this layer becomes.
    """
    tensor, extra = part.layer.weight, EXTRA_DIMS.get(to, 0)
    if part.leaf == "ia3_l":
        return _scales(tensor, base, extra)
    if part.leaf == "boft_s":
        length = tensor.numel
        return _vector(tensor, (1, length) if extra else (length, 1))
    if part.leaf == "lokr_w2":
        if out_in(tensor.shape) is None or extra == 1 or len(tensor.shape) == 3:
            return f"beside a Conv1d, LoKr's whole second factor is not the product that it is elsewhere; {_MERGE}"
        return reshaped(tensor, extra, turned=False)
    if part.leaf in ("hada_t1", "hada_t2", "lokr_t2"):
        return f"a Tucker factor has a kernel's dimensions of its own; {_MERGE}"
    return None


def _scales(tensor: Tensor, base: Layer | None, extra: int) -> Edit | str | None:
    """IA³'s scales: (out, 1) of outputs and (1, in) of inputs beside a Linear, (1, out or in, 1, …) beside others."""
    length = tensor.numel
    if extra == 1:
        return f"peft does not put IA³ on a Conv1d; {_MERGE}"
    widths = (None, None) if base is None else (base.out_width, base.in_width or base.weight.shape[1])
    if widths[0] == widths[1] or length not in widths:
        return f"whether it scales inputs or outputs stands in adapter_config.json alone; {_MERGE}"
    if extra:
        return _vector(tensor, (1, length, *(1,) * extra))
    return _vector(tensor, (length, 1) if length == widths[0] else (1, length))


def _vector(tensor: Tensor, shape: tuple[int, ...]) -> Edit | str:
    """The edit of a tensor with one dimension that is not of size 1."""
    steps = {step for size, step in zip(tensor.shape, tensor.stride, strict=True) if size != 1}
    if max(tensor.shape, default=0) != tensor.numel or steps - {1}:
        return f"{tensor.shape} is no vector that is stored in one run; {_MERGE}"
    return Edit(tensor, shape, contiguous(shape))
