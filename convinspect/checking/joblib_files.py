"""Scan joblib's pickles, in which arrays stand between instructions: the instructions alone are looked at."""

from __future__ import annotations

from convinspect.checking.findings import Scan, finding
from convinspect.checking.pickles import Stream, scan_pickle
from convinspect.errors import ConvInspectError
from convinspect.formats.pickle.joblib_arrays import WRAPPER, JoblibMachine, place_in, without_gaps
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.torch.archive import SMALL_STORAGE

_NAMES = frozenset({WRAPPER, f"sklearn.externals.{WRAPPER}"})


def scan_joblib(stream: Stream) -> Scan[Pickle | None]:
    """Scan such a pickle, and those of its arrays of Python objects; returns it, or None where it is malformed."""
    storages = stream.size // SMALL_STORAGE
    machine, error = JoblibMachine(storages), None
    try:
        end = machine.carry_out(stream.read, 0, stream.size)
    except ConvInspectError as raised:
        end, error = stream.size, raised
    gaps = machine.gaps
    read, size = without_gaps(stream.read, gaps, end)
    ordinary = stream.ordinary | _NAMES
    without = stream._replace(read=read, size=size, ordinary=ordinary, moved=lambda at: place_in(gaps, at))
    yield from scan_pickle(without, 0, storages)
    for gap in gaps:
        if gap.is_pickle:
            yield from scan_pickle(stream._replace(ordinary=ordinary), gap.start, storages)
    if error is not None:
        yield finding("unreadable", stream.path, error.problem, stream.place(0), remedy=error.remedy)
        return None
    if end < stream.size:
        left = stream.size - end
        message = f"{left:,} bytes follow its pickle"
        yield finding("trailing-bytes", stream.path, message, stream.place(end, left))
    return Pickle(machine.result(end))
