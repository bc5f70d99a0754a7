"""`torch.save` since PyTorch 1.6: a zip of one pickle and one record per storage; also TorchScript archives."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from convinspect.errors import ConvInspectError, CutShort, NotACheckpoint
from convinspect.formats.files import File, cut_short
from convinspect.formats.pickle.machine import Walk, most_steps, reader, walk
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.torch import script as torchscript
from convinspect.formats.torch.skipped import why_unwritten
from convinspect.formats.torch.tensors import StorageOf
from convinspect.formats.torch.tree import find_roots
from convinspect.formats.zip.archive import Archive
from convinspect.formats.zip.ends import bytes_gone, find_directory, read_directory
from convinspect.formats.zip.structures import STORED, entries_in, first_name, read_local, record_of
from convinspect.records import Container, Contents, Module, Problem, Root, Storage

if TYPE_CHECKING:
    from convinspect.formats.torch.byte_storages import Strings

_ALIGNMENT = 64
_PAYLOAD_PER_STORAGE = 6_400
"""Bytes of payload that count as a storage when the pickle's instructions are limited."""
SMALL_STORAGE = 512
"""Minimum average bytes of a checkpoint's storages, assumed where their number is not known in advance."""

_UNWRITTEN = 1024
"""Bytes. A zip's directory never ends in so many zeros."""
_OWN_CLASSES = 3
"""Classes of inner modules that are named at most."""
_LARGE_PICKLE = 1 << 24

PLAIN_GLOBALS = ("collections.OrderedDict", "torch._utils._rebuild_", "torch.")
USUAL_GLOBALS = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        *(f"torch.{kind}Storage" for kind in ("BFloat16", "Bool", "Double", "Float", "Half", "Int", "Long")),
    }
)
"""Names that occur in nearly every state_dict. Files with no others are listed without loading the table of names."""


def read_torch_zip(file: File) -> Contents:
    """List a `torch.save` zip or a TorchScript archive.

    Raises:
        ConvInspectError: It is truncated, malformed, hostile, or another kind of zip.
    """
    return read_archive(file, Archive(file))


def read_archive(file: File, archive: Archive, pickle: Pickle | None = None) -> Contents:
    """As `read_torch_zip`, of an archive that is already open and whose pickle may have been read before."""
    if "data.pkl" not in archive.records:
        from convinspect.formats.unsupported.zips import other_zip

        raise other_zip(archive.names())
    tree = walked(archive, pickle)
    byteorder = archive.byteorder()
    script = any(name.startswith("code/") for name in archive.records)
    roots, of_arrays, are_arrays = roots_of(tree, archive.storages(byteorder), lambda: _strings(file, archive))
    notes, lost = (*module_notes(roots), *of_arrays), tuple[Problem, ...]()
    if script:
        # Imported here, since most checkpoints are not TorchScript and open faster without it.
        from convinspect.formats.torch import frozen

        if frozen.RECORD in archive.records and not any(root.tensors for root in roots):
            roots, lost = frozen.read_frozen(archive, _sources(archive), byteorder)
            notes = (frozen.NOTE,) if roots else ()
        else:
            roots = _with_script_constants(roots, archive)
    problems = (*missing_records(roots), *lost)
    return Contents(
        file.path,
        Container.TORCH_SCRIPT if script else Container.TORCH_ZIP,
        roots,
        archive.nbytes,
        problems,
        notes,
        foreign=foreign_globals(tree, are_arrays),
        pickles={file.path: Pickle(tree)},
        unwritten=why_unwritten(archive.records, roots),
    )


def roots_of(
    tree: Walk, storage_of: StorageOf, strings: Callable[[], Strings]
) -> tuple[tuple[Root, ...], tuple[str, ...], bool]:
    """The roots of a pickle of `torch.save`, lines about arrays in it, and whether its tensors are arrays.

    Args:
        tree: The pickle.
        storage_of: Gives its storages.
        strings: Tells where its byte strings lie.

    Raises:
        ConvInspectError: As of `find_roots`.
    """
    if not any(name.startswith(_OF_ARRAYS) for name in tree.globals):
        return find_roots(tree, storage_of), (), False
    from convinspect.formats.torch import saved_arrays

    if not saved_arrays.holds_arrays(tree):
        return find_roots(tree, storage_of), (), False
    with_arrays = saved_arrays.InStrings(storage_of, strings())
    return saved_arrays.settled(find_roots(tree, with_arrays), with_arrays.strings)


def _strings(file: File, archive: Archive) -> Strings:
    """Where the byte strings of an archive's pickle lie."""
    from convinspect.formats.torch.byte_storages import Strings

    record = archive.records["data.pkl"]
    if record.method == STORED:
        start = archive.payload("data.pkl")
        return Strings(file.path, file.part(start), file.start + start, marked=True)
    packed = archive.storage("data.pkl", record.size, "little")
    return Strings(file.path, reader(archive.read("data.pkl")), None, marked=True, packed=packed)


_OF_ARRAYS = ("numpy.", "jax.", "torch._utils._rebuild_")


def walked(archive: Archive, pickle: Pickle | None = None) -> Walk:
    """The archive's pickle. A large one is read in pieces, so that its bytes need not fit into memory.

    Args:
        archive: The archive.
        pickle: The pickle if it was read before. If it exceeds the limits of this function, it is read again.
    """
    record = archive.records["data.pkl"]
    # The limit grows with the payload: a vocabulary of hundreds of thousands of words may be pickled together with its
    # embedding, for example.
    storages = len(archive.records) + max(0, archive.nbytes - record.size) // _PAYLOAD_PER_STORAGE
    is_large = record.method == STORED and record.size > _LARGE_PICKLE
    known = None if pickle is None or pickle.tree.end > record.size else pickle.tree
    if known is not None and known.steps > most_steps(storages):
        known = None
    if is_large and known is not None:
        return known
    if is_large:
        start = archive.payload("data.pkl")
        end = min(record.size, archive.file.size - start)
        return walk(archive.file.part(start), 0, end, storages)
    data = archive.read("data.pkl")
    return known or walk(reader(data), 0, len(data), storages)


def first_pickle(file: File) -> bytes | None:
    """The bytes of `data.pkl` where it is the zip's first record, as torch.save writes it; None where it is not, or is
    packed or damaged. Of the directory only its first entry is read.

    Raises:
        RefusedFile: The directory is far too large.
    """
    ends = find_directory(file)
    entry = None if ends is None else next(entries_in(read_directory(file, ends)), None)
    if entry is None or not entry.name.endswith(b"/data.pkl"):
        return None
    record, local = record_of(entry), read_local(file, record_of(entry).offset)
    if record.method != STORED or local is None or local.name != entry.name:
        return None
    data = file.read(local.payload, record.size)
    return data if len(data) == record.size and record.crc in (0, zlib.crc32(data)) else None


def _sources(archive: Archive) -> Iterator[tuple[str, str]]:
    """Name and text of each record of code."""
    for name in archive.records:
        if name.startswith("code/") and name.endswith(".py"):
            yield name, archive.read(name).decode("utf-8", "replace")


def _with_script_constants(roots: tuple[Root, ...], archive: Archive) -> tuple[Root, ...]:
    """Add the hyperparameters from the archive's code: constants of each class, or arguments of its operator."""
    constants = torchscript.class_constants(_sources(archive), archive.nbytes)
    return tuple(
        root._replace(modules={name: _known(module, constants) for name, module in root.modules.items()})
        for root in roots
    )


def _known(module: Module, constants: Mapping[str, dict[str, Any]]) -> Module:
    attributes = {**module.attributes, **constants.get(module.class_name, {})}
    return module._replace(class_name=torchscript.class_name(module.class_name), attributes=attributes)


def foreign_globals(tree: Walk, arrays: bool = False) -> tuple[str, ...]:
    """Names in the pickle other than those of tensors and torch's own modules, in stored order.

    Args:
        tree: The pickle.
        arrays: Its tensors are NumPy arrays, so that what rebuilds these is none.
    """
    unusual = [name for name in tree.globals if name not in USUAL_GLOBALS]
    if not unusual:
        return ()
    from convinspect.formats.pickle.safe_globals import classify_global

    plain = (*PLAIN_GLOBALS, "__torch__.")
    if arrays:
        from convinspect.formats.torch.arrays import NAMES

        unusual = [name for name in unusual if name not in NAMES and name != "_codecs.encode"]
    return tuple(
        name
        for name in unusual
        if (not name.startswith(plain) and name != "builtins.set") or classify_global(name).kind == "executes"
    )


def missing_records(roots: tuple[Root, ...]) -> tuple[Problem, ...]:
    """A problem for the tensors whose record is missing or too short."""
    short = [tensor for root in roots for tensor in root.tensors if not tensor.whole]
    if not short:
        storages = [
            t.storage for root in roots for t in root.tensors if t.storage is not None and t.storage.start is not None
        ]
        claims = next((storage for storage in storages if storage.available < storage.nbytes), None)
        if claims is None:
            return ()
        what = f"storage {claims.key} has {claims.available:,} of the {claims.nbytes:,} bytes that the pickle claims"
        return (Problem(what, "download or copy it again"),)
    more = f" and {len(short) - 1:,} more" if len(short) > 1 else ""
    what = f"the bytes of tensor {short[0].key!r}{more} are missing from the file"
    return (Problem(what, "download or copy it again"),)


def module_notes(roots: tuple[Root, ...]) -> tuple[str, ...]:
    """A note for each whole module in the file, with its class. The last note counts the classes that are not named."""
    classes = [torchscript.class_name(root.modules[""].class_name) for root in roots if "" in root.modules]
    modules = (module for root in roots for module in root.modules.values())
    inner = (torchscript.class_name(module.class_name) for module in modules)
    # If a wrapper such as DataParallel holds the model, users look for the class of the model.
    own = dict.fromkeys(name for name in inner if not name.startswith("torch.") and name not in classes)
    named = list(dict.fromkeys(classes + list(own)[:_OWN_CLASSES]))
    more = len(own) - _OWN_CLASSES
    lines = [f"whole module {name}; its code was neither needed nor run" for name in named]
    if more > 0:
        rest = f"{more:,} more {'class' if more == 1 else 'classes'}"
        lines[-1] = f"whole module {named[-1]} and {rest}; their code was neither needed nor run"
    return tuple(lines)


def headless(file: File) -> ConvInspectError:
    """The error for a zip without the directory at its end. The pickle at its start tells how much is missing."""
    expected = None
    with suppress(ConvInspectError):
        expected = _expected_size(file)
    if expected is not None and expected > file.size:
        return CutShort(
            f"it is truncated: {file.size:,} bytes of about {expected:,} expected"
            f" (about {expected - file.size:,} are missing)",
            "download or copy it again",
        )
    gone = bytes_gone(file)
    if gone > 0:
        return cut_short(file.size, file.size + gone, " before its zip directory")
    tail = file.read(file.size - _UNWRITTEN, _UNWRITTEN)
    if tail and not tail.strip(b"\0"):
        return CutShort(
            f"its end was never written: the last {_UNWRITTEN:,} of its {file.size:,} bytes are all zero",
            "download it again, and watch the disk's free space",
        )
    from convinspect.formats.unsupported.zips import of_kind

    error = of_kind([first_name(file)])
    if error is not None:
        return NotACheckpoint(f"{error.problem}, and truncated", error.remedy)
    return cut_short(file.size, None, ", and the zip directory at its end is gone")


def _expected_size(file: File) -> int | None:
    """Approximate size in bytes of the whole archive: all storages with their headers and padding."""
    local = read_local(file, 0)
    if local is None or not local.name.endswith(b"/data.pkl"):
        return None
    start = local.payload
    tree = walk(file.part(start), 0, file.size - start, file.size // SMALL_STORAGE)
    sizes: dict[str, int] = {}

    def storage_of(key: str, nbytes: int) -> Storage:
        sizes[key] = nbytes
        return Storage(file.path, key, nbytes, 0, None)

    find_roots(tree, storage_of)
    directory = 100
    return start + tree.end + sum(size + _ALIGNMENT + len(local.name) + directory for size in sizes.values())
