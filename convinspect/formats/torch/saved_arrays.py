"""NumPy arrays in what `torch.save` wrote: in its pickle, beside the storages of its tensors.

A dictionary of arrays is listed as one of tensors. An array among tensors stays an object, since `load_state_dict`
takes none; and where there are tensors, what is of arrays alone (the state of a random generator) is no model.
"""

from __future__ import annotations

from collections.abc import Sequence

from convinspect.formats.pickle.machine import Walk
from convinspect.formats.torch.arrays import is_array
from convinspect.formats.torch.byte_storages import ARRAY, Strings, notes_on_arrays
from convinspect.formats.torch.byte_storages import InStrings as InStrings
from convinspect.formats.torch.tensors import is_from_array
from convinspect.keys.others import Other, Value
from convinspect.records import Root, Tensor
from convinspect.text import first_few, plural


def holds_arrays(tree: Walk) -> bool:
    """Whether a pickle asks for what rebuilds arrays."""
    return any(is_array(name) or is_from_array(name) for name in tree.globals)


def are_arrays(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors of what `torch.save` wrote are arrays, whose pickle has no sizes of tensors."""
    if not tensors or any(tensor.spans is not None or tensor.subclass is not None for tensor in tensors):
        return False
    # Tensors without numbers were described by somebody, not read from a pickle.
    return all(tensor.storage is not None and tensor.layout in ("strided", "compressed") for tensor in tensors)


def settled(roots: Sequence[Root], strings: Strings) -> tuple[tuple[Root, ...], tuple[str, ...], bool]:
    """The roots with those arrays alone that are tensors, lines that say so, and whether these are all.

    Args:
        roots: As found.
        strings: What gave their arrays.
    """
    real = any(tensor.subclass != ARRAY for root in roots for tensor in root.tensors)
    found = [_settled(root, real) for root in roots]
    plain = tuple(root._replace(tensors=tuple(map(_unmarked, root.tensors))) for root in found)
    strings.arrays = 0 if real else strings.arrays
    if real:
        strings.left.clear()
    return plain, (*_notes_on_objects(roots, found), *notes_on_arrays(strings)), bool(strings.arrays)


def _notes_on_objects(roots: Sequence[Root], found: Sequence[Root]) -> tuple[str, ...]:
    """A line that names the arrays which stay objects in a model, as they would be missing without a word."""
    left = [
        f"{root.path}.{tensor.key}" if root.path else tensor.key
        for root, kept in zip(roots, found, strict=True)
        if root.role != "optimizer" and len(kept.tensors) < len(root.tensors)
        for tensor in root.tensors
        if tensor.subclass == ARRAY
    ]
    if not left:
        return ()
    are = "is" if len(left) == 1 else "are"
    return (
        f"{plural(len(left), 'NumPy array')} beside the tensors {are} not listed: {first_few(left, 3)}"
        " (load_state_dict takes no arrays)",
    )


def _unmarked(tensor: Tensor) -> Tensor:
    return tensor._replace(subclass=None) if tensor.subclass == ARRAY else tensor


def _settled(root: Root, real: bool) -> Root:
    """A root without arrays among its tensors, or one of arrays alone, which is no model where others hold tensors."""
    arrays = [tensor for tensor in root.tensors if tensor.subclass == ARRAY]
    if not arrays:
        return root
    if len(arrays) < len(root.tensors):
        objects = tuple(Other(tensor.key, Value.OBJECT, "NumPy array") for tensor in arrays)
        kept = tuple(tensor for tensor in root.tensors if tensor.subclass != ARRAY)
        return root._replace(tensors=kept, others=(*root.others, *objects))
    return root._replace(role="other") if real and root.role == "model" else root
