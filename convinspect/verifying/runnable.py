"""Whether a layer is run before and after, in which forms, and what its results say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from convinspect.converting.patches import patch_assumptions
from convinspect.kinds import CONVOLUTIONS, EXTRA_DIMS, may_change
from convinspect.records import Layer
from convinspect.verifying.causes import Cause, Why, because
from convinspect.verifying.layers import LayerCheck, groups_written_out
from convinspect.verifying.options import VerifyOptions

if TYPE_CHECKING:
    from convinspect.arrays.forms import Form

MOST_WORKERS = 8


class Checked(NamedTuple):
    """A layer, and what its stored bits say."""

    check: LayerCheck
    before: Layer
    after: Layer | None


def workers_for(most: int, options: VerifyOptions) -> int:
    """How many threads run layers, `most` at most."""
    return min(os.cpu_count() or 1, MOST_WORKERS, max(1, most)) if options.device == "cpu" else 1


def is_run(layer: Checked) -> bool:
    """Whether it is a layer that a conversion changes, before and after."""
    check, before, after = layer
    return after is not None and may_change(before.kind, before.pointwise) and may_change(check.after, after.pointwise)


def obstacle_of(before: Layer, after: Layer) -> str:
    """Why a layer is not run, by its record; "" if it is."""
    if not (before.weight.numel and after.weight.numel):
        return "same, and empty"
    larger = any(each.kind in CONVOLUTIONS and not each.pointwise for each in (before, after))
    if larger and patch_assumptions(before, after) is None:
        return "same bits; of larger kernels only those are run that became a Linear over patches, or the reverse"
    if before.weight.dtype.startswith("complex"):
        return "same bits; complex layers are not run"
    return ""


def beyond(check: LayerCheck) -> Cause | None:
    """The cause for the first result that differs by more than rounding explains."""
    results = {"outputs": check.outputs} | {f"gradients of {name}": grad for name, grad in check.gradients.items()}
    for what, result in results.items():
        if result is not None and not result.ok:
            return because(Why.RESULTS, what=what, difference=result.difference, bound=result.bound)
    return None


def forms_of(before: Layer, after: Layer, check: LayerCheck) -> tuple[Form, Form]:
    """The forms in which both layers are run."""
    from convinspect.arrays.forms import Form

    kind_after = check.after
    if patch_assumptions(before, after) is not None:
        kernel = before.kernel_size or after.kernel_size
        kinds = (before.kind, kind_after)
        one, other = (Form(kind, patch=kernel, last=check.last and kind == "Linear") for kind in kinds)
        return one, other
    if any(layer.stride is not None and layer.kind not in CONVOLUTIONS for layer in (before, after)):
        # A PointwiseLinear does to positions what the convolution does, which was compared; the weights remain.
        before, after = (layer._replace(stride=None, padding=None) for layer in (before, after))
    if before.kind == kind_after and after.evidence != "module":
        # A plain state_dict does not record what the model beside it did, and the layer is the same.
        after = after._replace(stride=before.stride, padding=before.padding, groups=before.groups)
    if before.groups is None:
        before = before._replace(groups=groups_written_out(before, after))
    return _form(before, before.kind), _form(after, kind_after)


def _form(layer: Layer, kind: str) -> Form:
    from convinspect.arrays.forms import Form

    if kind not in EXTRA_DIMS or kind == "Linear":
        return Form(kind)
    dims = EXTRA_DIMS[kind]
    padding = (0,) * dims if layer.padding is None or isinstance(layer.padding, str) else layer.padding
    return Form(kind, layer.stride or (1,) * dims, padding, layer.groups or 1)
