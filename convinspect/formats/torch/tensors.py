"""Describes the tensors that PyTorch's `_rebuild_…` functions would create, without calling them.

The functions and the order of their arguments are those of `torch/_utils.py` and `torch/_tensor.py`, from
PyTorch 0.2 to 2.13. Only the arguments are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from convinspect.dtypes import ITEMSIZE, storage_nbytes
from convinspect.errors import BrokenFile
from convinspect.formats.pickle.values import Call, Dict, Global, Persistent, PlainTensor, Tuple, Usual
from convinspect.formats.torch.nodes import arguments, class_name, function_name, pairs_of
from convinspect.formats.torch.storage_ids import LARGEST, STORAGE_DTYPES, number, storage_id
from convinspect.formats.torch.wrappers import is_dtensor, is_torchao, settings_text
from convinspect.records import Storage, Tensor

if TYPE_CHECKING:
    from convinspect.formats.torch.byte_storages import Strings

StorageOf: TypeAlias = Callable[[str, int], Storage]
"""(key, size in bytes) → the storage of that key in the file being read."""

_USUAL = "torch._utils._rebuild_tensor_v2"
_PLAIN = {
    "torch._utils._rebuild_tensor",
    _USUAL,
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_qtensor",
}
_WRAPPERS = {
    # function: position of the tensor among its arguments
    "torch._utils._rebuild_parameter": 0,
    "torch._utils._rebuild_parameter_with_state": 0,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": 0,
    "torch.nn.parameter.Parameter": 0,
    "torch.nn.parameter.Buffer": 0,
}
_FROM_TYPE = {
    "torch._tensor._rebuild_from_type",
    "torch._tensor._rebuild_from_type_v2",
    "torch.tensor._rebuild_from_type",
}
_ARRAYS = ("numpy.", "jax.", "dill.")
_SPARSE = {"torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_sparse_csr_tensor"}
_FROM_ARRAY = {
    "torch._utils._rebuild_device_tensor_from_numpy",
    "torch._utils._rebuild_xla_tensor",
    "torch._utils._rebuild_mlc_tensor",
    "torch._utils._rebuild_ort_tensor",
    "torch._utils._rebuild_hpu_tensor",
}
_PARAMETER_TYPES = {"torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.Tensor"}


def no_storage(key: str, nbytes: int) -> Storage:
    """A placeholder storage without a file, to find out whether a call rebuilds a tensor, and of which shape."""
    return Storage(Path(), key, nbytes, 0, None)


def tensor_of(node: Any, key: str, storage_of: StorageOf) -> Tensor | None:
    """The tensor that a call record would rebuild, named `key`; None if it would not rebuild a tensor.

    Raises:
        BrokenFile: The tensor's size, stride or storage is malformed.
    """
    if type(node) is Call and node.plain is not None and getattr(node.function, "qualified", None) == _USUAL:
        tensor = _plain(node.plain, key, storage_of)
        if tensor is not None:
            return tensor
    name = function_name(node)
    if name is None:
        return None
    try:
        return _rebuilt(name, node, key, storage_of)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        writer = "NumPy" if name.startswith(_ARRAYS) else "PyTorch"
        raise BrokenFile(
            f"tensor {key!r}: the pickle describes it in a way that {writer} never writes",
            "get the file again, or save it again",
        ) from None


def _rebuilt(name: str, node: Call, key: str, storage_of: StorageOf) -> Tensor | None:
    args: Sequence[Any] = node.args.items if type(node.args) is Tuple else ()
    if name in _PLAIN:
        tensor = _strided(name, node, key, storage_of)
        return _with_quantizer(tensor, args[4], storage_of) if tensor.layout == "quantized" else tensor
    if name in _WRAPPERS:
        inner = tensor_of(args[_WRAPPERS[name]], key, storage_of)
        trainable = args[1] if len(args) > 1 and isinstance(args[1], bool) else None
        return inner and inner._replace(requires_grad=trainable)
    if name in _FROM_TYPE:
        return _from_type(args, key, storage_of)
    if name in _SPARSE:
        return _sparse(args, key, storage_of)
    if name == "torch._utils._rebuild_meta_tensor_no_storage":
        return _without_storage(node, key, 0, "meta")
    if name == "torch._utils._rebuild_wrapper_subclass":
        tensor = _without_storage(node, key, 1, "wrapped")
        # Its arguments: class, dtype, size, stride, offset, layout, device, requires_grad.
        trainable = args[7] if len(args) > 7 and isinstance(args[7], bool) else None
        device = arguments(args[6])[:1] if len(args) > 6 and isinstance(args[6], Call) else ()
        return tensor._replace(
            subclass=class_name(args[0]) or "?",
            requires_grad=trainable,
            device=device[0] if device and isinstance(device[0], str) else tensor.device,
        )
    if name.startswith(_ARRAYS):
        return _array(name, node, key, storage_of)
    if name in _FROM_ARRAY:
        return _from_array(args, key, storage_of)
    if name == "builtins.tuple":
        return _named_array(args, key, storage_of)
    return None


def _named_array(args: Sequence[Any], key: str, storage_of: StorageOf) -> Tensor | None:
    """`tuple((name, array))`, as `paddle.save` writes a tensor that is not a state_dict's alone."""
    strings = strings_of(storage_of)
    pair = args[0].items if strings is not None and len(args) == 1 and isinstance(args[0], Tuple) else ()
    if strings is None or len(pair) != 2 or not isinstance(pair[0], str):
        return None
    if not (function_name(pair[1]) or "").startswith(_ARRAYS):
        return None
    tensor = tensor_of(pair[1], key, storage_of)
    strings.paddle |= tensor is not None
    return tensor and strings.as_paddle_reads(tensor)


def strings_of(storage_of: StorageOf) -> Strings | None:
    """Where the pickle's byte strings lie, where whoever gives the storages knows that."""
    strings: Strings | None = getattr(storage_of, "strings", None)
    return strings


def _array(name: str, node: Call, key: str, storage_of: StorageOf) -> Tensor | None:
    """A NumPy array, where the pickle's byte strings are at hand."""
    # Imported here, since most files have none and are listed faster without.
    from convinspect.formats.torch.arrays import array_of, is_array

    strings = strings_of(storage_of)
    return array_of(name, node, key, strings) if strings is not None and is_array(name) else None


def _from_array(args: Sequence[Any], key: str, storage_of: StorageOf) -> Tensor | None:
    """`_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad)`, as XLA's tensors are pickled."""
    tensor, strings = tensor_of(args[0], key, storage_of), strings_of(storage_of)
    if tensor is None:
        return None
    dtype, device, trains = _dtype(args[1]), args[2], args[3]
    if strings is not None and dtype != tensor.dtype:
        strings.cast[key] = dtype
    return tensor._replace(
        device=device if isinstance(device, str) else None,
        requires_grad=trains if isinstance(trains, bool) else None,
        subclass=None,
    )


def is_from_array(name: str) -> bool:
    """Whether a function of this name rebuilds a tensor from a NumPy array."""
    return name in _FROM_ARRAY


def _strided(name: str, node: Call, key: str, storage_of: StorageOf) -> Tensor:
    """`_rebuild_tensor…(storage, storage_offset, size, stride, …)`."""
    packed = node.args
    args = packed.items
    place = args[0]
    if type(place) is Call:
        place, storage_of = _nested(place, storage_of)
    kind, storage_key, device, numel, first = storage_id(place)
    dtype = _dtype(args[6]) if name.endswith("_v3") else kind
    shape, stride = _numbers(args[2]), _numbers(args[3])
    if len(shape) != len(stride):
        raise ValueError("size and stride differ in length")
    return Tensor(
        key,
        dtype,
        shape,
        stride,
        number(args[1]) + first,
        storage_of(storage_key, storage_nbytes(kind, numel)),
        "quantized" if name.endswith("_rebuild_qtensor") else _view_bits(args[-1]),
        args[4] if len(args) > 4 and isinstance(args[4], bool) else None,
        device,
        None,
        *_spans(packed, 2),
    )


def _nested(node: Call, storage_of: StorageOf) -> tuple[Persistent, StorageOf]:
    """A storage that is pickled as a byte string: its persistent id, and what gives it."""
    strings = strings_of(storage_of)
    if strings is None or not strings.loads(node):
        raise ValueError("not a storage")
    found, storage = strings.nested(node)
    return found, lambda key, nbytes: storage


def _spans(packed: Tuple, size: int) -> tuple[int, tuple[int, int, int, int]]:
    """Where the size, item `size` of the arguments, and the stride behind it are pushed, as a `Tensor` has it."""
    (at, size_end), (stride_at, stride_end) = packed.span(size), packed.span(size + 1)
    return at, (0, size_end - at, stride_at - at, stride_end - at)


def _plain(plain: PlainTensor, key: str, storage_of: StorageOf) -> Tensor | None:
    """As `_strided`, of what the usual instructions say, in half the time; None where that is anything unusual."""
    usual, at = plain.usual, plain.offset_at
    told = usual.told
    if told is None:
        told = usual.told = _told(usual)
    if not told:
        return None
    dtype, shape, steps, offset, nbytes, trains, device, spans = told
    return _new(Tensor, (
        key, dtype, shape, steps, offset, storage_of(plain.storage[2], nbytes), "strided", trains, device, None,
        at, spans, (), "",
    ))  # fmt: skip


def _told(usual: Usual) -> tuple[Any, ...]:
    """The same of all tensors whose instructions say the same; () where `_strided` has to see to each."""
    kind, shape, steps = usual.kind, usual.size.values, usual.stride.values
    dtype = STORAGE_DTYPES.get(kind.name) if type(kind) is Global else None
    named = dtype is not None and usual.word == "storage" and type(usual.place) is str
    if not named or len(shape) != len(steps) or min(usual.numel, usual.offset, *shape, *steps) < 0:
        return ()
    size_at, stride_at, _ = usual.after
    spans = (size_at, size_at + usual.size.length, stride_at, stride_at + usual.stride.length)
    nbytes = storage_nbytes(str(dtype), usual.numel)
    return (dtype, shape, steps, usual.offset, nbytes, usual.trains, usual.place, spans)


_new = tuple.__new__
"""Half of what calling the class takes; a file may have hundreds of thousands of tensors."""


def _with_quantizer(tensor: Tensor, node: Any, storage_of: StorageOf) -> Tensor:
    """A quantized tensor with its `(scheme, scale, zero_point)`, or `(scheme, scales, zero_points, axis)`."""
    items = node.items if isinstance(node, Tuple) else []
    parts = [tensor_of(item, f"{tensor.key} (its quantizer)", storage_of) for item in items]
    words = [class_name(item) or str(item) for item, part in zip(items, parts, strict=True) if part is None]
    return tensor._replace(parts=tuple(part for part in parts if part is not None), quantizer=", ".join(words))


def _view_bits(metadata: Any) -> str:
    """Layout of a dense tensor. PyTorch stores the base of a lazily conjugated or negated view, and flags it."""
    if not isinstance(metadata, Dict):
        return "strided"
    bits = dict(metadata.pairs)
    return "negated" if bits.get("neg") else "conjugated" if bits.get("conj") else "strided"


def _from_type(args: Sequence[Any], key: str, storage_of: StorageOf) -> Tensor | None:
    """`_rebuild_from_type…(function, type, arguments, state)`: rebuilds a tensor, then sets its subclass and state."""
    tensor = tensor_of(Call(args[0], args[2]), key, storage_of)
    wrapper = class_name(args[1]) or "?"
    if tensor is None or wrapper in _PARAMETER_TYPES:
        return tensor
    state = _state(args[3]) if len(args) > 3 else {}
    kept = ((name, tensor_of(value, f"{key}.{name}", storage_of)) for name, value in state.items())
    parts = {str(name): part for name, part in kept if part is not None}
    tensor = tensor._replace(subclass=wrapper, parts=tuple(parts.values()))
    if tensor.layout == "wrapped" and is_dtensor(tensor):
        return _distributed(tensor, parts.get("_local_tensor"), state.get("_spec"))
    return tensor._replace(quantizer=settings_text(state, parts)) if is_torchao(tensor) else tensor


def _state(node: Any) -> dict[Any, Any]:
    """The attributes that `torch._utils._set_obj_state` would set: a dictionary, or a pair of it and of the slots."""
    parts = node.items if isinstance(node, Tuple) else [node]
    return {name: value for part in parts for name, value in pairs_of(part) or ()}


_PLACEMENTS = {"Shard", "_StridedShard", "Replicate"}
"""Those under which a local part as large as the whole holds its numbers; under Partial they are summands of them."""


def _distributed(tensor: Tensor, local: Tensor | None, spec: Any) -> Tensor:
    """A DTensor. Where its local part is all of it, it can be read as that part; else it stays "wrapped"."""
    attributes = {name: value for state in getattr(spec, "states", ()) for name, value in _state(state).items()}
    placements = attributes.get("placements")
    listed = placements.items if isinstance(placements, Tuple) else placements or ()
    known = all((function_name(placement) or "").rpartition(".")[2] in _PLACEMENTS for placement in listed)
    if local is None or not listed or not known or (local.shape, local.dtype) != (tensor.shape, tensor.dtype):
        return tensor
    return tensor._replace(
        stride=local.stride, offset=local.offset, storage=local.storage, layout=local.layout, device=local.device
    )


def _sparse(args: Sequence[Any], key: str, storage_of: StorageOf) -> Tensor:
    """`_rebuild_sparse_tensor(layout, parts)`.

    The parts are (indices, values, size, …), or, of a compressed layout, (compressed indices, plain indices,
    values, size).
    """
    layout = _layout(args[0])
    *parts, size = args[1].items[:3] if layout == "sparse_coo" else args[1].items[:4]
    rebuilt = [tensor_of(part, key, storage_of) for part in parts]
    tensors = tuple(tensor for tensor in rebuilt if tensor is not None)
    if len(tensors) != len(rebuilt):
        raise ValueError("no indices or no values")
    shape = _numbers(size)
    values = tensors[-1]
    return Tensor(key, values.dtype, shape, (0,) * len(shape), 0, None, layout, None, values.device, parts=tensors)


def _layout(node: Any) -> str:
    """A layout: `_get_layout('torch.sparse_csr')`, or the name itself."""
    name = arguments(node)[0] if isinstance(node, Call) else class_name(node)
    return str(name).removeprefix("torch.")


def _without_storage(node: Call, key: str, first: int, layout: str) -> Tensor:
    """A tensor without numbers. Its dtype, size and stride are the arguments from index `first`."""
    packed = node.args
    dtype, size, stride = packed.items[first : first + 3]
    shape = _numbers(size)
    return Tensor(key, _dtype(dtype), shape, _numbers(stride)[: len(shape)], 0, None, layout, None, "meta", None,
                  *_spans(packed, first + 1))  # fmt: skip


def _dtype(node: Any) -> str:
    if not isinstance(node, Global) or node.name not in ITEMSIZE:
        raise ValueError("unknown dtype")
    return node.name


def _numbers(node: Any) -> tuple[int, ...]:
    """A size or stride: a tuple of numbers, or `torch.Size` of one."""
    if isinstance(node, Call):
        node = arguments(node)[0]
    items = node if isinstance(node, list) else node.items
    if len(items) > 64:
        raise ValueError("more dimensions than a tensor can have")
    for item in items:
        if type(item) is not int or not 0 <= item <= LARGEST:
            raise TypeError("not a size")
    # For a tuple this returns the same object, without a copy.
    return tuple(items)
