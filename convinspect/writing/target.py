"""Check where a checkpoint may be written, and in which format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from convinspect.checkpoint import Checkpoint
from convinspect.containers import ARCHIVES
from convinspect.errors import CannotWrite, Option, Wording
from convinspect.formats.journal import is_interrupted, way_back
from convinspect.formats.sources import outermost
from convinspect.records import Container
from convinspect.remote.addresses import ONLY_HERE, Address

_WRITERS = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".ckpt": "torch",
    ".bin": "torch",
    # No tar, whatever the name says: an old custom of PyTorch's own examples.
    ".pth.tar": "torch",
    ".pt.tar": "torch",
}
"""Suffix of a target → the library whose format it is."""

_FOREIGN = {
    ".pt2": "an exported program", ".onnx": "an ONNX model", ".gguf": "a GGUF model", ".npz": "a NumPy archive",
    ".npy": "a NumPy array", ".json": "a JSON text", ".h5": "an HDF5 file", ".tflite": "a TensorFlow Lite model",
    ".msgpack": "a Flax checkpoint", ".tar": "a tar archive", ".zip": "a zip archive", ".gz": "a packed file",
    ".png": "a picture", ".gif": "a picture", ".svg": "a picture", ".html": "a page", ".md": "a text", ".txt": "a text",
    ".csv": "a table",
}  # fmt: skip
"""Suffixes of formats that convert does not write."""

_ENDINGS = ", ".join(_WRITERS)
_ANOTHER = Wording("give another ", Option("target", None))


Rule: TypeAlias = tuple[object, str, str, Path]
"""Whether a rule is broken, the problem, its remedy, and the file that has it."""


def check_target(source: Path, target: Path, in_place: bool, force: bool) -> None:
    """Check that the target may be written.

    Raises:
        CannotWrite: It is the source, it exists, or its folder does not.
    """
    same = os.path.exists(target) and os.path.exists(source) and os.path.samefile(source, target)
    # The first broken rule is reported: problems of both files come before problems of the target alone.
    rules: tuple[Rule, ...] = (
        (
            in_place and isinstance(source, Address),
            "it lies elsewhere, and is only read there",
            Wording("write a new file on this machine with ", Option("target", None)),
            source,
        ),
        (
            same and not in_place,
            "the target is the source itself",
            _ANOTHER if source.suffix.lower() in ARCHIVES else Wording("use ", Option("in_place"), ", or ", _ANOTHER),
            target,
        ),
        (
            not in_place and is_interrupted(target),
            "an edit of the target in place was interrupted, or is under way",
            way_back(target),
            target,
        ),
        *_rules_of_kind(source, target, in_place, force, same),
        (
            isinstance(target, Address),
            *ONLY_HERE,
            target,
        ),
        (
            not os.path.isdir(target.parent),
            "the target's folder does not exist",
            f"make {target.parent} first",
            target,
        ),
    )
    for broken, problem, remedy, path in rules:
        if broken:
            raise CannotWrite(problem, remedy, path)


def _rules_of_kind(source: Path, target: Path, in_place: bool, force: bool, same: bool) -> tuple[Rule, ...]:
    sharded = source.is_dir() or source.name.endswith((".index.json", ".metadata"))
    if sharded and in_place:
        return ()
    if sharded and writes_folder(target):
        return _rules_of_a_folder(source, target, force)
    return _rules_of_a_file(source, target, force, same)


def _rules_of_a_folder(source: Path, target: Path, force: bool) -> tuple[Rule, ...]:
    exists, folder = os.path.exists(target), os.path.isdir(target)
    foreign = _foreign(source, target) if source.is_dir() else None
    return (
        (folder and _holds(target, source), "the target holds the source", _ANOTHER, target),
        (exists and not folder, "it is a file, and a folder is to be written", _ANOTHER, target),
        (foreign, f"its name is that of {foreign}, which is not written here", _ANOTHER, target),
        (
            folder and not force and not is_empty(target),
            "the folder exists and is not empty",
            Wording("use ", Option("force"), " to overwrite it, or ", _ANOTHER),
            target,
        ),
    )


def _rules_of_a_file(source: Path, target: Path, force: bool, same: bool) -> tuple[Rule, ...]:
    exists, folder = os.path.exists(target), os.path.isdir(target)
    foreign = None if same else _foreign(source, target)
    return (
        (folder and not same, "the target is a folder", "give the name of a file in it", target),
        (
            exists and not os.path.isfile(target) and not folder,
            "it is a pipe or device, not a file",
            _ANOTHER,
            target,
        ),
        (foreign, f"its name is that of {foreign}, which is not written here", f"end it in {_ENDINGS}", target),
        (
            exists and not same and not force,
            "the target exists",
            Wording("use ", Option("force"), " to overwrite it, or ", _ANOTHER),
            target,
        ),
    )


def writes_folder(target: Path) -> bool:
    """Whether a target for a folder, or a checkpoint in several files, becomes a folder: its suffix names no format."""
    return _writer(target) is None


def _holds(folder: Path, other: Path) -> bool:
    """Whether `other` lies in a folder."""
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(other)).parents


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing; False if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _foreign(source: Path, target: Path) -> str | None:
    """The format that the target's suffix stands for, if convert does not write it; None if the source has it too."""
    alike = target.suffix.lower() in (source.suffix.lower(), outermost(source).suffix.lower())
    if _writer(target) is not None or alike:
        return None
    return _FOREIGN.get(target.suffix.lower())


def wants_other_format(checkpoint: Checkpoint, target: Path) -> bool:
    """Whether the target's suffix asks for another format than the source's."""
    wanted = _writer(target)
    if checkpoint.container is Container.DISTRIBUTED or not checkpoint.container.rewritten:
        return wanted is not None
    writer = "safetensors" if checkpoint.container is Container.SAFETENSORS else "torch"
    return wanted is not None and (wanted != writer or checkpoint.shards > 0)


def named_alike(source: Path, target: Path) -> bool:
    """Whether the target's suffix asks for the format of the source's suffix, or for none."""
    return _writer(target) in (None, _writer(source))


def writer_of(target: Path) -> str:
    """The library that writes the target, by its suffix: "torch" or "safetensors".

    Raises:
        CannotWrite: The suffix is another.
    """
    writer = _writer(target)
    if writer is None:
        raise CannotWrite("its name does not say in which format to write", f"end it in {_ENDINGS}", target)
    return writer


def _writer(target: Path) -> str | None:
    return next((writer for suffix, writer in _WRITERS.items() if target.name.lower().endswith(suffix)), None)
