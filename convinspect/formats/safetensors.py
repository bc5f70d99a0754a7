"""One safetensors file: eight bytes of header length, a JSON header, then the tensors' bytes.

The rules are those of the format's specification: little-endian, row-major, offsets relative to the header's end,
no overlaps and no gaps, at most 100 MB of header.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from convinspect.dtypes import nbytes_of
from convinspect.errors import BrokenFile, NotACheckpoint, RefusedFile
from convinspect.formats.files import File, cut_short
from convinspect.layouts import KnownFrom, Layout, Maker
from convinspect.records import Container, Contents, Problem, Root, Storage, Tensor, contiguous

RESERVED = "__metadata__"
"""The one name that no tensor of a safetensors file can have."""


_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F6_E2M3": "float6_e2m3fn", "F6_E3M2": "float6_e3m2fn",
    "F4": "float4_e2m1fn", "C64": "complex64", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_PARTS_OF_BYTES = {"float6_e2m3fn": 6, "float6_e3m2fn": 6, "float4_e2m1fn": 4}
"""Bits of a number, of the dtypes that PyTorch has none for: safetensors.torch refuses a file with one."""
_LONGEST_HEADER = 100_000_000
_LARGE_HEADER = 8_000_000
"""Bytes, enough for some 70,000 tensors. A larger header must not exceed the tensors' bytes."""
_AGAIN = "download or copy it again"


def is_safetensors(head: bytes) -> bool:
    """True when the first bytes can only be a header length and the `{` of its JSON."""
    return len(head) > 8 and head[8:9] == b"{" and not all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head[:8])


def read_safetensors(file: File) -> Contents:
    """List a safetensors file from its header alone.

    Raises:
        BrokenFile: The header is truncated, malformed or violates the format.
        RefusedFile: Its tensors overlap, or a name occurs twice.
    """
    text = header_text(file)
    length = len(text)
    header = _parse(text)
    metadata = header.pop(RESERVED, {})
    layout = _layout(metadata)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict):
        raise BrokenFile("its __metadata__ is not a dictionary", "save it again")
    cache: _KindCache = {}
    # `true` equals 1.
    tensors = _tensors(file, header, 8 + length, cache, b"true" not in text)
    if not tensors:
        raise NotACheckpoint("its header lists no tensors", "give the file that holds the weights", file.path)
    end = _check_layout(tensors, file.start + 8 + length)
    # Few files hold anything of what it looks for.
    unusual = any(kind.dtype in _PARTS_OF_BYTES or not kind.nbytes for kind in cache.values())
    unusual = unusual or len(cache) == _MOST_KINDS or b"\\ud" in text or b"\\uD" in text
    refused = not_loaded(tensors, file.start + 8 + length) if unusual else []
    return Contents(
        file.path,
        Container.SAFETENSORS,
        (Root("", "model", tuple(tensors)),),
        file.size,
        _problems(file, tensors, end),
        _notes(file, tensors, file.start + 8 + length, end),
        {str(key): str(value) for key, value in metadata.items()},
        layout=layout,
        unloadable=_refusal(refused),
    )


_FORMATS = {"mlx": Maker.MLX, "pd": Maker.PADDLE, "paddle": Maker.PADDLE}
"""The metadata's `format` → whose layout it is. "flax" and "tf" say nothing that the names do not."""


def _layout(metadata: Any) -> Layout | None:
    """Whose layout the metadata name; `null` is what `mlx.core.save_safetensors` writes where it is given none."""
    if metadata is None:
        return Layout(Maker.MLX, KnownFrom.WRITER)
    said = metadata.get("format") if isinstance(metadata, dict) else None
    maker = _FORMATS.get(said) if isinstance(said, str) else None
    return None if maker is None else Layout(maker, KnownFrom.METADATA)


def header_text(file: File) -> bytes:
    """The JSON header, after a check of its length.

    Raises:
        BrokenFile: The file ends within the header, or the header is longer than the format allows.
        RefusedFile: The header is out of proportion to the tensors.
    """
    length = int.from_bytes(file.read(0, 8), "little")
    if length > _LONGEST_HEADER:
        raise BrokenFile(f"its header claims to be {length:,} bytes long; the format allows 100,000,000", _AGAIN)
    if 8 + length > file.size:
        raise cut_short(file.size, None, f", in the middle of a header of {length:,} bytes")
    if length > max(_LARGE_HEADER, file.size - 8 - length):
        raise RefusedFile(
            f"its header of {length:,} bytes describes {file.size - 8 - length:,} bytes of tensors,"
            " which may be meant to exhaust whoever opens it",
            "do not load it elsewhere either",
        )
    return file.read(8, length)


def _parse(text: bytes) -> dict[str, Any]:
    # Imported here, since most checkpoints hold no JSON and open faster without its parser.
    import json

    try:
        # No number of the format has a fraction; as text, 1.0 equals no size.
        header = json.loads(text, parse_float=str)
        if not _keys_are_counted(text, header):
            header = json.loads(text, parse_float=str, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise BrokenFile("its header is not valid JSON", _AGAIN) from None
    if not isinstance(header, dict):
        raise BrokenFile("its header is not a dictionary", _AGAIN)
    return header


_BEFORE_COLONS = (b" :", b"\t:", b"\n:", b"\r:")


def _keys_are_counted(text: bytes, header: Any) -> bool:
    """Whether the parsed header has as many keys as its text, so that none is there twice.

    Where no quote is escaped and no blank stands before a colon, each `":` ends a key, and nothing else does. To look
    at each dictionary by itself takes half as long again as parsing.
    """
    # One byte is found much faster than two, and most headers have none of these blanks.
    blanks = any(blank[:1] in text and blank in text for blank in _BEFORE_COLONS)
    if not isinstance(header, dict) or b"\\" in text or blanks:
        return False
    inner = sum([len(value) for value in header.values() if type(value) is dict])
    return text.count(b'":') == len(header) + inner


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of the pairs. Repeated keys are refused, since two readers could see different tensors."""
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RefusedFile(f"its header names {twice!r} twice, so what it says depends on who reads it", "save it again")
    return values


_MOST_KINDS = 4096
"""Entries of the cache at most. A file with more kinds repeats few of them."""


class _Kind(NamedTuple):
    """What all tensors of one dtype and shape have in common."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    nbytes: int


_KindCache: TypeAlias = dict[tuple[object, ...], _Kind]
"""Kinds by dtype and sizes. The tensors of a file share them, which saves time and memory."""


_OF_STORAGES = tuple(Storage._field_defaults.values())
_OF_TENSORS = tuple(Tensor._field_defaults[field] for field in Tensor._fields[6:])
"""What no safetensors file says of a storage or a tensor, in the order of their fields."""


def _tensors(file: File, header: Mapping[str, Any], base: int, cache: _KindCache, exact: bool) -> list[Tensor]:
    """All entries of the header; of a kind that came before, without a second look at what is the same.

    Args:
        file: The whole file.
        header: Without the metadata.
        base: As of `_tensor`.
        cache: As of `_tensor`.
        exact: Sizes that are equal are the same integers.
    """
    path, size, begins = file.path, file.size, file.start
    known: dict[tuple[object, ...], _Kind] = {}
    tensors = []
    # Half of what calling the classes takes, of which a large file has hundreds of thousands.
    make = tuple.__new__
    for key, entry in header.items():
        try:
            kind = known.get((entry["dtype"], *entry["shape"]))
            begin, end = entry["data_offsets"]
        except (TypeError, KeyError, ValueError):
            kind = None
        if kind is not None and type(begin) is type(end) is int and len(entry) == 3:
            nbytes = kind.nbytes
            if 0 <= begin == end - nbytes and base + end <= size:
                storage = make(Storage, (path, key, nbytes, nbytes, begins + base + begin, *_OF_STORAGES))
                dtype, shape, stride, _ = kind
                tensors.append(make(Tensor, (key, dtype, shape, stride, 0, storage, *_OF_TENSORS)))
                continue
        tensor = _tensor(file, key, entry, base, cache)
        tensors.append(tensor)
        if exact and len(known) < _MOST_KINDS and tensor.dtype not in _PARTS_OF_BYTES:
            kind = cache.get((tensor.dtype, *tensor.shape))
            if kind is not None:
                kind_key = (entry["dtype"], *entry["shape"])
                known[kind_key] = kind
    return tensors


def _tensor(file: File, key: str, entry: Any, base: int, cache: _KindCache) -> Tensor:
    """One header entry: `{"dtype", "shape", "data_offsets"}`.

    Args:
        file: The whole file.
        key: The tensor's name.
        entry: Its value in the header.
        base: Offset in the file to which the entry's offsets are added.
        cache: Cache of the file's kinds, which is updated.
    """
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    code: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or len(shape) > 64:
        raise BrokenFile(f"tensor {key!r}: its header entry is malformed", _AGAIN)
    dtype = _DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise BrokenFile(f"tensor {key!r}: dtype {code!r} is not one of the format's", "update convinspect")
    if dtype == "float4_e2m1fn" and shape and not shape[-1] % 2:
        # PyTorch's elements are pairs of these: its (8, 4) is written as [8, 8].
        dtype, shape = "float4_e2m1fn_x2", [*shape[:-1], shape[-1] // 2]
    # All sizes are of type int by now, so equal keys mean equal shapes.
    cache_key = (dtype, *shape)
    kind = cache.get(cache_key)
    if kind is None:
        sizes = tuple(shape)
        kind = _Kind(dtype, sizes, contiguous(sizes), nbytes_of(dtype, math.prod(sizes)))
        if len(cache) < _MOST_KINDS:
            cache[cache_key] = kind
    begin, end = offsets
    nbytes = kind.nbytes
    if dtype in _PARTS_OF_BYTES and math.prod(kind.shape) * _PARTS_OF_BYTES[dtype] % 8:
        what = f"{kind.shape} of {code} ends within a byte, which the format forbids"
        raise BrokenFile(f"tensor {key!r}: {what}", "save it again")
    if end - begin != nbytes:
        raise BrokenFile(f"tensor {key!r}: {end - begin:,} bytes are no {code} of shape {kind.shape}", _AGAIN)
    start = base + begin
    available = nbytes if start + nbytes <= file.size else max(0, file.size - start)
    storage = Storage(file.path, key, nbytes, available, file.start + start)
    return Tensor(key, dtype, kind.shape, kind.stride, 0, storage)


_INTEGERS = {int}


def _are_sizes(values: Any) -> bool:
    """Whether it is a list of integers that can be sizes; `true` and `1.0` are not."""
    if not isinstance(values, list) or not values:
        return values == []
    return set(map(type, values)) == _INTEGERS and min(values) >= 0 and max(values) < 2**63


def _check_layout(tensors: list[Tensor], begin: int) -> int:
    """Offset in the file where the last tensor ends; `begin`, where the header ends, if all are empty.

    Raises:
        RefusedFile: Two tensors share bytes.
    """
    # Nearly all files hold their tensors in the header's order, and need no sorting.
    end, clash = _laid_out(tensors, begin)
    if clash:
        end, clash = _laid_out(sorted(tensors, key=_place), begin)
    if clash:
        raise RefusedFile(f"tensors {clash[0]!r} and {clash[1]!r} overlap, which the format forbids", "save it again")
    return end


def _place(tensor: Tensor) -> tuple[int, int, str]:
    storage = tensor.storage
    return (0, 0, tensor.key) if storage is None else (storage.start or 0, storage.nbytes, tensor.key)


def _laid_out(tensors: Iterable[Tensor], begin: int) -> tuple[int, tuple[str, str] | None]:
    """Where the last of the tensors ends, and the first two, if any, of which one begins before the other ends."""
    end, last = begin, ""
    for tensor in tensors:
        storage = tensor.storage
        if storage is not None and storage.nbytes:
            start = storage.start or 0
            if start < end:
                return end, (last, tensor.key)
            end, last = start + storage.nbytes, tensor.key
    return end, None


def not_loaded(tensors: Iterable[Tensor], begin: int) -> list[tuple[str, str]]:
    """Tensors for which the safetensors library refuses the whole file, though all bytes are there: name and why.

    Checked with safetensors 0.8. A gap is one reason more; it is reported as such.

    Args:
        tensors: Of the file.
        begin: Offset in the file where the header ends.
    """
    found: list[tuple[str, str]] = []
    end = begin
    places = [(tensor.storage.start or 0, tensor.storage.nbytes, tensor) for tensor in tensors if tensor.storage]
    for start, nbytes, (key, dtype, *_) in sorted(places):
        if dtype in _PARTS_OF_BYTES:
            code = next(code for code, name in _DTYPES.items() if name == dtype)
            odd = " with an odd last dimension" if code == "F4" else ""
            found.append((key, f"PyTorch has no dtype for {code}{odd}"))
        elif not nbytes and start != end:
            found.append((key, "it is empty, and does not lie where the tensor before it ends"))
        elif not key.isascii() and _is_no_text(key):
            found.append((key, "its name is no Unicode text"))
        end = max(end, start + nbytes)
    return found


def _refusal(refused: Sequence[tuple[str, str]]) -> str:
    """A line that safetensors refuses the file, where it does; else ""."""
    more = f", and {len(refused) - 1:,} more" if len(refused) > 1 else ""
    return "safetensors.torch does not load this file: {!r}: {}{}".format(*refused[0], more) if refused else ""


def _is_no_text(key: str) -> bool:
    """Whether a name holds half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    return any("\ud800" <= char <= "\udfff" for char in key)


def _problems(file: File, tensors: list[Tensor], end: int) -> tuple[Problem, ...]:
    gone = [tensor.key for tensor in tensors if (at := tensor.storage) is not None and at.available < at.nbytes]
    if not gone:
        return ()
    more = f" and {len(gone) - 1:,} more tensor{'s' * (len(gone) > 2)}" if len(gone) > 1 else ""
    error = cut_short(file.size, end - file.start, f", in the bytes of {gone[0]!r}{more}")
    return (Problem(error.problem, error.remedy),)


def _notes(file: File, tensors: list[Tensor], begin: int, end: int) -> tuple[str, ...]:
    extra = file.start + file.size - end
    notes = [f"{extra:,} bytes follow the last tensor; the format allows none"] if extra > 0 else []
    # No two tensors overlap, so the remaining bytes are gaps.
    gaps = end - begin - sum(tensor.storage.nbytes for tensor in tensors if tensor.storage)
    if gaps > 0:
        notes.append(f"{gaps:,} bytes between the tensors belong to none; the format allows no gaps")
    return tuple(notes)
