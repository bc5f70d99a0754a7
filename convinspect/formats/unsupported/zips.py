"""Identifies a zip that is not supported, by the names of its records."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath

from convinspect.errors import BrokenFile, ConvInspectError, NotACheckpoint
from convinspect.formats.unsupported.kinds import PACKAGES, ZIPS, Kind, Named

_NUMBERS = re.compile(r"(?:.*/)?data/\d+")
_LEFT = re.compile(r"(?:[^/]+/)?(?:byteorder|\.format_version|\.storage_alignment|constants\.pkl|\.data/.*_id)")
"""Small records of `torch.save` and TorchScript, which are written before and after the storages."""
_WEIGHTS = {".pt", ".pth", ".ckpt", ".bin", ".safetensors"}
_LONGEST = 80


def other_zip(names: Collection[str]) -> ConvInspectError:
    """The error for a zip without a checkpoint's pickle at the expected place.

    Args:
        names: Full names of all its records.
    """
    if not names:
        return NotACheckpoint("it is a zip archive with nothing in it", "download or save it again")
    pickles = [name for name in names if name.endswith("/data.pkl")]
    known = of_kind(names)
    if known is None and pickles:
        return _elsewhere(pickles, names)
    numbers = sum(_NUMBERS.fullmatch(name) is not None for name in names)
    if known is None and numbers:
        what = "record" if numbers == 1 else "records"
        return BrokenFile(
            f"it holds {numbers:,} {what} of numbers, and no data.pkl, which says what they are",
            "download or save it again",
        )
    if known is None and any(_LEFT.fullmatch(name) for name in names):
        return BrokenFile(
            "it is half of a torch.save file: no data.pkl, which says what is in it, and no numbers",
            "download or save it again",
        )
    if known is not None:
        return known
    first = next(iter(names))[:_LONGEST]
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return NotACheckpoint(
        f"it is a zip archive without a checkpoint's records (no data.pkl); it holds {first!r}{more}",
        "unpack it if the weights are among them, or give the file that holds them",
    )


def known_zip(names: Collection[str]) -> Kind | None:
    """The kind of zip whose records are no checkpoints whatever they are called, judged by their names."""
    return _first(ZIPS, names)


def of_kind(names: Collection[str]) -> NotACheckpoint | None:
    """The error that says what a zip is, judged by its records' names; None if they do not tell."""
    known = known_zip(names)
    weights = next((name for name in names if PurePosixPath(name).suffix in _WEIGHTS), None)
    if known is None and weights is not None:
        what = f"it is a zip archive that holds {weights[:_LONGEST]!r}"
        return NotACheckpoint(what, "give that file as this path, an exclamation mark and its name")
    kind = known or _first(PACKAGES, names)
    return NotACheckpoint(f"it is {kind.what}", kind.remedy) if kind is not None else None


def _first(kinds: Collection[Named], names: Collection[str]) -> Kind | None:
    for kind in kinds:
        if any(map(re.compile(kind.pattern).fullmatch, names)):
            return Kind(kind.what, kind.remedy)
    return None


def _elsewhere(pickles: list[str], names: Collection[str]) -> BrokenFile:
    if len(pickles) > 1:
        return BrokenFile(
            f"it holds {len(pickles)} checkpoints ({', '.join(pickles[:3])}), and which is meant cannot be told",
            "unpack it, and pack one folder again",
        )
    folder = pickles[0].removesuffix("data.pkl")
    if all(name.startswith(folder) for name in names):
        return BrokenFile(
            f"its records lie in the folder {folder!r}, and PyTorch looks for them one folder deep",
            f"unpack it, and pack {PurePosixPath(folder).name!r} alone",
        )
    return BrokenFile(
        f"its records lie in several folders, and only {pickles[0]!r} in its place",
        "unpack it, and pack one folder again",
    )
