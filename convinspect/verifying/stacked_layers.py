"""Plain layers of one shape, before and after, run many at once: what their outputs say of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from convinspect.arrays.threads import map_threads
from convinspect.records import Tensor
from convinspect.verifying.causes import Why, because
from convinspect.verifying.layers import LayerCheck
from convinspect.verifying.options import VerifyOptions
from convinspect.verifying.runnable import Checked, beyond, forms_of, is_run, obstacle_of, workers_for
from convinspect.verifying.told import Progress

if TYPE_CHECKING:
    from convinspect.arrays.forms import Form
    from convinspect.arrays.stacked import Bench


class Job(NamedTuple):
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


def nbytes_of_job(job: Job) -> int:
    """Bytes of its layers, as they are stored."""
    return sum(len(tensors) * tensors[0].nbytes for tensors in (job.weights, job.biases) if tensors)


def run_jobs(jobs: Sequence[Job], checks: list[LayerCheck], options: VerifyOptions, progress: Progress) -> None:
    """Put the checks with their outputs in place of those without."""
    from convinspect.arrays.stacked import Bench

    spare: list[Bench] = []

    def work(job: Job) -> None:
        bench = spare.pop() if spare else Bench()
        try:
            _run_job(job, checks, options, bench)
        finally:
            spare.append(bench)

    try:
        for job, _ in zip(jobs, map_threads(work, jobs, workers_for(len(jobs), options)), strict=True):
            progress(nbytes_of_job(job))
    finally:
        for bench in spare:
            bench.files.close()


def _kind_of(layer: Checked) -> tuple[Any, ...] | None:
    """What layers have in common that can be run as one; None for a layer that is run by itself, or not at all."""
    from convinspect.arrays.columns import is_plain

    check, before, after = layer
    plain = after is not None and check.cause is None and check.weights_equal and not before.norm and not after.norm
    if not plain or not is_run(layer):
        return None
    assert after is not None
    weight, bias, shape = before.weight, before.bias, after.weight.shape
    if len(weight.shape) < 2 or weight.shape[0] != shape[0] or weight.numel != after.weight.numel:
        return None
    if bias is not None and (
        bias.shape != weight.shape[:1] or not before.tensors.keys() <= _PLAIN or not is_plain(bias)
    ):
        return None
    if not is_plain(weight) or obstacle_of(before, after):
        return None
    forms = forms_of(before, after, check)
    if any(form.in_out or form.groups != 1 or form.patch for form in forms):
        return None
    # Bytes that equal the other file's are not damaged; summing them takes as long as running them.
    alone = weight.storage == after.weight.storage
    return (*forms, weight.shape, shape, weight.dtype, None if bias is None else bias.dtype, alone)


_PLAIN = frozenset(("weight", "bias"))


def jobs_of(checked: Sequence[Checked], options: VerifyOptions) -> Iterator[Job]:
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
            yield Job(some, (one, other), weights, Alike(biases) if biases else (), after)


def _run_job(job: Job, checks: list[LayerCheck], options: VerifyOptions, bench: Bench) -> None:
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
        checks[number] = check.with_cause(beyond(check))
