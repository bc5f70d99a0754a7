"""Conv1d of kernel size 1 against Linear with the same weights, measured on this machine: time, precision, gradients.

No figure here is general: another device, dtype, number of threads or library gives different ones. `claims` checks
common claims against them.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from convinspect.arrays.devices import clock_of, float64_device, full_float32, threads
from convinspect.arrays.error_bound import Agreement, compare_gradients
from convinspect.arrays.forms import Form, Operation

_LEAST = 0.004
"""Seconds that one timing takes at least: the clock and the call around it then count for nothing."""
_SEEDS = 5


@dataclass(frozen=True, slots=True)
class Subject:
    """One layer's weights.

    Attributes:
        name: The layer's name.
        weight: (O, I).
        bias: (O,) or None.
        alike: Number of other layers in the file with the same sizes.
    """

    name: str
    weight: torch.Tensor
    bias: torch.Tensor | None
    alike: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """The parameters of a measurement.

    Attributes:
        batch: N of the input (N, C, L).
        lengths: L, one or more.
        dtypes: PyTorch's names.
        device: "cpu", "cuda", ….
        threads: Number of threads of PyTorch's operators on the CPU.
        repeats: Number of timings of each; the result is their median.
        seed: Seed of the inputs.
    """

    batch: int = 8
    lengths: tuple[int, ...] = (1024,)
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

    def over(self, other: Time) -> tuple[float, float]:
        """The ratio of this median to the other's, and the noise of that ratio."""
        ratio = self.median / other.median
        return ratio, ratio * (self.spread / self.median + other.spread / other.median)


@dataclass(frozen=True, slots=True)
class Measured:
    """One layer in one dtype at one length.

    Attributes:
        name: The layer's name.
        sizes: (I, O).
        dtype: PyTorch's name.
        length: L.
        alike: Number of other layers in the file with these sizes.
        forward: By "conv1d", "linear" and "transposed" (Linear between the two transposes that (N, C, L) needs).
        backward: The same, forward and backward together.
        errors: By "conv1d" and "linear": largest and RMS error against float64, one pair for each seed.
        gradients: By "input", "weight" and "bias": the largest difference between the two, and the largest gradient.
        exact: The same gradients in float64, relative to the bound for rounding in float64.
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


def pointnet(seed: int = 0) -> list[Subject]:
    """The pointwise layers of PointNet's feature transform, with PyTorch's own initial weights."""
    generator = torch.Generator().manual_seed(seed)
    subjects = []
    for number, (wide_in, wide_out) in enumerate(((64, 64), (64, 128), (128, 1024)), 1):
        # As nn.Conv1d initializes them: uniform within ±1/√I.
        bound = wide_in**-0.5
        weight = (torch.rand(wide_out, wide_in, generator=generator) * 2 - 1) * bound
        bias = (torch.rand(wide_out, generator=generator) * 2 - 1) * bound
        subjects.append(Subject(f"conv{number}", weight, bias))
    return subjects


def measure(
    subjects: Iterable[Subject], setting: Setting, progress: Callable[[str], None] = lambda what: None
) -> list[Measured]:
    """Measure every layer in every dtype at every length.

    Args:
        subjects: The layers.
        setting: The parameters of the measurement.
        progress: Called with a description of the next measurement.

    Raises:
        RuntimeError: PyTorch cannot run Conv1d or Linear in a dtype on the device.
    """
    measured = []
    with threads(setting.threads), full_float32():
        for subject in subjects:
            for dtype in setting.dtypes:
                for length in setting.lengths:
                    progress(f"{subject.name}, {dtype}, length {length}")
                    measured.append(_measured(subject, setting, dtype, length))
    return measured


def _conv1d(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
    """(N, C, L), (O, C, 1) → (N, O, L)."""
    return functional.conv1d(x, w, b)


def _linear(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
    """(N, L, C), (O, C) → (N, L, O)."""
    return functional.linear(x, w, b)


def _transposed(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
    """(N, C, L), (O, C) → (N, O, L), contiguous in memory as a convolution's result is."""
    return functional.linear(x.mT, w, b).mT.contiguous()


def _measured(subject: Subject, setting: Setting, dtype: str, length: int) -> Measured:
    kind: torch.dtype = getattr(torch, dtype)
    wide_out, wide_in = subject.weight.shape
    weight = subject.weight.to(setting.device, kind)
    bias = None if subject.bias is None else subject.bias.to(setting.device, kind)
    x = _input(setting, wide_in, length, setting.seed).to(setting.device, kind)
    forms: dict[str, tuple[Operation, torch.Tensor, torch.Tensor]] = {
        "conv1d": (_conv1d, x, weight.unsqueeze(-1)),
        "linear": (_linear, x.mT.contiguous(), weight),
        "transposed": (_transposed, x, weight),
    }
    calls = {name: _forward(op, x, w, bias) for name, (op, x, w) in forms.items()}
    both = {name: _backward(op, x, w, bias) for name, (op, x, w) in forms.items()}
    seeds = [setting.seed + n for n in range(_SEEDS)]
    samples = [_input(setting, wide_in, length, seed).to(setting.device, kind) for seed in seeds]
    wide = float64_device(setting.device)
    kernels, wide_bias = (wide(weight.unsqueeze(-1)), wide(weight)), None if bias is None else wide(bias)
    return Measured(
        subject.name,
        (wide_in, wide_out),
        dtype,
        length,
        subject.alike,
        _times(calls, setting),
        _times(both, setting),
        _errors(weight, bias, samples, wide),
        _gradient_differences(forms, bias, wide),
        compare_gradients((Form("Conv1d"), Form("Linear")), kernels, (wide_bias, wide_bias), [wide(x)]),
    )


def _input(setting: Setting, channels: int, length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(setting.batch, channels, length, generator=generator)


def _forward(op: Operation, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return op(x, w, b)

    return call


def _backward(op: Operation, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> Callable[[], object]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, w) + (() if b is None else (b,))]
    g = torch.ones_like(op(x, w, b))
    bias = leaves[2] if b is not None else None
    return lambda: torch.autograd.grad(op(leaves[0], leaves[1], bias), leaves, g)


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
    timer.timeit(2)
    once = timer.timeit(2).median
    return max(1, int(_LEAST / max(once, 1e-9)))


def _time(values: list[float]) -> Time:
    if len(values) < 2:
        return Time(values[0], 0.0)
    low, middle, high = statistics.quantiles(values, n=4)
    return Time(middle, (high - low) / 2)


def _errors(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    samples: list[torch.Tensor],
    wide: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, list[tuple[float, float]]]:
    """Largest and RMS error of each against float64, which `wide` raises to, for each sample (N, C, L)."""
    kernel, offset = wide(weight.unsqueeze(-1)), None if bias is None else wide(bias)
    errors: dict[str, list[tuple[float, float]]] = {"conv1d": [], "linear": []}
    with torch.no_grad():
        for x in samples:
            exact = _conv1d(wide(x), kernel, offset)
            for name, y in (
                ("conv1d", _conv1d(x, weight.unsqueeze(-1), bias)),
                ("linear", _linear(x.mT.contiguous(), weight, bias).mT),
            ):
                error = wide(y) - exact
                errors[name].append((float(error.abs().max()), float(error.square().mean().sqrt())))
    return errors


def _gradient_differences(
    forms: Mapping[str, tuple[Operation, torch.Tensor, torch.Tensor]],
    bias: torch.Tensor | None,
    wide: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, tuple[float, float]]:
    """Largest difference of ∂x, ∂W and ∂b in the dtype itself, and the largest gradient of each."""
    grads = []
    generator = torch.Generator().manual_seed(1)
    g = None
    for op, x, w in (forms["conv1d"], forms["transposed"]):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, w) + (() if bias is None else (bias,))]
        y = op(leaves[0], leaves[1], leaves[2] if bias is not None else None)
        g = torch.randn(y.shape, generator=generator).to(y) if g is None else g
        grads.append(torch.autograd.grad(y, leaves, g))
    differences = {}
    for name, by_conv1d, by_linear in zip(("input", "weight", "bias"), *grads, strict=False):
        difference = (wide(by_conv1d).flatten() - wide(by_linear).flatten()).abs()
        differences[name] = (float(difference.max()), float(wide(by_conv1d).abs().max()))
    return differences


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
