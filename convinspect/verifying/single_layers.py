"""One layer before and after, run by itself: its outputs, and its gradients when asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from convinspect.errors import BrokenFile, CannotShow
from convinspect.kinds import is_in_out
from convinspect.records import Layer
from convinspect.verifying.causes import Why, because
from convinspect.verifying.layers import LayerCheck
from convinspect.verifying.options import VerifyOptions
from convinspect.verifying.runnable import Checked, beyond, forms_of, is_run, obstacle_of

if TYPE_CHECKING:
    import torch

    from convinspect.arrays.forms import Form


def run_single(layer: Checked, options: VerifyOptions) -> LayerCheck:
    """The check of one layer with its outputs, and gradients when asked for."""
    check, before, after = layer
    if after is None or not is_run(layer):
        return check
    obstacle = obstacle_of(before, after)
    if obstacle:
        return check.with_note(obstacle)
    forms = forms_of(before, after, check)
    try:
        parameters = _parameters(layer, forms, options.device)
    except CannotShow as error:
        # Set beside a cause too: it says why there are no figures.
        return replace(check, note=f"its outputs cannot be compared: {error.problem}")
    misfit = _misfit(parameters.weights, parameters.biases, (before.kind, check.after))
    if misfit:
        return check.with_note(misfit)
    channels = [_channels(form, weight) for form, weight in zip(forms, parameters.weights, strict=True)]
    if channels[0] != channels[1]:
        return check.with_cause(because(Why.CHANNELS, before=channels[0], after=channels[1]))
    return _measure(check, forms, parameters, channels[0], options.dtype or before.weight.dtype, options)


class _Parameters(NamedTuple):
    """Weights as stored, and biases (O,) or None; before and after."""

    weights: tuple[torch.Tensor, torch.Tensor]
    biases: tuple[torch.Tensor | None, torch.Tensor | None]


def _measure(
    check: LayerCheck,
    forms: tuple[Form, Form],
    parameters: _Parameters,
    channels: int,
    dtype: str,
    options: VerifyOptions,
) -> LayerCheck:
    """The check with outputs in float64, rounding in `dtype`, and gradients when asked for."""
    import torch

    from convinspect.arrays.error_bound import (
        Inputs,
        OtherShape,
        compare_gradients,
        compare_outputs,
        inputs_for,
        rounding,
    )
    from convinspect.arrays.to_torch import torch_dtype

    own = torch_dtype(dtype)
    inputs = Inputs(seed=options.seed, device=options.device)
    if options.sizes:
        inputs = replace(inputs, sizes=options.sizes)
    xs = inputs_for(channels, own, inputs)
    try:
        with torch.no_grad():
            outputs, exact = compare_outputs(forms, *parameters, xs)
            errors = None if check.cause else rounding(forms, *parameters, xs[-1], exact, own)
            check = replace(check, outputs=outputs, rounding=errors)
        if options.grad:
            check = replace(check, gradients=compare_gradients(forms, *parameters, xs))
    except OtherShape as error:
        return check.with_cause(because(Why.RESULT_SHAPES, before=error.before, after=error.after))
    return check.with_cause(beyond(check))


def _misfit(weights: Iterable[torch.Tensor], biases: Iterable[torch.Tensor | None], kinds: Iterable[str]) -> str:
    """Why a bias does not fit its weight; "" if both fit."""
    for weight, bias, kind in zip(weights, biases, kinds, strict=True):
        rows = weight.shape[1] if is_in_out(kind) else weight.shape[0]
        if bias is not None and bias.numel() != rows:
            return f"same bits; its bias has {bias.numel()} numbers for {rows} outputs, so it cannot be run"
    return ""


def _channels(form: Form, weight: torch.Tensor) -> int:
    """Input channels; numbers in a patch."""
    if form.patch:
        return weight[:1].numel()
    return weight.shape[0] if form.in_out else weight.shape[1] * form.groups


def _parameters(layer: Checked, forms: tuple[Form, Form], device: str) -> _Parameters:
    """Weights and biases on the device; equal ones are read once."""
    check, before, after = layer
    assert after is not None
    weight, bias = _on_device(before, device)
    if check.weights_equal and before.norm == after.norm and before.weight.numel == after.weight.numel:
        matrix = weight
        if forms[1].last or forms[0].last:
            kernel = forms[0].patch
            turned = weight.movedim(1, -1) if forms[1].last else weight.reshape(len(weight), *kernel, -1).movedim(-1, 1)
            return _Parameters((weight, turned.reshape(after.weight.shape)), (bias, bias))
        matrix = matrix.flatten(1) if weight.dim() > 2 else matrix
        matrix = matrix.mT if forms[0].in_out else matrix
        same = (matrix.mT if forms[1].in_out else matrix).reshape(after.weight.shape)
        return _Parameters((weight, same), (bias, bias))
    weight_after, bias_after = _on_device(after, device)
    return _Parameters((weight, weight_after), (bias, bias_after))


def _on_device(layer: Layer, device: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    from convinspect.arrays.to_torch import weight_and_bias

    weight, bias = weight_and_bias(layer)
    if weight.dim() < 2:
        raise BrokenFile(f"layer {layer.name}: its weight has {weight.dim()} dimensions")
    return weight.to(device), None if bias is None else bias.to(device)
