"""What a zip is that holds no checkpoint in its place, as its records' names tell, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath

from convinspect.errors import BrokenFile, ConvInspectError, NotACheckpoint

_NUMBERS = re.compile(r"(?:.*/)?data/\d+")
_LEFT = re.compile(r"(?:[^/]+/)?(?:byteorder|\.format_version|\.storage_alignment|constants\.pkl|\.data/.*_id)")
"""Small records of `torch.save` and TorchScript, which stand before and behind the numbers."""
_WEIGHTS = {".pt", ".pth", ".ckpt", ".bin", ".safetensors"}
_OTHER = "give the file that holds the weights"
_LONGEST = 80

_KNOWN = (
    (r"(?:[^/]+/)?\.data/extern_modules", "a torch.package archive, which brings its model's code along",
     "where you trust it, load it with torch.package.PackageImporter and torch.save the model's state_dict"),
    (r"(?:.*/)?model\.json", "a TorchScript archive of PyTorch 1.3 or older",
     "load and save it once with PyTorch 1.4 or newer"),
    (r".*\.np[yz]", "a NumPy archive (.npz)", "open it with numpy.load"),
    (r"(?:.*/)?model\.weights\.h5", "a Keras archive", "open it with Keras"),
    (r"\[Content_Types\]\.xml", "a Microsoft Office document", _OTHER),
    (r"mimetype", "a document (OpenDocument or EPUB)", _OTHER),
)  # fmt: skip
_PACKAGES = (
    (r"AndroidManifest\.xml", "an Android app", _OTHER),
    (r"META-INF/MANIFEST\.MF", "a Java archive", _OTHER),
    (r"[^/]+\.dist-info/.*", "a Python package", _OTHER),
)
"""Kinds that may bring weights along."""


def other_zip(names: Collection[str]) -> ConvInspectError:
    """The error for a zip without a checkpoint's pickle in its place.

    Args:
        names: Of all its records, whole.
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


def of_kind(names: Collection[str]) -> NotACheckpoint | None:
    """The error that says what a zip is, where its records' names tell; None where they do not."""
    found = _first(_KNOWN, names)
    inside = next((name for name in names if PurePosixPath(name).suffix in _WEIGHTS), None)
    if found is None and inside is not None:
        return NotACheckpoint(f"it is a zip archive that holds {inside[:_LONGEST]!r}", "unpack it and open that file")
    what, remedy = found or _first(_PACKAGES, names) or ("", "")
    return NotACheckpoint(f"it is {what}", remedy) if what else None


def _first(kinds: Collection[tuple[str, str, str]], names: Collection[str]) -> tuple[str, str] | None:
    for pattern, what, remedy in kinds:
        if any(map(re.compile(pattern).fullmatch, names)):
            return what, remedy
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
