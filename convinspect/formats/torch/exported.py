"""A `.pt2` archive (`torch.export.save`): weights as records, the graph as JSON.

There are two layouts. Before PyTorch 2.8 the weights are a `torch.save` file inside the zip; later each weight has
its own record, described by `data/weights/NAME_weights_config.json`. What the graph says of the layers is read by
`graph`. Field names and enumerations are those of PyTorch's `torch/_export/serde/schema.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from convinspect.dtypes import ITEMSIZE
from convinspect.errors import BrokenFile, ConvInspectError, RefusedFile
from convinspect.formats.files import File
from convinspect.formats.torch.archive import missing_records, read_torch_zip
from convinspect.formats.zip.archive import Archive
from convinspect.records import Container, Contents, Problem, Root, Tensor

_SCALAR_TYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16",
    29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip
PICKLED = "pickled"
"""Layout of a weight in a pickle that says nothing of a tensor."""
_OLD_GRAPH = "serialized_exported_program.json"
_OLD_WEIGHTS = "serialized_state_dict.pt"
_LARGEST_JSON = 1 << 28

# PyTorch does not compress the JSON records, so they are smaller than the file. Other tools may compress them.
_ANY_TEXT, _TEXT_PER_BYTE = 1 << 23, 8
"""Bytes of JSON that every file may have, and the additional ones per byte of the file."""
_ANY_PARTS, _BYTES_PER_PART = 1_000_000, 8
"""Parts (dictionaries, lists and their items) that every file may have, and bytes of the file per additional part. A
part takes up to 100 bytes of memory; PyTorch writes a part per 14 bytes."""
_ANY_WEIGHTS, _WEIGHTS_PER_RECORD = 20_000, 4
"""Tensors that every file may list, and the additional ones per record, since several tensors may share a record."""

_TAKEN = {
    "parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name",
    "custom_obj": "custom_obj_name",
}  # fmt: skip
"""Kinds of graph inputs that the archive stores, and the field that names each."""


def is_exported(archive: Archive) -> bool:
    """True for either layout of a `.pt2`."""
    return _OLD_GRAPH in archive.records or any(_is_graph(name) for name in archive.records)


def read_exported(file: File, archive: Archive) -> Contents:
    """List a `.pt2` archive.

    Raises:
        BrokenFile: A part is missing or malformed.
        RefusedFile: The JSON records are out of proportion to the file.
    """
    # Imported here, since every zip is asked whether it is one of these.
    from convinspect.formats.torch.graph import graph_modules

    roots: list[Root] = []
    problems: list[Problem] = []
    texts = _Texts(archive)
    for name, graph_record in _models(archive).items():
        graph = texts.parsed(graph_record)
        tensors, trouble = _weights(file, archive, name, texts)
        modules = graph_modules(graph, {tensor.key: tensor for tensor in tensors})
        roots.append(Root("" if not roots else name, "model", tuple(tensors), modules))
        problems.extend(trouble or missing_records((roots[-1],)))
        problems.extend(_lacking(graph, {tensor.key for tensor in tensors}, _constants(archive, name, texts)))
    return Contents(file.path, Container.EXPORTED, tuple(roots), file.size, tuple(problems))


def _is_graph(name: str) -> bool:
    return name.startswith("models/") and name.endswith(".json")


def _models(archive: Archive) -> dict[str, str]:
    """The graph's record of each model, by the model's name."""
    if _OLD_GRAPH in archive.records:
        return {"model": _OLD_GRAPH}
    return {name.removeprefix("models/").removesuffix(".json"): name for name in archive.records if _is_graph(name)}


class _Texts:
    """An archive's JSON records, whose total size is limited in proportion to the file."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._bytes = _ANY_TEXT + _TEXT_PER_BYTE * archive.file.size
        self._parts = _ANY_PARTS + archive.file.size // _BYTES_PER_PART

    def parsed(self, record: str) -> dict[str, Any]:
        """The dictionary in a JSON record.

        Raises:
            BrokenFile: The record is too large, or is not a JSON dictionary.
            RefusedFile: The records read so far are out of proportion to the file.
        """
        # Imported here, since most checkpoints hold no JSON and open faster without its parser.
        import json

        size = self._archive.records[record].size if record in self._archive.records else 0
        if size > _LARGEST_JSON:
            raise BrokenFile(f"record {record!r} is larger than 256 MB", "export the model again")
        self._bytes -= size
        self._check(record)
        text = self._archive.read(record)
        self._parts -= sum(map(text.count, (b"{", b"[", b",")))
        self._check(record)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise BrokenFile(f"record {record!r} is not valid JSON", "export the model again") from None
        if not isinstance(value, dict):
            raise BrokenFile(f"record {record!r} is not a dictionary", "export the model again")
        return value

    def _check(self, record: str) -> None:
        if min(self._bytes, self._parts) < 0:
            raise RefusedFile(
                f"record {record!r} describes far more than a file of {self._archive.file.size:,} bytes can hold",
                "do not load it elsewhere either",
            )


def _weights(file: File, archive: Archive, model: str, texts: _Texts) -> tuple[list[Tensor], tuple[Problem, ...]]:
    config = f"data/weights/{model}_weights_config.json"
    if config in archive.records:
        order = archive.byteorder()
        entries = texts.parsed(config).get("config")
        if not isinstance(entries, dict):
            raise BrokenFile(f"record {config!r} lists no weights", "export the model again")
        if len(entries) > _ANY_WEIGHTS + _WEIGHTS_PER_RECORD * len(archive.records):
            raise RefusedFile(
                f"record {config!r} lists {len(entries):,} tensors, and the file has {len(archive.records):,} records",
                "do not load it elsewhere either",
            )
        tensors = [_tensor(archive, key, entry, order) for key, entry in entries.items()]
        return list(_unpickled(file, archive, tensors)), ()
    for record in (_OLD_WEIGHTS, f"data/weights/{model}.pt"):
        if record in archive.records:
            return _inner(file, archive, record)
    return [], ()


def _unpickled(file: File, archive: Archive, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors; those that are `torch.save` files of one tensor, as subclasses are, as these files describe them."""
    read: dict[str, Tensor | None] = {}
    for tensor in tensors:
        if tensor.layout != PICKLED or tensor.storage is None:
            yield tensor
            continue
        record = tensor.storage.key
        if record not in read:
            read[record] = _pickled_tensor(file, archive, f"data/weights/{record}")
        inner = read[record]
        fits = inner is not None and (inner.shape, inner.dtype) == (tensor.shape, tensor.dtype)
        # Its storage is that file, in which the numbers lie anywhere.
        yield tensor._replace(storage=None) if inner is None or not fits else inner._replace(key=tensor.key)


def _pickled_tensor(file: File, archive: Archive, record: str) -> Tensor | None:
    """The only tensor of a `torch.save` file; None if it is none, or holds several.

    Raises:
        RefusedFile: It is hostile.
    """
    try:
        found = _inner(file, archive, record)[0] if record in archive.records else []
    except RefusedFile:
        raise
    except ConvInspectError:
        return None
    return found[0] if len(found) == 1 else None


def _inner(file: File, archive: Archive, record: str) -> tuple[list[Tensor], tuple[Problem, ...]]:
    """Weights in a `torch.save` file that is itself a record of the archive."""
    info = archive.records[record]
    if info.method:
        raise BrokenFile(f"record {record!r} is compressed", "export the model again with a current PyTorch")
    if info.size == 0:
        return [], ()
    start = archive.payload(record)
    with File(file.path, file.start + start, min(info.size, file.size - start)) as part:
        contents = read_torch_zip(part)
    return [tensor for root in contents.roots for tensor in root.tensors], contents.problems


def _constants(archive: Archive, model: str, texts: _Texts) -> dict[str, bool] | None:
    """The listed constants, and whether the record of each exists; None if the archive has no list of constants."""
    config = f"data/constants/{model}_constants_config.json"
    if config not in archive.records:
        return None
    entries = texts.parsed(config).get("config")
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise BrokenFile(f"record {config!r} lists no constants", "export the model again")
    return {key: f"data/constants/{entry.get('path_name')}" in archive.records for key, entry in entries.items()}


def _lacking(graph: dict[str, Any], weights: Set[str], constants: Mapping[str, bool] | None) -> Iterator[Problem]:
    """Problems for the weights and for the constants that the graph uses and the archive does not hold."""
    needed: dict[str, list[str]] = {"weight": [], "constant": []}
    try:
        for spec in graph["graph_module"]["signature"]["input_specs"]:
            for kind, name in _TAKEN.items():
                if kind in spec:
                    own = kind in ("parameter", "buffer") and spec[kind].get("persistent", True)
                    needed["weight" if own else "constant"].append(spec[kind][name])
    except (KeyError, TypeError, AttributeError):
        return
    needed["weight"] = [key for key in needed["weight"] if key not in weights]
    used = needed["constant"] if constants is not None else []
    has_record = constants or {}
    needed["constant"] = [key for key in dict.fromkeys((*used, *has_record)) if not has_record.get(key)]
    for what, keys in needed.items():
        if keys:
            more = f" and {len(keys) - 1:,} more" if len(keys) > 1 else ""
            problem = f"{what} {keys[0]!r}{more}, which the graph takes, is not in the file"
            yield Problem(problem, "download or copy it again")


def _tensor(archive: Archive, key: str, entry: Any, byteorder: str) -> Tensor:
    """One weight: `{"path_name", "use_pickle", "tensor_meta": {"dtype", "sizes", "strides", "storage_offset"}}`."""
    try:
        meta = entry["tensor_meta"]
        dtype = _SCALAR_TYPES[meta["dtype"]]
        shape, stride = (tuple(_size(size) for size in meta[field]) for field in ("sizes", "strides"))
        offset = _size(meta["storage_offset"])
        if len(shape) != len(stride):
            raise ValueError
        layout = PICKLED if entry.get("use_pickle") else "strided"
        name = f"data/weights/{entry['path_name']}"
        record = archive.records.get(name)
        reach = int((offset + 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))) * ITEMSIZE[dtype])
        nbytes = record.size if record is not None else max(reach, 0)
        device = str(meta.get("device", {}).get("type"))
        trainable = meta.get("requires_grad")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BrokenFile(f"tensor {key!r}: its description is malformed", "export the model again") from None
    if device == "meta" and not (record is not None and record.size):
        # Such a model has no numbers; torch.export writes one empty record for all of its weights.
        return Tensor(key, dtype, shape, stride, 0, None, "meta", trainable, device)
    storage = archive.storage(name, nbytes, byteorder)
    return Tensor(key, dtype, shape, stride, offset, storage, layout, trainable, device)


def _size(value: Any) -> int:
    number = value["as_int"] if isinstance(value, dict) else value
    if type(number) is not int or not 0 <= number < 2**63:
        raise ValueError
    return number
