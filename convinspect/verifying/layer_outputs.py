"""One layer before and after, run on the same numbers → whether its outputs and gradients agree within the bound."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from convinspect.arrays.threads import map_threads
from convinspect.converting.patches import patch_assumptions
from convinspect.errors import BrokenFile, CannotShow
from convinspect.kinds import CONVOLUTIONS, EXTRA_DIMS, is_in_out, may_change
from convinspect.records import Layer, Tensor
from convinspect.verifying.causes import Cause, Why, because
from convinspect.verifying.layers import LayerCheck, groups_written_out
from convinspect.verifying.options import VerifyOptions

if TYPE_CHECKING:
    import torch

    from convinspect.arrays.forms import Form
    from convinspect.arrays.stacked import Bench
    from convinspect.ranks.group import Group

MOST_WORKERS = 8
WORKING_BYTES = 512 << 20
"""What layers that run at the same time may take together."""


class Checked(NamedTuple):
    """A layer, and what its stored bits say."""

    check: LayerCheck
    before: Layer
    after: Layer | None


class _Job(NamedTuple):
    """Plain layers that are run as one.

    Attributes:
        numbers: Which of the layers they are.
        forms: Before and after.
        weights: Before.
        biases: Likewise; none where the layers have none.
        after: The weights' shape after.
    """

    numbers: Sequence[int]
    forms: tuple[Form, Form]
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    after: tuple[int, ...]


class Runs(NamedTuple):
    """What is to be run, once nothing else of both checkpoints is needed.

    Attributes:
        checks: Of all layers, in order, without outputs.
        jobs: Layers that are run with others of their kind.
        single: Layers that are run one by one, by their number.
    """

    checks: list[LayerCheck]
    jobs: list[_Job]
    single: dict[int, Checked]


def runs_of(checked: Sequence[Checked], options: VerifyOptions) -> Runs:
    """Which of the layers are run, and how; PyTorch is not needed for that."""
    checks = [layer.check for layer in checked]
    if options.bits:
        return Runs(checks, [], {})
    jobs = list(_jobs(checked, options))
    together = {number for job in jobs for number in job.numbers}
    single = {at: layer for at, layer in enumerate(checked) if at not in together and _is_run(layer)}
    return Runs(checks, jobs, single)


def run(runs: Runs, options: VerifyOptions) -> list[LayerCheck]:
    """The checks with outputs: of plain layers many at once, of others one by one. Both run in parallel, one thread
    each, as many as fit in `WORKING_BYTES`.

    Raises:
        ConvInspectError: Bytes are missing or damaged.
    """
    checks, jobs, single = runs
    if not (jobs or single):
        return checks
    from convinspect.arrays.devices import full_float32, threads

    # A chunk takes less time than waking a second thread of PyTorch does.
    with threads(1), full_float32():
        if jobs:
            _run_jobs(jobs, checks, options)
        largest = max((layer.before.nbytes for layer in single.values()), default=0)
        workers = _workers(WORKING_BYTES // max(1, 4 * largest), options)
        others = map_threads(lambda layer: _run(layer, options), single.values(), workers)
        for number, check in zip(single, others, strict=True):
            checks[number] = check
    return checks


def run_by_ranks(checked: Sequence[Checked], options: VerifyOptions, group: Group) -> list[LayerCheck]:
    """As `run`, each layer on one of the ranks.

    Raises:
        ConvInspectError: Bytes are missing or damaged.
        OtherRankFailed: A rank has failed, or died.
    """
    if options.bits or not checked:
        return [layer.check for layer in checked]
    from convinspect.ranks.shares import done_by_ranks

    def work(some: Sequence[Checked]) -> list[LayerCheck]:
        return run(runs_of(some, options), options)

    return done_by_ranks(group, checked, lambda layer: layer.before.nbytes, work)


def _workers(most: int, options: VerifyOptions) -> int:
    return min(os.cpu_count() or 1, MOST_WORKERS, max(1, most)) if options.device == "cpu" else 1


def _run(layer: Checked, options: VerifyOptions) -> LayerCheck:
    """The check of one layer with its outputs, and gradients when asked for."""
    check, before, after = layer
    if after is None or not _is_run(layer):
        return check
    obstacle = _obstacle(before, after)
    if obstacle:
        return check.with_note(obstacle)
    forms = _forms(before, after, check)
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


# ----------------------------------------------------------------------------------- layers that are run as one


def _run_jobs(jobs: Sequence[_Job], checks: list[LayerCheck], options: VerifyOptions) -> None:
    """Put the checks with their outputs in place of those without."""
    from convinspect.arrays.stacked import Bench

    spare: list[Bench] = []

    def work(job: _Job) -> None:
        bench = spare.pop() if spare else Bench()
        try:
            _run_job(job, checks, options, bench)
        finally:
            spare.append(bench)

    try:
        for _ in map_threads(work, jobs, _workers(len(jobs), options)):
            pass
    finally:
        for bench in spare:
            bench.files.close()


def _kind_of(layer: Checked) -> tuple[Any, ...] | None:
    """What layers have in common that can be run as one; None for a layer that is run by itself, or not at all."""
    from convinspect.arrays.columns import is_plain

    check, before, after = layer
    plain = after is not None and check.cause is None and check.weights_equal and not before.norm and not after.norm
    if not plain or not _is_run(layer):
        return None
    assert after is not None
    weight, bias, shape = before.weight, before.bias, after.weight.shape
    if len(weight.shape) < 2 or weight.shape[0] != shape[0] or weight.numel != after.weight.numel:
        return None
    if bias is not None and (
        bias.shape != weight.shape[:1] or not before.tensors.keys() <= _PLAIN or not is_plain(bias)
    ):
        return None
    if not is_plain(weight) or _obstacle(before, after):
        return None
    forms = _forms(before, after, check)
    if any(form.in_out or form.groups != 1 or form.patch for form in forms):
        return None
    # Bytes that equal the other file's are not damaged; summing them takes as long as running them.
    alone = weight.storage == after.weight.storage
    return (*forms, weight.shape, shape, weight.dtype, None if bias is None else bias.dtype, alone)


_PLAIN = frozenset(("weight", "bias"))


def _jobs(checked: Sequence[Checked], options: VerifyOptions) -> Iterator[_Job]:
    """The layers that can be run with others of their kind."""
    if options.device != "cpu" or options.grad or options.sizes:
        return
    from convinspect.arrays.columns import Alike, together

    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, layer in enumerate(checked):
        kind = _kind_of(layer)
        if kind is not None:
            groups.setdefault(kind, []).append(number)
    for (one, other, _, after, *_, alone), numbers in groups.items():
        step = together(checked[numbers[0]].before.weight)
        for start in range(0, len(numbers), step):
            some = numbers[start : start + step]
            weights = Alike([checked[number].before.weight for number in some], summed=alone)
            biases = [bias for number in some if (bias := checked[number].before.bias) is not None]
            yield _Job(some, (one, other), weights, Alike(biases) if biases else (), after)


def _run_job(job: _Job, checks: list[LayerCheck], options: VerifyOptions, bench: Bench) -> None:
    """Put the checks with their outputs in place of those without."""
    import torch

    from convinspect.arrays.error_bound import Inputs, OtherShape, inputs_for
    from convinspect.arrays.stacked import Stack, run_stack
    from convinspect.arrays.to_torch import torch_dtype

    first = job.weights[0]
    own = torch_dtype(options.dtype or first.dtype)
    xs = inputs_for(first.shape[1], own, Inputs(seed=options.seed))
    try:
        with torch.no_grad():
            found = run_stack(Stack(job.forms, job.weights, job.biases, job.after, xs, own), bench)
    except OtherShape as error:
        cause = because(Why.RESULT_SHAPES, before=error.before, after=error.after)
        for number in job.numbers:
            checks[number] = checks[number].with_cause(cause)
        return
    for number, (outputs, rounding) in zip(job.numbers, found, strict=True):
        check = replace(checks[number], outputs=outputs, rounding=rounding)
        checks[number] = check.with_cause(_beyond(check))


# ---------------------------------------------------------------------------------------- layers by themselves


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
    return check.with_cause(_beyond(check))


def _beyond(check: LayerCheck) -> Cause | None:
    """The cause for the first result that differs by more than rounding explains."""
    results = {"outputs": check.outputs} | {f"gradients of {name}": grad for name, grad in check.gradients.items()}
    for what, result in results.items():
        if result is not None and not result.ok:
            return because(Why.RESULTS, what=what, difference=result.difference, bound=result.bound)
    return None


# ---------------------------------------------------------------------------------------- why it is not run


def _is_run(layer: Checked) -> bool:
    """Whether it is a layer that a conversion changes, before and after."""
    check, before, after = layer
    return after is not None and may_change(before.kind, before.pointwise) and may_change(check.after, after.pointwise)


def _obstacle(before: Layer, after: Layer) -> str:
    """Why a layer is not run, by its record; "" if it is."""
    if not (before.weight.numel and after.weight.numel):
        return "same, and empty"
    larger = any(each.kind in CONVOLUTIONS and not each.pointwise for each in (before, after))
    if larger and patch_assumptions(before, after) is None:
        return "same bits; of larger kernels only those are run that became a Linear over patches, or the reverse"
    if before.weight.dtype.startswith("complex"):
        return "same bits; complex layers are not run"
    return ""


def _misfit(weights: Iterable[torch.Tensor], biases: Iterable[torch.Tensor | None], kinds: Iterable[str]) -> str:
    """Why a bias does not fit its weight; "" if both fit."""
    for weight, bias, kind in zip(weights, biases, kinds, strict=True):
        rows = weight.shape[1] if is_in_out(kind) else weight.shape[0]
        if bias is not None and bias.numel() != rows:
            return f"same bits; its bias has {bias.numel()} numbers for {rows} outputs, so it cannot be run"
    return ""


# ------------------------------------------------------------------------------------------- how it is run


def _forms(before: Layer, after: Layer, check: LayerCheck) -> tuple[Form, Form]:
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
