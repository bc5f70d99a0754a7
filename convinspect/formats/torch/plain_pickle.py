"""Pickles that `torch.save` did not write: `pickle.dump` and its like, of tensors, of modules, of NumPy arrays.

A storage of PyTorch is in them as a byte string that holds a `torch.save` stream, an array as the byte string of its
numbers; so all numbers lie in the file itself, and only the pickle is walked.
"""

from __future__ import annotations

from convinspect.errors import ConvInspectError
from convinspect.formats.files import File
from convinspect.formats.pickle.joblib_arrays import JoblibMachine, has_wrapper, is_of_joblib
from convinspect.formats.pickle.machine import Machine, Walk
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.pickle.values import Call, Dict, Tuple
from convinspect.formats.torch.archive import SMALL_STORAGE, foreign_globals, module_notes
from convinspect.formats.torch.arrays import NAMES
from convinspect.formats.torch.byte_storages import LOADS, InStrings, Strings, notes_on_arrays
from convinspect.formats.torch.nested_arrays import joined
from convinspect.formats.torch.paddle import as_paddle_reads
from convinspect.formats.torch.tree import find_roots
from convinspect.keys import caffe2
from convinspect.layouts import KnownFrom, Layout, Maker
from convinspect.records import Container, Contents, Root, Storage

ORDINARY = NAMES | {"builtins.bytes", "builtins.tuple"}
"""Names of what arrays are rebuilt by in such a pickle, and of a pair with a name around them as Paddle writes it."""
_PLAIN = ORDINARY | {LOADS, "builtins.bytearray", "_codecs.encode"}
"""With what storages are rebuilt by."""


def begins_pickle(head: bytes) -> bool:
    """True for the first two bytes of a pickle of protocol 2 or later."""
    return head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")


def is_pickle(file: File) -> bool:
    """True when the file is a pickle, by its first bytes or, of protocol 0 or 1, by being one up to its last byte.

    A text may begin as a pickle of protocol 0 does, and may even be one; a container or a call makes the difference.
    """
    if begins_pickle(file.read(0, 2)):
        return True
    if file.read(file.size - 1, 1) != b".":
        return False
    try:
        tree = walked_plain(file)
    except ConvInspectError:
        return False
    return tree.end == file.size and isinstance(tree.value, (list, Dict, Tuple, Call))


_HEAD = 1 << 12
"""Bytes in which most of joblib's files have their first array, though it may come later."""


def walked_plain(file: File) -> Walk:
    """The pickle in a file, in which arrays may stand between instructions, as joblib writes them.

    Raises:
        ConvInspectError: It is malformed or hostile.
    """
    storages = file.size // SMALL_STORAGE
    if not is_of_joblib(file.read, min(file.size, _HEAD)):
        machine = Machine(storages)
        try:
            tree = machine.result(machine.carry_out(file.read, 0, file.size))
        except ConvInspectError:
            if not has_wrapper(machine.globals):
                raise
        else:
            if not has_wrapper(machine.globals):
                return tree
    # An array's numbers may even have ended it, as instructions.
    machine = JoblibMachine(storages)
    return machine.result(machine.carry_out(file.read, 0, file.size))


def read_plain_pickle(file: File, pickle: Pickle | None = None) -> Contents:
    """List a pickle that `torch.save` did not write.

    Args:
        file: The file, for which `is_pickle` holds.
        pickle: Its pickle, if it was read before.

    Raises:
        ConvInspectError: It is malformed, or holds neither tensors nor arrays.
    """
    from convinspect.formats.unsupported.pickles import other_pickle

    try:
        tree = pickle.tree if pickle is not None else walked_plain(file)
    except ConvInspectError:
        if is_of_joblib(file.read, file.size):
            raise
        raise other_pickle(file) from None
    if tree.persistent:
        # Its storages are elsewhere, as those of an archive's data.pkl, and pickle.load refuses it.
        raise other_pickle(file)
    strings = Strings(file.path, file.read, file.start)
    roots = find_roots(tree, InStrings(lambda key, nbytes: Storage(file.path, key, nbytes, 0, None), strings))
    if not any(root.tensors or root.others for root in roots):
        raise other_pickle(file)
    paddle = as_paddle_reads(roots, tree.value, strings)
    of_arrays = strings.arrays >= sum(len(root.tensors) for root in roots)
    roots = joined(paddle.roots) if strings.arrays and of_arrays else paddle.roots
    return Contents(
        file.path,
        Container.JOBLIB if has_wrapper(tree.globals) else Container.PICKLE,
        roots,
        file.size,
        paddle.problems,
        (
            *module_notes(roots),
            *_notes_on_names(roots),
            *notes_on_arrays(strings, sum(len(root.tensors) for root in roots)),
            *paddle.notes,
            *_notes_behind(file.size - tree.end),
        ),
        foreign=tuple(name for name in foreign_globals(tree) if name not in _PLAIN and not has_wrapper([name])),
        pickles={file.path: Pickle(tree)},
        layout=Layout(Maker.PADDLE, KnownFrom.WRITTEN) if paddle.is_it else None,
    )


def listed_in(file: File, tree: Walk) -> tuple[tuple[Root, ...], tuple[str, ...]]:
    """The roots in a plain pickle that lies in a file, and what is to be said of its arrays."""
    strings = Strings(file.path, file.read, file.start)
    roots = find_roots(tree, InStrings(lambda key, nbytes: Storage(file.path, key, nbytes, 0, None), strings))
    return roots, notes_on_arrays(strings)


def _notes_on_names(roots: tuple[Root, ...]) -> tuple[str, ...]:
    return (caffe2.NAMED_SO,) if any(caffe2.is_so_named(one.key for one in root.tensors) for root in roots) else ()


def _notes_behind(nbytes: int) -> tuple[str, ...]:
    return (f"{nbytes:,} bytes follow its pickle, which pickle.load does not read",) if nbytes else ()
