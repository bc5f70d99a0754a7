"""Tensors compared by a child process, while this one loads PyTorch.

Python code that imports and Python code that compares hold each other's interpreter lock up where both are threads of
one process: of 2 GB that costs a second.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import BinaryIO

from convinspect.arrays.equality import as_matrix, same_bits
from convinspect.arrays.storage import Files
from convinspect.arrays.threads import in_turns, map_threads
from convinspect.errors import ConvInspectError
from convinspect.formats.sources import is_plain
from convinspect.records import Tensor
from convinspect.verifying.told import Progress
from convinspect.verifying.wrong_numbers import is_matrix
from convinspect.writing.child_process import can_fork, forked

Pair = tuple[Tensor, Tensor]
TURN = 4 << 20
"""Bytes that a thread compares at least before it takes more."""
_NICER = 5
"""How much the child yields to this process, without whose import nothing goes on."""


def same_by_child(
    common: Sequence[tuple[str, Tensor, Tensor]],
    workers: int,
    meanwhile: Callable[[], None],
    progress: Progress,
) -> set[str]:
    """Names of tensors that a child finds to hold the same bits, as they are or as matrices; none where no child can
    be made.

    Of all others nothing is known: they differ, or could not be read, or the child ended before. Who looks at them
    again finds what is wrong.

    Args:
        common: Name, before and after.
        workers: Threads of the child.
        meanwhile: What this process does; it may start threads. It is called once, whatever becomes of the child.
        progress: Called with the number of bytes that were compared, of those that are the same.
    """
    # What lies elsewhere is read by threads, and by what this process has opened there.
    here = [(name, pair) for name, *both in common if all(map(_is_here, both)) and (pair := _in_one_shape(*both))]
    if not here or not can_fork():
        meanwhile()
        return set()
    same: set[str] = set()
    with ExitStack() as stack:
        try:
            child = stack.enter_context(forked(partial(_serve, [pair for _, pair in here], workers)))
        except OSError:
            meanwhile()
            return same
        meanwhile()
        for number in _numbers(child.answer):
            name, pair = here[number]
            same.add(name)
            progress(pair[0].nbytes)
    return same


def _in_one_shape(before: Tensor, after: Tensor) -> Pair | None:
    """Both as they are, or as matrices (out, in); None if they have two dtypes or shapes, or more than numbers."""
    if before.dtype != after.dtype or not before.layout == after.layout == "strided":
        return None
    if before.shape == after.shape:
        return before, after
    if not (is_matrix(before) and is_matrix(after)) or before.shape[:2] != after.shape[:2]:
        return None
    return as_matrix(before, transposed=False), as_matrix(after, transposed=False)


def _is_here(tensor: Tensor) -> bool:
    storage = tensor.storage
    return storage is not None and storage.pieces is None and is_plain(storage.file)


def _serve(pairs: Sequence[Pair], workers: int, answer: BinaryIO) -> None:
    """In the child: write the numbers of the pairs that are the same."""
    with suppress(OSError):
        os.nice(_NICER)

    def same(numbers: list[int]) -> list[int]:
        with Files() as files:
            return [number for number in numbers if _is_same(pairs[number], files)]

    turns = in_turns(range(len(pairs)), lambda number: pairs[number][0].nbytes, TURN)
    for found in map_threads(same, turns, workers):
        answer.write(array("Q", found).tobytes())
        answer.flush()


def _is_same(pair: Pair, files: Files) -> bool:
    try:
        return same_bits(*pair, files)
    except (ConvInspectError, OSError, MemoryError):
        return False


def _numbers(answer: BinaryIO) -> Iterator[int]:
    while len(word := answer.read(8)) == 8:
        yield array("Q", word)[0]
