"""A convolution against Linear with the same weights, measured on this machine: time, precision, gradients.

No figure here is general: another device, dtype, number of threads or library gives different ones. `claims` checks
common claims against them.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from convinspect.arrays.devices import clock_of, float64_device, free_memory, full_float32, threads
from convinspect.arrays.error_bound import Agreement
from convinspect.comparing.subjects import Subject
from convinspect.comparing.ways import Way, apart, in_float64, results, shaped_like, ways_of
from convinspect.errors import CannotShow, Option, Wording

_LEAST = 0.004
"""Seconds that one timing takes at least: the clock and the call around it then count for nothing."""
_SEEDS = 5


@dataclass(frozen=True, slots=True)
class Setting:
    """The parameters of a measurement.

    Attributes:
        batch: N of the input; None for each layer's usual one.
        lengths: Positions, or patches, of each example, one or more; () for each layer's usual one.
        dtypes: PyTorch's names.
        device: "cpu", "cuda", ….
        threads: Number of threads of PyTorch's operators on the CPU.
        repeats: Number of timings of each; the result is their median.
        seed: Seed of the inputs.
    """

    batch: int | None = None
    lengths: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ("float32",)
    device: str = "cpu"
    threads: int = 1
    repeats: int = 7
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds of one call: the median of several timings, and half the distance between their quartiles."""

    median: float
    spread: float

    @property
    def settled(self) -> bool:
        """Whether it says anything: the middle half of the timings is no wider than their median is long.

        Beyond that something else ran on the machine, and ratios of such times are of that and not of the layers.
        """
        return 2 * self.spread <= self.median

    def over(self, other: Time) -> tuple[float, float]:
        """The ratio of this median to the other's, and the noise of that ratio."""
        ratio = self.median / other.median
        return ratio, ratio * (self.spread / self.median + other.spread / other.median)


@dataclass(frozen=True, slots=True)
class Measured:
    """One layer in one dtype at one length.

    Attributes:
        name: The layer's name.
        sizes: Channels in and out.
        dtype: PyTorch's name.
        length: Positions, or patches, of each example.
        alike: Number of other layers in the file with these sizes.
        forward: By the names of `ways_of`: the convolution, the Linear in its place, and another Linear.
        backward: The same, forward and backward together: ∂x, ∂W and ∂b.
        errors: Of the first two: largest and RMS error against float64, one pair for each seed.
        gradients: By "input", "weight" and "bias": the largest difference between these two, and the largest gradient.
        exact: The same and "output" in float64, relative to the bound for rounding in float64.
        outputs: The largest difference of their outputs, and the largest output.
        patch: Kernel size of a convolution that cuts patches; () for a pointwise one.
        shape: The input's.
    """

    name: str
    sizes: tuple[int, int]
    dtype: str
    length: int
    alike: int
    forward: Mapping[str, Time]
    backward: Mapping[str, Time]
    errors: Mapping[str, Sequence[tuple[float, float]]]
    gradients: Mapping[str, tuple[float, float]]
    exact: Mapping[str, Agreement]
    outputs: tuple[float, float] = (0.0, 0.0)
    patch: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()

    @property
    def settled(self) -> bool:
        """All times of it are."""
        return all(time.settled for time in (*self.forward.values(), *self.backward.values()))

    @property
    def differs(self) -> bool:
        """The two differ by more than rounding explains."""
        return not all(agreement.ok for agreement in self.exact.values())


class NotRun(NamedTuple):
    """A layer in one dtype at one length that PyTorch does not run, and why."""

    name: str
    dtype: str
    length: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Case:
    """One layer in one dtype at one length."""

    subject: Subject
    dtype: str
    batch: int
    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's."""
        return self.subject.shape(self.batch, self.length)


def measure(
    subjects: Iterable[Subject],
    setting: Setting,
    progress: Callable[[str], None] = lambda what: None,
    left: list[NotRun] | None = None,
) -> list[Measured]:
    """Measure every layer in every dtype at every length.

    Args:
        subjects: The layers.
        setting: The parameters of the measurement.
        progress: Called with a description of the next measurement.
        left: Gets what PyTorch cannot run: not every device has every dtype for both operators.

    Raises:
        CannotShow: There is too little memory for one of them; nothing was measured then.
        RuntimeError: PyTorch cannot run one of them, and there is no `left`.
    """
    cases = [
        _Case(subject, dtype, setting.batch or subject.usual[0], length)
        for subject in subjects
        for dtype in setting.dtypes
        for length in setting.lengths or subject.usual[1:]
    ]
    for case in cases:
        _check_memory(case, setting.device)
    measured = []
    with threads(setting.threads), full_float32():
        for case in cases:
            progress(f"{case.subject.name}, {case.dtype}, length {case.length}")
            try:
                measured.append(_measured(case, setting))
            except RuntimeError as error:
                if left is None:
                    raise
                reason = str(error).strip().splitlines()[0]
                left.append(NotRun(case.subject.name, case.dtype, case.length, reason))
    return measured


_COPIES = 12
"""Copies of input, weight and output in float64 that are held at once; measured: 7.5 to 10.8."""


def _check_memory(case: _Case, device: str) -> None:
    wide_out, wide_in = case.subject.weight.shape
    positions = case.batch * case.length
    numbers = positions * wide_in + wide_out * wide_in + positions * wide_out
    remedy = Wording("give a smaller ", Option("batch", None), " or ", Option("length", None))
    check_memory(f"{case.subject.name} on {case.shape}", numbers, device, remedy)


def check_memory(what: str, numbers: int, device: str, remedy: str) -> None:
    """Refuse what would not fit, instead of being ended by the system half way.

    Args:
        what: Is to be measured.
        numbers: In its input, weight and output together.
        device: Where.
        remedy: What the user can do.

    Raises:
        CannotShow: It would not.
    """
    needed, free = 8 * _COPIES * numbers, free_memory(device)
    if needed > free:
        raise CannotShow(f"{what} takes about {needed / 1e9:,.0f} GB, and {free / 1e9:,.1f} GB are free", remedy)


def _measured(case: _Case, setting: Setting) -> Measured:
    kind: torch.dtype = getattr(torch, case.dtype)
    subject = case.subject
    wide_out = subject.weight.shape[0]
    w = subject.weight.to(setting.device, kind)
    b = None if subject.bias is None else subject.bias.to(setting.device, kind)
    x = _input(case, setting.seed).to(setting.device, kind)
    ways = ways_of(subject.patch)
    conv, linear = list(ways)[:2]
    pair = ways[conv], ways[linear]
    wide = float64_device(setting.device)
    wide_w, wide_b = wide(w), None if b is None else wide(b)
    before, after = (results(way, x, w, b) for way in pair)
    differences = {name: apart(wide(before[name]), wide(after[name])) for name in before}
    return Measured(
        subject.name,
        (subject.channels, wide_out),
        case.dtype,
        case.length,
        subject.alike,
        _times({name: _forward(way, x, w, b) for name, way in ways.items()}, setting),
        _times({name: _backward(way, x, w, b) for name, way in ways.items()}, setting),
        _errors({conv: pair[0], linear: pair[1]}, case, setting, (w, b), (wide_w, wide_b)),
        {name: one for name, one in differences.items() if name != "output"},
        in_float64(pair, wide(x), wide_w, wide_b),
        differences["output"],
        subject.patch,
        case.shape,
    )


def _input(case: _Case, seed: int) -> torch.Tensor:
    return torch.randn(case.shape, generator=torch.Generator().manual_seed(seed))


def _forward(way: Way, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> Callable[[], object]:
    given, kernel = way.given(x), way.kernel(w)

    def call() -> object:
        with torch.no_grad():
            return way.op(given, kernel, b)

    return call


def _backward(way: Way, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> Callable[[], object]:
    given, kernel = way.given(x), way.kernel(w)
    leaves = [tensor.clone().requires_grad_() for tensor in (given, kernel) + (() if b is None else (b,))]
    g = torch.ones_like(way.op(given, kernel, b))
    bias = leaves[2] if b is not None else None
    return lambda: torch.autograd.grad(way.op(leaves[0], leaves[1], bias), leaves, g)


def _times(calls: Mapping[str, Callable[[], object]], setting: Setting) -> dict[str, Time]:
    """Each call's time, measured in turn, so that other load on the machine affects all of them."""
    from torch.utils.benchmark import Timer

    clock = clock_of(setting.device)
    timers = {
        name: Timer("call()", timer=clock, globals={"call": call}, num_threads=setting.threads)
        for name, call in calls.items()
    }
    counts = {name: _count(timer) for name, timer in timers.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(setting.repeats):
        for name, timer in timers.items():
            taken[name].append(timer.timeit(counts[name]).median)
    return {name: _time(values) for name, values in taken.items()}


def _count(timer: Any) -> int:
    """Number of calls that make one timing long enough."""
    if timer.timeit(1).median > 10 * _LEAST:
        return 1
    timer.timeit(2)
    once = timer.timeit(2).median
    return max(1, int(_LEAST / max(once, 1e-9)))


def _time(values: list[float]) -> Time:
    if len(values) < 2:
        return Time(values[0], 0.0)
    low, middle, high = statistics.quantiles(values, n=4)
    return Time(middle, (high - low) / 2)


def _errors(
    pair: Mapping[str, Way],
    case: _Case,
    setting: Setting,
    weights: tuple[torch.Tensor, torch.Tensor | None],
    wide_weights: tuple[torch.Tensor, torch.Tensor | None],
) -> dict[str, list[tuple[float, float]]]:
    """Largest and RMS error of each against the first in float64, for inputs of several seeds.

    Args:
        pair: The ways, by name.
        case: What is measured.
        setting: Device and seed.
        weights: (O, I) and (O,) or None, in the dtype.
        wide_weights: The same in float64.
    """
    wide = float64_device(setting.device)
    errors: dict[str, list[tuple[float, float]]] = {name: [] for name in pair}
    first = next(iter(pair.values()))
    with torch.no_grad():
        for seed in range(setting.seed, setting.seed + _SEEDS):
            x = _input(case, seed).to(setting.device, weights[0].dtype)
            exact = first.run(wide(x), *wide_weights)
            for name, way in pair.items():
                error = shaped_like(wide(way.run(x, *weights)), exact) - exact
                errors[name].append((float(error.abs().max()), float(error.square().mean().sqrt())))
    return errors


def circumstances(setting: Setting, load: float) -> dict[str, Any]:
    """What the figures depend on: device, threads, versions, libraries, and the load before measuring."""
    kind = torch.device(setting.device).type
    on_cpu, on_gpu = kind == "cpu", kind == "cuda"
    onednn: Any = torch.backends.mkldnn
    mkl: Any = torch.backends.mkl
    cudnn: Any = torch.backends.cudnn
    return {
        "device": torch.cuda.get_device_name(setting.device) if on_gpu else setting.device,
        "dtypes": list(setting.dtypes),
        "batch": setting.batch,
        "lengths": list(setting.lengths),
        "threads": setting.threads,
        "repeats": setting.repeats,
        "torch": torch.__version__,
        "oneDNN": bool(onednn.is_available()) and on_cpu,
        "MKL": bool(mkl.is_available()) and on_cpu,
        "cuDNN": cudnn.version() if on_gpu else None,
        "tf32": False,
        "load": load,
        # Two threads that share one core wait for each other longer than a layer takes.
        "busy": load + setting.threads > (os.cpu_count() or 1) + 0.5,
    }
