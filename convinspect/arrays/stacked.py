"""Layers of one shape, dtype and form whose numbers are the same before and after, run as one tall layer.

What such a layer computes of an output is its row of the weight. Rows of many small layers are therefore one matrix,
and a large layer is run some rows at a time: read, checked, raised to float64 and run while they are in the cache.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from convinspect.arrays.error_bound import Agreement, Bounding, OtherShape, Rounding, agreements, roundings
from convinspect.arrays.forms import Form, operation
from convinspect.arrays.storage import Fetch, Files, compare_crc
from convinspect.arrays.to_torch import torch_dtype
from convinspect.records import Storage, Tensor

STRIP = 1 << 18
"""Weights of a large layer that are run at once: 2 MB in float64. Of more, less stays in the caches that threads share;
of fewer, calling an operator costs more than what it computes.
"""


class Stack(NamedTuple):
    """Layers to run as one.

    Attributes:
        forms: Before and after; neither has groups, patches or a weight stored as (in, out).
        weights: Before, each (O, I, 1, …), for all of which `is_plain`.
        biases: (O,), likewise; none where the layers have none.
        after: The weights' shape after.
        xs: Inputs (N, C, L) in float64.
        dtype: In which rounding is measured.
    """

    forms: tuple[Form, Form]
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    after: tuple[int, ...]
    xs: Sequence[torch.Tensor]
    dtype: torch.dtype


@dataclass(slots=True)
class Bench:
    """What one thread keeps between stacks: open files and memory, since allocating costs more than filling."""

    files: Files = field(default_factory=Files)
    memory: dict[tuple[str, torch.dtype], torch.Tensor] = field(default_factory=dict)

    def numbers(self, purpose: str, count: int, dtype: torch.dtype) -> torch.Tensor:
        """(count,), whatever is in it: the same memory for each purpose."""
        found = self.memory.get((purpose, dtype))
        if found is None or found.numel() < count:
            found = self.memory[purpose, dtype] = torch.empty(count, dtype=dtype)
        return found[:count]


def run_stack(stack: Stack, bench: Bench) -> list[tuple[Agreement, Rounding | None]]:
    """How far outputs before and after are apart in float64, and what rounding does in `stack.dtype`, of each layer.

    Raises:
        OtherShape: The two give results of different shapes.
        ConvInspectError: Bytes are missing or damaged.
    """
    run = _Run(stack, bench)
    for number, strip in enumerate(_strips(stack, bench)):
        # What a batch does to an output does not depend on its row: the first strip shows it. One example runs through
        # all strips.
        run.add(strip, every=number == 0)
    return run.found()


class _Strip(NamedTuple):
    """Rows of all layers, or some rows of one: weights (rows, I, 1, …) as stored, and which of the rows they are."""

    weight: torch.Tensor
    rows: slice


class _Column(NamedTuple):
    """Results (N, rows, L) before and after, and the sums of absolute values; of some rows, on one input."""

    before: torch.Tensor
    after: torch.Tensor
    size: torch.Tensor


class _Run:
    """A stack's operators, and what they gave.

    A strip takes a millisecond: what is done in Python for each is kept short, since other threads wait meanwhile.

    Attributes:
        rounds: Whether PyTorch computes in the stack's dtype.
        one: The example (1, C, L) that runs through all rows.
        narrow: What rounding is told of: the last input, or of a large layer that example.
    """

    def __init__(self, stack: Stack, bench: Bench) -> None:
        self.bench, self.stack = bench, stack
        self.outputs = stack.weights[0].shape[0]
        self.operations = [operation(form) for form in stack.forms]
        self.one = stack.xs[-1][:1]
        self.inputs = [[self.one], stack.xs]
        self.bounding = [Bounding(stack.forms[0], xs) for xs in self.inputs]
        self.rounds = stack.dtype.is_floating_point
        told = self.one if _rows_at_once(stack) < self.outputs else stack.xs[-1]
        self.narrow = told.to(stack.dtype) if self.rounds else told
        self.bias = _bias(stack, bench)
        self.wide_bias = None if self.bias is None else self.bias.double()
        self.columns: list[_Column] = []
        self.exact: list[torch.Tensor] = []
        self.rounded: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, strip: _Strip, every: bool) -> None:
        """Run a strip's rows.

        Args:
            strip: The rows.
            every: Run each input through them, not one example alone.
        """
        weight = strip.weight
        wide = self.bench.numbers("wide", weight.numel(), torch.float64).view(weight.shape).copy_(weight)
        wide_bias, bias = (None if bias is None else bias[strip.rows] for bias in (self.wide_bias, self.bias))
        both = [self._both(x, wide, wide_bias) for x in self.inputs[every]]
        # Both have been run: their absolute values may take the weights' place, which is in the cache.
        sizes = self.bounding[every].sizes(wide, wide_bias, into=wide)
        self.columns += [_Column(*pair, size) for pair, size in zip(both, sizes, strict=True)]
        if self.rounds:
            self.exact.append(both[-1][0][: len(self.narrow)])
            self._round(weight, bias)

    def _both(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before = self.operations[0](x, weight, bias)
        after = self.operations[1](x, weight.view(len(weight), *self.stack.after[1:]), bias)
        if before.shape != after.shape:
            # As of one layer, which all of them are like.
            raise OtherShape(*((len(y), self.outputs, y.shape[2]) for y in (before, after)))
        return before, after

    def _round(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        try:
            bias = None if bias is None else bias.to(self.stack.dtype)
            self.rounded.append(self._both(self.narrow, weight.to(self.stack.dtype), bias))
        except (RuntimeError, NotImplementedError):
            self.rounds = False

    def found(self) -> list[tuple[Agreement, Rounding | None]]:
        """What is told of each layer."""
        terms = self.stack.weights[0].numel // self.outputs + 1
        before, after, size = (self._by_layer(column) for column in zip(*self.columns, strict=True))
        found = agreements(before, after, size, terms)
        if not self.rounds:
            return [(one, None) for one in found]
        before, after = (self._by_layer(column).double() for column in zip(*self.rounded, strict=True))
        told = roundings(before, after, self._by_layer(self.exact), self.stack.dtype)
        return list(zip(found, told, strict=True))

    def _by_layer(self, results: Sequence[torch.Tensor]) -> torch.Tensor:
        """Results (N, layers · rows, L) as (layers, N · rows · L), one after the other."""
        layers = len(self.stack.weights)
        if layers == 1:
            return torch.cat([y.flatten() for y in results]).unsqueeze(0)
        rows = [y.reshape(len(y), layers, -1, y.shape[2]).transpose(0, 1).flatten(1) for y in results]
        return torch.cat(rows, 1)


def _bias(stack: Stack, bench: Bench) -> torch.Tensor | None:
    """(layers · O,) as stored."""
    if not stack.biases:
        return None
    return _Readings("bias", stack.biases, bench).next(stack.biases[0].shape[0]).flatten()


def _strips(stack: Stack, bench: Bench) -> Iterator[_Strip]:
    first = stack.weights[0]
    outputs, layers = first.shape[0], len(stack.weights)
    step = _rows_at_once(stack)
    readings = _Readings("weight", stack.weights, bench)
    for start in range(0, outputs, step):
        rows = min(step, outputs - start)
        weight = readings.next(rows).view(layers * rows, *first.shape[1:])
        yield _Strip(weight, slice(layers * start, layers * (start + rows)))


def _rows_at_once(stack: Stack) -> int:
    """Rows of each layer that are run together: of several layers all."""
    first = stack.weights[0]
    outputs = first.shape[0]
    return outputs if len(stack.weights) > 1 else min(outputs, max(1, STRIP * outputs // first.numel))


class _Readings:
    """Plain tensors of one shape and dtype, read side by side, the next rows of each at a time.

    The CRC-32 of a record that is read as a whole is checked with its last rows.
    """

    def __init__(self, purpose: str, tensors: Sequence[Tensor], bench: Bench) -> None:
        self.purpose, self.tensors, self.bench = purpose, tensors, bench
        self.dtype = torch_dtype(tensors[0].dtype)
        self.size = tensors[0].nbytes
        self.row = self.size // tensors[0].shape[0]
        self.done, self.crc = 0, 0
        # Several rows at a time are read of a single tensor only, by the same function.
        self.single = self._opened(tensors[0]) if len(tensors) == 1 else None

    def next(self, rows: int) -> torch.Tensor:
        """(tensors, rows · numbers of a row); valid until the next is asked for."""
        width = rows * self.row
        raw = self.bench.numbers(self.purpose, len(self.tensors) * width, torch.uint8)
        view = raw.numpy().data
        if self.single is not None:
            self._read(*self.single, view)
        else:
            for number, tensor in enumerate(self.tensors):
                self._read(*self._opened(tensor), view[number * width : (number + 1) * width])
        self.done += width
        return raw.view(self.dtype).view(len(self.tensors), -1)

    def _opened(self, tensor: Tensor) -> tuple[Storage, int, Fetch]:
        """A tensor's storage, where its bytes begin in it, and what reads them."""
        storage = tensor.storage
        assert storage is not None
        return storage, tensor.offset * self.dtype.itemsize, self.bench.files.fetch(storage, self.size)

    def _read(self, storage: Storage, begin: int, fetch: Fetch, into: memoryview) -> None:
        fetch(begin + self.done, into)
        if storage.crc and self.size == storage.nbytes:
            self.crc = zlib.crc32(into, self.crc if self.done else 0)
            if self.done + len(into) == self.size:
                compare_crc(storage, self.crc)
