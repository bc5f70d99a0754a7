"""Which layers get their plain effective weight, and which stay since how it is computed is not certain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from convinspect.converting.eligibility import unless_named
from convinspect.converting.plan import Refusal
from convinspect.errors import Wording
from convinspect.layers.find import can_fuse
from convinspect.records import Doubt, Layer


class Fusing(NamedTuple):
    """What becomes of the layers whose weight is computed from several tensors.

    Attributes:
        layers: Those that get their plain weight.
        kept: Those that keep their parts, since an assumption would decide what the weight is.
        refused: Why, for each of these.
        notes: What had to be assumed for those that the user named, one line each.
    """

    layers: tuple[Layer, ...] = ()
    kept: tuple[Layer, ...] = ()
    refused: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()


def fusing(layers: Sequence[Layer], chosen: Collection[str], exact: Collection[str]) -> Fusing:
    """Decide which layers are fused.

    Args:
        layers: All layers of the root.
        chosen: Names of those that the user chose.
        exact: Names of those that the user named by themselves, for which what is assumed is good enough.

    Raises:
        ConvInspectError: The numbers that tell a spectral norm's dimension cannot be read.
    """
    fused: list[Layer] = []
    kept: list[Layer] = []
    refused: list[Refusal] = []
    notes: list[str] = []
    for layer in layers:
        if layer.name not in chosen or not can_fuse(layer):
            continue
        dim = _assumed_dim(layer)
        if dim is not None and layer.name not in exact:
            reason = f"{Doubt.NORM_DIM.value}, and its numbers do not tell which"
            kept.append(layer)
            refused.append(Refusal(layer.name, unless_named(reason, layer.name, f"to fuse it with dim={dim}")))
            continue
        if dim is not None:
            notes.append(f"{layer.name}: fused with dim={dim}, which is assumed. {_sentence(Doubt.NORM_DIM.value)}")
        fused.append(layer)
    return Fusing(tuple(fused), tuple(kept), tuple(refused), tuple(notes))


def left_unfused(refused: Sequence[Refusal]) -> tuple[str, ...]:
    """A line for each layer that keeps its parts for its doubt."""
    return tuple(Wording(f"{refusal.name or '(root)'} is not fused: ", refusal.reason) for refusal in refused)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _assumed_dim(layer: Layer) -> int | None:
    if len(layer.norm_dims) < 2:
        return None
    # Imported here, since most conversions compute nothing and start faster without numpy.
    from convinspect.arrays.effective import assumed_dim

    return assumed_dim(layer)
