"""Pickles that `torch.save` did not write: `pickle.dump` and its like, of tensors, of modules, of NumPy arrays.

A storage of PyTorch is in them as a byte string that holds a `torch.save` stream, an array as the byte string of its
numbers; so all numbers lie in the file itself, and only the pickle is walked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

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
from convinspect.formats.torch.tree import find_roots
from convinspect.keys import caffe2
from convinspect.layouts import KnownFrom, Layout, Maker
from convinspect.records import Container, Contents, Root, Storage
from convinspect.text import first_few

_PADDLE = "StructuredToParameterName@@"
_IN_PARTS = "UnpackBigParamInfor@@"
"""Keys that `paddle.save` puts beside the tensors of a state_dict: what they are called in the program, and, of
protocols before 4, which of more than a gigabyte it cut into flat parts (`_unpack_saved_dict` in
paddle/framework/io_utils.py)."""
_PART = re.compile(r"(.+)@@\.\d+")


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
    if strings.arrays:
        roots = joined(tuple(_as_paddle_reads(root, strings) for root in roots))
    layout = Layout(Maker.PADDLE, KnownFrom.WRITTEN) if _is_paddle(roots, strings) else None
    return Contents(
        file.path,
        Container.JOBLIB if has_wrapper(tree.globals) else Container.PICKLE,
        roots,
        file.size,
        (),
        (
            *module_notes(roots),
            *_notes_on_names(roots),
            *notes_on_arrays(strings),
            *_notes_on_parts(roots),
            *_notes_behind(file.size - tree.end),
        ),
        foreign=tuple(name for name in foreign_globals(tree) if name not in _PLAIN and not has_wrapper([name])),
        pickles={file.path: Pickle(tree)},
        layout=layout,
    )


def listed_in(file: File, tree: Walk) -> tuple[tuple[Root, ...], tuple[str, ...]]:
    """The roots in a plain pickle that lies in a file, and what is to be said of its arrays."""
    strings = Strings(file.path, file.read, file.start)
    roots = find_roots(tree, InStrings(lambda key, nbytes: Storage(file.path, key, nbytes, 0, None), strings))
    return roots, notes_on_arrays(strings)


def _notes_on_names(roots: tuple[Root, ...]) -> tuple[str, ...]:
    return (caffe2.NAMED_SO,) if any(caffe2.is_so_named(one.key for one in root.tensors) for root in roots) else ()


def _notes_on_parts(roots: tuple[Root, ...]) -> Iterator[str]:
    """A line about parameters that Paddle cut into parts."""
    for root in roots:
        if any(other.key == _IN_PARTS for other in root.others):
            parts = [found for one in root.tensors if (found := _PART.fullmatch(one.key))]
            if parts:
                whole = first_few(list(dict.fromkeys(found[1] for found in parts)), 3)
                what = f"cut by paddle.save into flat parts ({parts[0][0]}, …), which are listed as they lie"
                yield f"{whole}: {what}; save it again by paddle.save(paddle.load(…), …, protocol=4)"


def _notes_behind(nbytes: int) -> tuple[str, ...]:
    return (f"{nbytes:,} bytes follow its pickle, which pickle.load does not read",) if nbytes else ()


def _as_paddle_reads(root: Root, strings: Strings) -> Root:
    """A root with its bfloat16 tensors, if Paddle wrote it as a state_dict."""
    if not _of_paddle(root):
        return root
    return root._replace(tensors=tuple(map(strings.as_paddle_reads, root.tensors)))


def _of_paddle(root: Root) -> bool:
    return any(other.key in (_PADDLE, _IN_PARTS) for other in root.others)


def _is_paddle(roots: Iterable[Root], strings: Strings) -> bool:
    return strings.paddle or any(map(_of_paddle, roots))
