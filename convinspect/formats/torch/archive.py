"""`torch.save` since PyTorch 1.6: a zip of one pickle and one record per storage; also TorchScript archives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from convinspect.errors import ConvInspectError, CutShort, NotACheckpoint
from convinspect.formats.files import File, cut_short
from convinspect.formats.pickle.machine import Walk, most_steps, reader, walk
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.torch import script as torchscript
from convinspect.formats.torch.tree import find_roots
from convinspect.formats.zip.archive import Archive
from convinspect.formats.zip.ends import bytes_gone
from convinspect.formats.zip.structures import STORED, first_name, read_local
from convinspect.records import Container, Contents, Module, Problem, Root, Storage

_ALIGNMENT = 64
_PAYLOAD_PER_STORAGE = 6_400
"""Bytes beside the pickle that allow it as many instructions as a storage does."""
SMALL_STORAGE = 512
"""Bytes of the storages of a checkpoint on average at least, where they cannot be counted beforehand."""

_UNWRITTEN = 1024
"""So many zeros at a file's end are none of a zip's directory."""
_OWN_CLASSES = 3
"""So many classes of modules inside others are named."""
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
"""What nearly every state_dict mentions, so that the long lists of what other names do need not be loaded."""


def read_torch_zip(file: File) -> Contents:
    """List a `torch.save` zip or a TorchScript archive.

    Raises:
        ConvInspectError: It is truncated, malformed, hostile, or another kind of zip.
    """
    return read_archive(file, Archive(file))


def read_archive(file: File, archive: Archive, pickle: Pickle | None = None) -> Contents:
    """`read_torch_zip` of an archive that is open already, and of which the pickle may have been read before."""
    if "data.pkl" not in archive.records:
        from convinspect.formats.unsupported import other_zip

        raise other_zip(archive.names())
    tree = walked(archive, pickle)
    byteorder = archive.byteorder()
    script = any(name.startswith("code/") for name in archive.records)
    roots = find_roots(tree, lambda key, nbytes: archive.storage(f"data/{key}", nbytes, byteorder, key))
    notes = module_notes(roots)
    if script:
        # Imported here, since most checkpoints are none and start faster without it.
        from convinspect.formats.torch import frozen

        if frozen.RECORD in archive.records and not any(root.tensors for root in roots):
            roots = frozen.frozen_roots(archive, _sources(archive), byteorder)
            notes = (frozen.NOTE,) if roots else ()
        else:
            roots = _with_script_constants(roots, archive)
    problems = missing_records(roots)
    return Contents(
        file.path,
        Container.TORCH_SCRIPT if script else Container.TORCH_ZIP,
        roots,
        file.size,
        problems,
        notes,
        foreign=foreign_globals(tree),
        pickles={file.path: Pickle(tree)},
    )


def walked(archive: Archive, pickle: Pickle | None = None) -> Walk:
    """The archive's pickle; a large one is read in pieces, so that what else lies in it need not fit into memory.

    Args:
        archive: The archive.
        pickle: What was read of it before, perhaps within wider limits; it is read again where it passes these.
    """
    record = archive.records["data.pkl"]
    # A vocabulary of hundreds of thousands of words is pickled beside the embedding that it names: the larger the
    # payload, the more may be said of it.
    storages = len(archive.records) + max(0, archive.file.size - record.size) // _PAYLOAD_PER_STORAGE
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


def _sources(archive: Archive) -> Iterator[tuple[str, str]]:
    """Name and text of each record of code."""
    for name in archive.records:
        if name.startswith("code/") and name.endswith(".py"):
            yield name, archive.read(name).decode("utf-8", "replace")


def _with_script_constants(roots: tuple[Root, ...], archive: Archive) -> tuple[Root, ...]:
    """Hyperparameters stand in the archive's code, as constants of each class or in its call of the operator."""
    constants = torchscript.class_constants(_sources(archive), archive.file.size)
    return tuple(
        root._replace(modules={name: _known(module, constants) for name, module in root.modules.items()})
        for root in roots
    )


def _known(module: Module, constants: Mapping[str, dict[str, Any]]) -> Module:
    attributes = {**module.attributes, **constants.get(module.class_name, {})}
    return module._replace(class_name=torchscript.class_name(module.class_name), attributes=attributes)


def foreign_globals(tree: Walk) -> tuple[str, ...]:
    """Names that the pickle mentions beyond those of tensors and torch's own modules, in stored order."""
    unusual = [name for name in tree.globals if name not in USUAL_GLOBALS]
    if not unusual:
        return ()
    from convinspect.formats.pickle.safe_globals import classify_global

    plain = (*PLAIN_GLOBALS, "__torch__.")
    return tuple(
        name
        for name in unusual
        if (not name.startswith(plain) and name != "builtins.set") or classify_global(name).kind == "executes"
    )


def missing_records(roots: tuple[Root, ...]) -> tuple[Problem, ...]:
    """One line for the tensors whose record is absent or too short."""
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
    """One line for each whole module in the file, naming its class; of many the last says how many more there are."""
    classes = [torchscript.class_name(root.modules[""].class_name) for root in roots if "" in root.modules]
    every = (torchscript.class_name(one.class_name) for root in roots for one in root.modules.values())
    # Of a model in a wrapper such as DataParallel the model's own class is what a user looks for.
    own = dict.fromkeys(name for name in every if not name.startswith("torch.") and name not in classes)
    named = list(dict.fromkeys(classes + list(own)[:_OWN_CLASSES]))
    more = len(own) - _OWN_CLASSES
    lines = [f"whole module {name}; its code was neither needed nor run" for name in named]
    if more > 0:
        others = f"{more:,} more {'class' if more == 1 else 'classes'}"
        lines[-1] = f"whole module {named[-1]} and {others}; their code was neither needed nor run"
    return tuple(lines)


def headless(file: File) -> ConvInspectError:
    """A zip without its directory, which stands at the end: say how much is missing, from the pickle at its start."""
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
    from convinspect.formats.unsupported import of_kind

    other = of_kind([first_name(file)])
    if other is not None:
        return NotACheckpoint(f"{other.problem}, and truncated", other.remedy)
    return cut_short(file.size, None, ", and the zip directory at its end is gone")


def _expected_size(file: File) -> int | None:
    """Size in bytes of the whole archive, near enough: each storage with its header and padding."""
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
