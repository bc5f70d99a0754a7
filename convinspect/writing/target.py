"""Check where a checkpoint may be written, and in which format."""

from __future__ import annotations

import os
from pathlib import Path

from convinspect.checkpoint import Checkpoint
from convinspect.errors import CannotWrite, Option, Wording
from convinspect.records import Container

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
}  # fmt: skip
"""Suffixes of formats that convert does not write."""

_ENDINGS = ", ".join(_WRITERS)
_ANOTHER = Wording("give another ", Option("target", None))


def check_target(source: Path, target: Path, in_place: bool, force: bool) -> None:
    """Check that the target may be written.

    Raises:
        CannotWrite: It is the source, it exists, or its folder does not.
    """
    exists, folder = os.path.exists(target), os.path.isdir(target)
    same = exists and os.path.exists(source) and os.path.samefile(source, target)
    sharded = os.path.isdir(source) or source.name.endswith(".index.json")
    foreign = None if sharded or same else _foreign(source, target)
    # The first broken rule is reported: problems of both files come before problems of the target alone.
    rules: tuple[tuple[object, str, str, Path], ...] = (
        (
            sharded and in_place,
            "a sharded checkpoint is not changed in place",
            Wording("give a new folder with ", Option("target", None)),
            source,
        ),
        (
            sharded and folder,
            "it exists, and a sharded checkpoint is written to a new folder",
            Wording("remove it, or ", _ANOTHER),
            target,
        ),
        (
            same and not in_place,
            "the target is the source itself",
            Wording("use ", Option("in_place"), ", or ", _ANOTHER),
            target,
        ),
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


def _foreign(source: Path, target: Path) -> str | None:
    """The format that the target's suffix stands for, if convert does not write it; None if the source has it too."""
    if _writer(target) is not None or target.suffix.lower() == source.suffix.lower():
        return None
    return _FOREIGN.get(target.suffix.lower())


def wants_other_format(checkpoint: Checkpoint, target: Path) -> bool:
    """Whether the target's suffix asks for another format than the source's."""
    wanted = _writer(target)
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
