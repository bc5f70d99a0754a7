"""Layers before and after, run on the same numbers → whether their outputs and gradients agree within the bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from convinspect.arrays.threads import map_threads
from convinspect.verifying.layers import LayerCheck
from convinspect.verifying.options import VerifyOptions
from convinspect.verifying.runnable import Checked, is_run, workers_for
from convinspect.verifying.single_layers import run_single
from convinspect.verifying.stacked_layers import Job, jobs_of, nbytes_of_job, run_jobs
from convinspect.verifying.told import RUNNING, Bar, no_bar

if TYPE_CHECKING:
    from convinspect.ranks.group import Group

WORKING_BYTES = 512 << 20
"""What layers that run at the same time may take together."""


class Runs(NamedTuple):
    """What is to be run, once nothing else of both checkpoints is needed.

    Attributes:
        checks: Of all layers, in order, without outputs.
        jobs: Layers that are run with others of their kind.
        single: Layers that are run one by one, by their number.
    """

    checks: list[LayerCheck]
    jobs: list[Job]
    single: dict[int, Checked]


def runs_of(checked: Sequence[Checked], options: VerifyOptions) -> Runs:
    """Which of the layers are run, and how; PyTorch is not needed for that."""
    checks = [layer.check for layer in checked]
    if options.bits:
        return Runs(checks, [], {})
    jobs = list(jobs_of(checked, options))
    together = {number for job in jobs for number in job.numbers}
    single = {at: layer for at, layer in enumerate(checked) if at not in together and is_run(layer)}
    return Runs(checks, jobs, single)


def run(runs: Runs, options: VerifyOptions, bar: Bar = no_bar) -> list[LayerCheck]:
    """The checks with outputs: of plain layers many at once, of others one by one. Both run in parallel, one thread
    each, as many as fit in `WORKING_BYTES`.

    Args:
        runs: What is run.
        options: How.
        bar: Told of the bytes of all layers that are run, and then of each.

    Raises:
        ConvInspectError: Bytes are missing or damaged.
    """
    checks, jobs, single = runs
    if not (jobs or single):
        return checks
    nbytes = sum(map(nbytes_of_job, jobs)) + sum(layer.before.nbytes for layer in single.values())
    progress = bar(nbytes, RUNNING)
    from convinspect.arrays.devices import full_float32, threads

    # A chunk takes less time than waking a second thread of PyTorch does.
    with threads(1), full_float32():
        if jobs:
            run_jobs(jobs, checks, options, progress)
        largest = max((layer.before.nbytes for layer in single.values()), default=0)
        workers = workers_for(WORKING_BYTES // max(1, 4 * largest), options)
        others = map_threads(lambda layer: run_single(layer, options), single.values(), workers)
        for number, check in zip(single, others, strict=True):
            checks[number] = check
            progress(single[number].before.nbytes)
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
