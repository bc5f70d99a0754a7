"""Scan what a file was listed as holding: whether tensors fit their storages, and whether weights have numbers."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path

from convinspect.checking.findings import Finding, Item, Note, finding
from convinspect.checking.json_header import scan_not_loaded
from convinspect.dtypes import nbytes_of
from convinspect.formats.roots import without_tensors
from convinspect.records import Container, Contents, Root, Tensor
from convinspect.text import plural


def scan_contents(contents: Contents, codes: Set[str], values: bool) -> Iterator[Item]:
    """Scan what was listed.

    Args:
        contents: What was opened.
        codes: Codes of the findings in its bytes.
        values: Look at the numbers too.
    """
    if not any(root.tensors or root.others for root in contents.roots):
        yield Note(without_tensors(contents.foreign).problem)
    yield from _scan_tensors(contents, codes)
    if contents.container is Container.SAFETENSORS:
        yield from scan_not_loaded(contents)
    if values:
        from convinspect.checking.nonfinite import scan_values

        yield from scan_values(contents)


def _scan_tensors(contents: Contents, codes: Set[str]) -> Iterator[Finding]:
    """Compare tensors with the storages that they are views of.

    Args:
        contents: The opened file.
        codes: Codes of the findings in the file's bytes.
    """
    for root in contents.roots:
        for tensor in root.tensors:
            storage = tensor.storage
            if storage is None or storage.start is None or not tensor.numel:
                continue
            reach = _reach(tensor)
            if reach > storage.nbytes:
                message = (
                    f"tensor {tensor.key!r} reaches to byte {reach:,} of storage {storage.key!r},"
                    f" which has {storage.nbytes:,}"
                )
                yield finding("storage-short", contents.path, message, subject=tensor.key)
        yield from _scan_empty(contents.path, root)
        if root.lost_state:
            message = f"the state of the optimizer at {root.path!r} is keyed by text, its parameters by numbers"
            yield finding("lost-state", contents.path, message, subject=root.path)
    # What a reader says of missing bytes was found above for a zip, record by record.
    if not codes & {"storage-short", "record-outside", "unreadable"}:
        for problem in contents.problems:
            yield finding("storage-short", contents.path, problem.what)


def _scan_empty(path: Path, root: Root) -> Iterator[Finding]:
    """Weights without numbers, all of a root in one finding: ZeRO-3 leaves none out."""
    if root.role == "optimizer":
        return
    weights = [tensor for tensor in root.tensors if "weight" in tensor.key.rpartition(".")[2]]
    empty = [tensor.key for tensor in weights if tensor.shape == (0,)]
    # Modules of other libraries may have a weight of no numbers by design (e3nn's tensor products), among others that
    # have some; a layer with a bias has a weight.
    keys = {tensor.key for tensor in root.tensors} if empty else set()
    if 2 * len(empty) > len(weights) or any(_bias_beside(key) in keys for key in empty):
        what = f"{plural(len(empty), 'weight')} of {len(root.tensors):,} tensors"
        message = f"{what}: no numbers, shape (0,); the first is {empty[0]!r}"
        yield finding("empty-weight", path, message, subject=empty[0])


def _bias_beside(key: str) -> str:
    parent, dot, _ = key.rpartition(".")
    return f"{parent}{dot}bias"


def _reach(tensor: Tensor) -> int:
    """Number of bytes from the storage's start to the end of the tensor's last element."""
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
    return nbytes_of(tensor.dtype, last + 1)
