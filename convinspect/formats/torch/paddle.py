"""What `paddle.save` does to a state_dict: keys of its own, bfloat16 as uint16, large parameters cut into flat parts.

The cutting is `_unpack_saved_dict` in paddle/framework/io_utils.py, and `_pack_loaded_dict` there undoes it: below
protocol 4 an array of more than a gigabyte becomes `name@@.0`, `name@@.1`, … beside a dictionary that says of which
shape it was, and which are its parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from convinspect.formats.pickle.values import EMPTY, Call, Dict, Tuple
from convinspect.formats.torch.byte_storages import Strings
from convinspect.formats.torch.nodes import function_name, pairs_of
from convinspect.records import Problem, Root, Storage, Tensor, contiguous
from convinspect.text import first_few, plural

_PARAMETER_NAMES = "StructuredToParameterName@@"
"""Key of what parameters are called in the program."""
_IN_PARTS = "UnpackBigParamInfor@@"
"""Key of what is said of the parameters that were cut."""
_ORDERED = "collections.OrderedDict"
_AGAIN = "get the file again, or save it again with protocol=4"
_MOST_AXES = 64
_MOST_PROBLEMS = 100
_SHOWN = 3


class OfPaddle(NamedTuple):
    """A pickle's roots as Paddle reads them.

    Attributes:
        roots: With one tensor in the place of a parameter's parts, and bfloat16 for what is kept as uint16.
        is_it: Whether Paddle wrote them.
        problems: A line for each parameter whose parts do not make it, and are left as they lie.
        notes: A line about those that were put together.
    """

    roots: tuple[Root, ...]
    is_it: bool
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def as_paddle_reads(roots: tuple[Root, ...], top: Any, strings: Strings) -> OfPaddle:
    """The roots of a pickle, changed where Paddle wrote them.

    Args:
        roots: As they lie.
        top: The pickle's value.
        strings: Its byte strings, which have been listed.
    """
    written = [any(other.key in (_PARAMETER_NAMES, _IN_PARTS) for other in root.others) for root in roots]
    if not any(written) or not strings.arrays:
        return OfPaddle(roots, strings.paddle or any(written))
    # Only the outermost dictionary is cut.
    made = [_whole(root, top) if not root.path else (root, (), ()) for root in roots]
    read = tuple(
        root._replace(tensors=tuple(map(strings.as_paddle_reads, root.tensors))) if of_paddle else root
        for (root, _, _), of_paddle in zip(made, written, strict=True)
    )
    problems = tuple(problem for _, own, _ in made for problem in own)
    return OfPaddle(read, True, problems, tuple(note for _, _, own in made for note in own))


def without_parts(top: Any) -> Any:
    """A pickle's value with the first part in the place of each parameter that was cut, and nothing else of it."""
    said = pairs_of(_field(top, _IN_PARTS)) if isinstance(top, Dict) or function_name(top) == _ORDERED else None
    if said is None:
        return top
    # Entries may share one list of any length.
    lists = {id(parts): (name, parts) for name, one in said if (parts := _items(_field(one, "slices")))}
    names = {parts[0]: name for name, parts in lists.values() if isinstance(parts[0], str)}
    gone = {_IN_PARTS, *(part for _, parts in lists.values() for part in parts if isinstance(part, str))} - {*names}
    pairs = [pair for pair in pairs_of(top) or () if not (isinstance(pair[0], str) and pair[0] in gone)]
    left = [(names.get(key, key) if isinstance(key, str) else key, value) for key, value in pairs]
    if isinstance(top, Dict):
        return Dict(left)
    whole = Call(top.function, EMPTY)
    whole.pairs, whole.states = left, top.states
    return whole


_Whole: TypeAlias = tuple[Root, tuple[Problem, ...], tuple[str, ...]]


def _whole(root: Root, top: Any) -> _Whole:
    """A root with its whole parameters; what is wrong with others; what is to be said."""
    entries = pairs_of(_field(top, _IN_PARTS)) if any(other.key == _IN_PARTS for other in root.others) else None
    if not entries:
        return root, (), ()
    left = {tensor.key: tensor for tensor in root.tensors}
    whole: dict[str, Tensor] = {}
    problems: list[Problem] = []
    # Entries may share one list of any length.
    budget = 2 * len(left) + _MOST_PROBLEMS
    for name, said in entries:
        parts = _items(_field(said, "slices"))
        budget -= len(parts)
        made = _made(name, said, parts, left) if budget >= 0 else "these are named over and over"
        if isinstance(made, Tensor):
            whole[parts[0]] = made
            for part in parts:
                del left[part]
            continue
        which = f"parameter {name!r:.200}" if isinstance(name, str) else "a parameter"
        problems.append(Problem(f"{which} was cut into parts, and {made}", _AGAIN))
        if len(problems) == _MOST_PROBLEMS:
            break
    tensors = tuple(whole.get(one.key, one) for one in root.tensors if one.key in left or one.key in whole)
    others = root.others if problems else tuple(other for other in root.others if other.key != _IN_PARTS)
    names = first_few([tensor.key for tensor in whole.values()], _SHOWN)
    note = f"{names}: put together from the flat parts that paddle.save cut it into"
    return root._replace(tensors=tensors, others=others), tuple(problems), (note,) if whole else ()


def _field(node: Any, name: str) -> Any:
    """The value under a key of a mapping; None where there is none."""
    pairs = pairs_of(node) or ()
    return next((value for key, value in reversed(pairs) if isinstance(key, str) and key == name), None)


def _items(node: Any) -> Sequence[Any]:
    return node if isinstance(node, list) else node.items if isinstance(node, Tuple) else ()


def _made(name: Any, said: Any, names: Sequence[Any], tensors: Mapping[str, Tensor]) -> Tensor | str:
    """The whole parameter; or why there is none, as the end of a sentence about it.

    Args:
        name: The parameter's key.
        said: What is said of it.
        names: Its parts' keys.
        tensors: The arrays that are not part of another parameter, by their keys.
    """
    size = _field(said, "OriginShape")
    shape = tuple(_items(size)[: _MOST_AXES + 1])
    is_shape = isinstance(size, (list, Tuple)) and len(shape) <= _MOST_AXES
    if not is_shape or not all(type(count) is int and 0 <= count < 1 << 62 for count in shape):
        return "what is said of its shape is malformed"
    if not names or not isinstance(name, str) or not all(isinstance(one, str) for one in names):
        return "what is said of these is malformed"
    if name in tensors:
        return "it is in the file as a whole, too"
    lost = next((one for one in names if one not in tensors), None)
    if lost is not None:
        return f"{lost!r:.200} is not there"
    if len(set(names)) < len(names):
        return "one of these is named twice"
    parts = [tensors[one] for one in names]
    first, numel = parts[0], sum(part.numel for part in parts)
    if any(len(part.shape) != 1 or _form(part) != _form(first) for part in parts):
        return "these are not all flat and of one dtype"
    if math.prod(shape) != numel:
        return f"these have {plural(numel, 'number')}, where its shape {shape} has {math.prod(shape):,}"
    storage = _in_runs([part.storage for part in parts if part.storage is not None], len(parts))
    layout = "strided" if storage is not None or not numel else first.layout
    return first._replace(key=name, shape=shape, stride=contiguous(shape), storage=storage, layout=layout)


def _form(part: Tensor) -> tuple[str, str]:
    return part.dtype, "little" if part.storage is None else part.storage.byteorder


def _in_runs(runs: Sequence[Storage], count: int) -> Storage | None:
    """One storage of the bytes of several; None where some of the `count` parts have no place in the file."""
    if len(runs) < count or count == 1:
        return next(iter(runs), None) if count == 1 else None
    stored = sum(run.nbytes if run.packed_nbytes is None else run.packed_nbytes for run in runs)
    return runs[0]._replace(
        key=f"{runs[0].key} and {len(runs) - 1:,} more",
        nbytes=sum(run.nbytes for run in runs),
        available=sum(run.available for run in runs),
        packed_nbytes=stored,
        encoding="",
        runs=tuple(runs),
    )
