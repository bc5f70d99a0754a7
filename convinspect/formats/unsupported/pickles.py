"""Says what a pickle is that `torch.save` did not write."""

from __future__ import annotations

from collections.abc import Collection

from convinspect.errors import BrokenFile, ConvInspectError, CutShort, NotACheckpoint, RefusedFile
from convinspect.formats.files import File, cut_short
from convinspect.formats.pickle.machine import Machine
from convinspect.formats.unsupported.kinds import OLD_JOBLIB, PICKLED_ARRAYS, PLAIN_PICKLE, Kind

_ARRAY_BESIDE = "joblib.numpy_pickle.NDArrayWrapper"
"""What joblib had in place of an array whose bytes are in a file of their own."""


def other_pickle(file: File) -> ConvInspectError:
    """The error for a pickle that `torch.save` did not write."""
    machine = Machine()
    try:
        machine.carry_out(file.read, 0, file.size)
    except CutShort:
        return cut_short(file.size, None, ", in the middle of a pickle").at(file.path)
    except BrokenFile as error:
        return error.at(file.path)
    except RefusedFile:
        return _error(file, PLAIN_PICKLE, "")
    names = [name for name in machine.globals if not name.startswith("builtins.")]
    return _error(file, _kind_of(file, names), _asked(names))


def _kind_of(file: File, names: Collection[str]) -> Kind:
    if any(name.endswith(_ARRAY_BESIDE) for name in names):
        return OLD_JOBLIB
    if names and all(name.startswith(("numpy.", "collections.", "_codecs.")) for name in names):
        return PICKLED_ARRAYS
    return PLAIN_PICKLE


def _asked(names: Collection[str]) -> str:
    if not names:
        return ""
    return f" (it asks for {next(iter(names))!r}{' and others' if len(names) > 1 else ''})"


def _error(file: File, kind: Kind, asked: str) -> NotACheckpoint:
    what = kind.what
    if kind is PLAIN_PICKLE:
        what = what.replace(",", f"{asked},", 1)
    return NotACheckpoint(f"it is {what}", kind.remedy, file.path)
