"""What opening a file ends as: a listing, our own error, or a fault of ours; within time and memory."""

from __future__ import annotations

import resource
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeAlias

from convinspect.arrays.stats import of
from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.converting.plan import Request, plan
from convinspect.errors import ConvInspectError
from convinspect.formats.pickle import machine as pickle_walk
from convinspect.formats.sources import outermost
from convinspect.layers.find import find_layers
from convinspect.layers.folding import unfolded
from convinspect.render.cells import safe
from convinspect.render.data import csv_text, json_text
from convinspect.showing.shapes import listing_payload, listing_table
from support.memory import peak, reset_peak

SECONDS = 1.0
SECONDS_PER_KB = 0.02
"""Of the processor, so that other work on the machine does not count; the promise is a second for each kB."""

BYTES = 32_000_000
BYTES_PER_BYTE = 400
"""Resident memory beyond what the process had. A pickle's instruction of one byte leaves up to 250."""

CEILING = 2_000_000_000
"""Beyond which the system refuses memory, lest one bad input take the machine along."""

_READ_AT_MOST = 1 << 22

Ended: TypeAlias = tuple[str, str]
"""How opening a file ended ("listed", or the error's class), and what was wrong with that ("" when nothing)."""


class TooSlow(BaseException):
    """The input took more time than it may; no handler of ours catches it."""


def confine() -> None:
    """Limit this process, once."""
    resource.setrlimit(resource.RLIMIT_DATA, (CEILING, CEILING))
    signal.signal(signal.SIGPROF, _too_slow)


def _too_slow(signum: int, frame: object) -> None:
    raise TooSlow


def size_of(path: Path) -> int:
    """Bytes of a file, or of a folder's files; of an archive where the path goes on within it."""
    path = outermost(path)
    if path.name == ".metadata" or path.suffix == ".json":
        path = path.parent
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) if path.is_dir() else path.stat().st_size


def fault_of(path: Path, random: Random) -> Ended:
    """What opening `path` ended as."""
    return judged(lambda: _looked_at(path, random), size_of(path))


def judged(work: Callable[[], str], size: int) -> Ended:
    """What a piece of work ended as, and whether it took more than it may for a file of `size` bytes."""
    seconds = SECONDS + SECONDS_PER_KB * size / 1000
    before = reset_peak()
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    ended, fault = "fault", ""
    try:
        ended = work()
    except TooSlow:
        fault = f"more than {seconds:.1f} s for {size:,} bytes\n{traceback.format_exc()}"
    except ConvInspectError as error:
        ended, fault = type(error).__name__, _ill_said(str(error))
    except Exception:
        fault = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    taken, allowed = peak() - before, BYTES + BYTES_PER_BYTE * size
    if not fault and taken > allowed:
        fault = f"{taken:,} bytes of memory for {size:,} bytes, in {time.process_time() - started:.2f} s"
    return ended, fault


def _looked_at(path: Path, random: Random) -> str:
    # Pickles are read in windows of a megabyte, which no fixture fills; small ones break instructions in two.
    pickle_walk._WINDOW = random.choice((1 << 20, 1 << 20, 1 << 20, 300))
    checkpoint = open_checkpoint(path)
    layers = find_layers(checkpoint)
    if random.random() < 0.3:
        shown = "".join(json_text(listing_payload(checkpoint, layers, layers)))
        shown += "".join(csv_text([listing_table(checkpoint, layers, unfolded(layers), True)]))
        if any(not (char.isprintable() or char in "\r\n") for char in shown):
            return "listed with control characters" + _raise("what is shown has control characters")
        plan(layers, Request(to="Linear"))
    if random.random() < 0.3:
        _read_some(checkpoint, random)
    return "listed"


def _raise(reason: str) -> str:
    raise AssertionError(reason)


def _read_some(checkpoint: Checkpoint, random: Random) -> None:
    """The numbers of some tensors; an expanded one may have any number of them, whatever the file's size."""
    small = [one for one in checkpoint.tensors.values() if one.nbytes <= _READ_AT_MOST]
    for tensor in random.sample(small, min(3, len(small))):
        try:
            of(tensor)
        except ConvInspectError as error:
            if said := _ill_said(str(error)):
                raise AssertionError(said) from error


def _ill_said(message: str) -> str:
    """What is wrong with an error's text as it is printed."""
    shown = safe(message)
    if not shown.strip() or "Traceback" in shown:
        return f"an error that says nothing: {shown!r}"
    return "" if all(char.isprintable() for char in shown) else f"an error with control characters: {shown!r}"
