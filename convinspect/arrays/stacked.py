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
from convinspect.arrays.storage import Files, compare_crc
from convinspect.arrays.to_torch import torch_dtype
from convinspect.records import Tensor

STRIP = 1 << 19
"""Weights of a large layer that are run at once: 4 MB in float64. In smaller strips, operators end so soon that threads
wait for the interpreter lock most of the time.
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
    # What a batch does to an output does not depend on its row: the first strip shows it. The last input, of which
    # rounding is told, runs through all strips.
    parts = [run.results(weight, bias, number == 0) for number, (weight, bias) in enumerate(_strips(stack, bench))]
    # (layers, results of one): a layer is in one strip with others, or in several by itself.
    before, after, size, exact, *rounded = (torch.cat(column, 1) for column in zip(*parts, strict=True))
    terms = stack.weights[0].numel // stack.weights[0].shape[0] + 1
    found = agreements(before, after, size, terms)
    if not run.rounds:
        return [(one, None) for one in found]
    return list(zip(found, roundings(rounded[0], rounded[1], exact, stack.dtype), strict=True))


class _Run:
    """A stack's operators.

    Attributes:
        rounds: Whether PyTorch computes in the stack's dtype.
    """

    def __init__(self, stack: Stack, bench: Bench) -> None:
        self.bench, self.after, self.xs = bench, stack.after[1:], stack.xs
        self.layers, self.outputs, self.dtype = len(stack.weights), stack.weights[0].shape[0], stack.dtype
        self.operations = [operation(form) for form in stack.forms]
        self.bounding = [Bounding(stack.forms[0], xs) for xs in (stack.xs[-1:], stack.xs)]
        self.rounds = stack.dtype.is_floating_point
        self.narrow = stack.xs[-1].to(stack.dtype) if self.rounds else stack.xs[-1]

    def results(self, weight: torch.Tensor, bias: torch.Tensor | None, every: bool) -> tuple[torch.Tensor, ...]:
        """(layers, results of one) in float64: before, after, the sums of absolute values, the last input's before;
        and the last input's before and after in the stack's dtype.

        Args:
            weight: Rows as stored.
            bias: Of these rows.
            every: Run each input through them, not the last alone.
        """
        wide = self.bench.numbers("wide", weight.numel(), torch.float64).view(weight.shape).copy_(weight)
        wide_bias = None if bias is None else bias.double()
        both = [self._both(x, wide, wide_bias) for x in (self.xs if every else self.xs[-1:])]
        # Both have been run: their absolute values may take the weights' place, which is in the cache.
        sizes = self.bounding[every].sizes(wide, wide_bias, into=wide)
        columns = [self._by_layer(column) for column in (*zip(*both, strict=True), sizes)]
        return (*columns, self._by_layer([both[-1][0]]), *self._rounded(weight, bias))

    def _both(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before = self.operations[0](x, weight, bias)
        after = self.operations[1](x, weight.reshape(len(weight), *self.after), bias)
        if before.shape != after.shape:
            # As of one layer, which all of them are like.
            raise OtherShape(*((len(y), self.outputs, y.shape[2]) for y in (before, after)))
        return before, after

    def _rounded(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        if not self.rounds:
            return ()
        try:
            narrow_bias = None if bias is None else bias.to(self.dtype)
            pair = self._both(self.narrow, weight.to(self.dtype), narrow_bias)
        except (RuntimeError, NotImplementedError):
            self.rounds = False
            return ()
        return tuple(self._by_layer([y.double()]) for y in pair)

    def _by_layer(self, results: Sequence[torch.Tensor]) -> torch.Tensor:
        """Results (N, layers · O, L) as (layers, N · O · L), those of several inputs one after the other."""
        rows = [y.reshape(len(y), self.layers, -1, y.shape[2]).transpose(0, 1).flatten(1) for y in results]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)


def _strips(stack: Stack, bench: Bench) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Weights (rows, I, 1, …) and biases (rows,) as stored: rows of all layers, or some rows of one."""
    first = stack.weights[0]
    outputs, layers = first.shape[0], len(stack.weights)
    step = outputs if layers > 1 else max(1, STRIP * outputs // first.numel)
    biases = stack.biases
    bias = _Readings("bias", biases, bench).next(biases[0].shape[0]).flatten() if biases else None
    readings = _Readings("weight", stack.weights, bench)
    for start in range(0, outputs, step):
        rows = min(step, outputs - start)
        weight = readings.next(rows).view(layers * rows, *first.shape[1:])
        yield weight, bias if bias is None or rows == outputs else bias[start : start + rows]


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

    def next(self, rows: int) -> torch.Tensor:
        """(tensors, rows · numbers of a row); valid until the next is asked for."""
        width = rows * self.row
        raw = self.bench.numbers(self.purpose, len(self.tensors) * width, torch.uint8)
        view = raw.numpy().data
        for number, tensor in enumerate(self.tensors):
            self._read(tensor, view[number * width : (number + 1) * width])
        self.done += width
        return raw.view(self.dtype).view(len(self.tensors), -1)

    def _read(self, tensor: Tensor, into: memoryview) -> None:
        storage = tensor.storage
        assert storage is not None
        begin = tensor.offset * self.dtype.itemsize + self.done
        self.bench.files.fetch(storage, self.size)(begin, into)
        if storage.crc and self.size == storage.nbytes:
            # Several rows at a time are read of a single tensor only.
            self.crc = zlib.crc32(into, self.crc if self.done else 0)
            if self.done + len(into) == self.size:
                compare_crc(storage, self.crc)
