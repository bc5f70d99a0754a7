"""The nouns of the program: plain, frozen data. No torch, no I/O, no formatting.

They are named tuples, since a listing makes hundreds of thousands of them: a frozen dataclass takes four times as long
to make and seven times as long to define. `record._replace(…)` gives a changed copy. Records of equal fields are equal,
so whoever means this very tensor asks for `id(tensor)`.

`None` in any field means "not recorded in the file", never a default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from convinspect.containers import Container as Container  # whoever has `Contents` asks it for these
from convinspect.doubts import Doubt as Doubt  # whoever has a `Layer` asks it for these
from convinspect.dtypes import contiguous as contiguous  # which goes with a `Tensor`'s shape
from convinspect.dtypes import nbytes_of, reach
from convinspect.text import one_line, quoted

if TYPE_CHECKING:
    from convinspect.formats.pickle.record import Pickle
    from convinspect.formats.torch.distributed_pieces import ChunkedTensor
    from convinspect.keys.others import Other
    from convinspect.layouts import Layout

Evidence = Literal["module", "shape", "ambiguous"]
"""Where a layer's kind comes from: its class is in the file, only one reading fits, or several fit."""

_NOTHING: Mapping[Any, Any] = MappingProxyType({})

MOST_TIES = 100
"""So many names of a layer's ties are kept: were n layers one tensor, all names would be n²."""


class Span(NamedTuple):
    """Bytes `start:end` of the pickle stream (offsets into the stream, not into the file)."""

    start: int
    end: int


class Storage(NamedTuple):
    """A run of bytes in a file that one or more tensors are views of.

    Attributes:
        file: The file that holds the bytes.
        key: The storage's name in that file; equal keys in one file are the same bytes.
        nbytes: Size that the file's header claims, in bytes.
        available: How many of these bytes the file really holds; less than `nbytes` when it was cut short.
        start: Offset in bytes from the start of `file` to the data, or to their zip header when `local_header` is set.
            None when the bytes are not in the file (shapes only).
        local_header: `start` points at a zip local header, not at the data.
        packed_nbytes: Size in the file of what is deflated, written as text or in `runs`, or None when it is stored as
            it is.
        crc: The zip member's CRC-32, or None where the container keeps none (0 means "not computed").
        byteorder: "little" or "big".
        pieces: Of a distributed checkpoint, in which chunks the numbers lie; `file` is then its `.metadata`, and
            positions are those in the whole tensor, row by row.
        skipped: Of a deflated zip member, how many of its unpacked bytes come before the data.
        encoding: Python's name of the codec where a pickle wrote each byte as a character of a text; else "".
        runs: Other storages of the file whose bytes, one after the other, are this one's, where they lie apart.
    """

    file: Path
    key: str
    nbytes: int
    available: int
    start: int | None
    local_header: bool = False
    packed_nbytes: int | None = None
    crc: int | None = None
    byteorder: str = "little"
    pieces: ChunkedTensor | None = None
    skipped: int = 0
    encoding: str = ""
    runs: tuple[Storage, ...] = ()


class Tensor(NamedTuple):
    """One tensor as the file describes it.

    Attributes:
        key: Its state_dict key below the root, prefixes included.
        dtype: PyTorch's name of the dtype, such as "float32".
        shape: As stored.
        stride: In elements, as stored.
        offset: First element's place in `storage`, in elements.
        storage: The bytes, or None when the file holds shapes only.
        layout: "strided", or what else PyTorch calls it ("sparse_coo", …); only strided ones can be read.
        requires_grad: As stored.
        device: The device tag as stored, such as "cuda:0".
        subclass: Name of the Tensor subclass that wraps it, when there is one.
        spans_at: Offset in the pickle stream from which `spans` count.
        spans: Where the pickle pushes the size tuple and the stride tuple: begin and end of each, in bytes. Tensors
            that are written alike share them, so that a listing keeps one number for each instead of four.
        parts: The tensors that a sparse one is made of (indices, values), that a subclass keeps (a DTensor's local
            part), or a quantized one's scales and zero points where these are tensors.
        quantizer: How a quantized one is to be read, as text: scheme, scale, zero point; torchao's settings, by line.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0
    storage: Storage | None = None
    layout: str = "strided"
    requires_grad: bool | None = None
    device: str | None = None
    subclass: str | None = None
    spans_at: int = 0
    spans: tuple[int, int, int, int] | None = None
    parts: tuple[Tensor, ...] = ()
    quantizer: str = ""

    def __repr__(self) -> str:
        return f"Tensor({quoted(self.key)}, {one_line(self.dtype)}, {one_line(str(self.shape))})"

    @property
    def shape_span(self) -> Span | None:
        """Where the pickle pushes the size tuple."""
        return None if self.spans is None else Span(self.spans_at + self.spans[0], self.spans_at + self.spans[1])

    @property
    def stride_span(self) -> Span | None:
        """Where the pickle pushes the stride tuple."""
        return None if self.spans is None else Span(self.spans_at + self.spans[2], self.spans_at + self.spans[3])

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without what else the storage holds."""
        return nbytes_of(self.dtype, math.prod(self.shape))

    @property
    def whole(self) -> bool:
        """False when the file ends before this tensor's last element."""
        storage = self.storage
        return storage is None or reach(self.shape, self.stride, self.offset, self.dtype) <= storage.available


def bytes_of(tensor: Tensor) -> tuple[object, ...] | None:
    """What two tensors share when they are the same bytes; None for tensors without any."""
    storage = tensor.storage
    if storage is None or tensor.numel == 0:
        return None
    return (storage.file, storage.key, tensor.offset, tensor.numel, tensor.dtype)


class Moved(NamedTuple):
    """A new order of a tensor's numbers: row by row they are seen in the shape `seen`, whose axes are permuted.

    `order` is as `torch.Tensor.permute` takes it; the first axis stays. `by_strides`: where a format has strides, these
    alone say it, and no number moves."""

    seen: tuple[int, ...]
    order: tuple[int, ...]
    by_strides: bool = False


class Edit(NamedTuple):
    """A tensor that is to have another shape or name, with the same numbers.

    Attributes:
        tensor: As stored.
        shape: Its new shape.
        stride: Its new strides in elements, over the same storage; where a format keeps none, row-major.
        transposed: Rows and columns change places, so that a format without strides must move the numbers.
        key: Its new key; None when it keeps its own.
        moved: How its numbers change places, where they do otherwise than by `transposed`.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    transposed: bool = False
    key: str | None = None
    moved: Moved | None = None

    @property
    def moves_bytes(self) -> bool:
        """Whether its format has no way to say it but to move the numbers."""
        by_strides = self.tensor.spans is not None
        return self.transposed and not by_strides if self.moved is None else not (by_strides and self.moved.by_strides)


class Module(NamedTuple):
    """A module that the file itself describes (whole pickled model, TorchScript, `.pt2`).

    Attributes:
        name: Dotted path below the root; "" is the root module.
        class_name: Qualified name as the file gives it, such as "torch.nn.modules.conv.Conv1d".
        attributes: Its plain values: numbers, strings, booleans, None and tuples of these.
    """

    name: str
    class_name: str
    attributes: Mapping[str, Any] = _NOTHING

    @property
    def kind(self) -> str:
        """The class's own name."""
        return self.class_name.rpartition(".")[2]


class Root(NamedTuple):
    """A dictionary of tensors, or a module, somewhere in the file.

    Attributes:
        path: Where it lies, as dotted keys from the top; "" is the top itself.
        role: "model", "ema" or "optimizer".
        tensors: In stored order.
        modules: By name, when the file describes them.
        parameters: Of an optimizer, the parameters' ids, a tuple for each of its param_groups; None if unreadable.
        parameter_names: Of an optimizer that was made of `named_parameters()`, their names in that order; else None.
        others: Of a dictionary, its keys whose values are no tensors, in stored order.
        keyed_by: Of an optimizer whose state is keyed by parameters' names instead of numbers, these names; else None.
        group_keys: Of an optimizer, the keys of its param_groups.
        lost_state: Of an optimizer, its state is keyed by text ("0") where its parameters are numbers (0), so that
            `load_state_dict` finds none of it, raises nothing, and training starts with empty state.
    """

    path: str
    role: str
    tensors: tuple[Tensor, ...]
    modules: Mapping[str, Module] = _NOTHING
    parameters: tuple[tuple[int, ...], ...] | None = None
    parameter_names: tuple[str, ...] | None = None
    others: tuple[Other, ...] = ()
    keyed_by: tuple[str, ...] | None = None
    group_keys: frozenset[str] = frozenset()
    lost_state: bool = False


Version: TypeAlias = tuple[int, ...]
"""What of a file's status changes when it is written to or replaced."""


class Problem(str):
    """What is wrong with a file although it can be listed: a line, which users are shown, of two parts.

    Args:
        what: What is wrong.
        remedy: What to do about it; "" when the first part says it already.
    """

    what: str
    remedy: str

    def __new__(cls, what: str, remedy: str = "") -> Problem:
        line = super().__new__(cls, f"{what}; {remedy}" if remedy else what)
        line.what, line.remedy = what, remedy
        return line


class Contents(NamedTuple):
    """What one format reader found in a file or folder.

    Attributes:
        path: What was opened.
        container: Of the file, or of its shards.
        roots: In stored order.
        nbytes_on_disk: Size of the file, or of all shards together.
        problems: What is wrong with the file although it can be listed.
        notes: What a user should know, each one a whole line.
        metadata: The file's own string metadata, where the format has it (safetensors).
        foreign: Names (module.attribute) that the pickle mentions beyond those of a plain state_dict.
        versions: The files that were read, as they were then.
        shards: Into how many files the checkpoint is split; 0 when it is not.
        pickles: The object's pickle in each file that has one, where they are asked for: read once.
        layout: How another library than PyTorch laid out its weights, where the file itself says so.
        unwritten: Why all its numbers may be missing, as a line; "" where nothing shows that.
        unloadable: Why the format's own library does not load the file, as a line; "" where it does.
        folder: The folder that was opened, where one was, whose index or only file `path` may be; else None.
        within: What holds the file, where it lies in an archive, with its article: "a tar archive"; else "".
    """

    path: Path
    container: Container
    roots: tuple[Root, ...]
    nbytes_on_disk: int
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = _NOTHING
    foreign: tuple[str, ...] = ()
    versions: Mapping[Path, Version] = _NOTHING
    shards: int = 0
    pickles: Mapping[Path, Pickle] = _NOTHING
    layout: Layout | None = None
    unwritten: str = ""
    unloadable: str = ""
    folder: Path | None = None
    within: str = ""

    @property
    def format(self) -> str:
        """The container's name, the number of shards, and what it lies in, as users are shown them."""
        return self.container.label(self.shards, self.within)


class Layer(NamedTuple):
    """A module path and the tensors that belong to it.

    Attributes:
        name: Dotted path, without the checkpoint's prefix.
        kind: PyTorch's class name ("Conv1d", "Linear", "Embedding", …) or "Conv1D (transformers)".
        evidence: Where `kind` comes from.
        tensors: All of the layer's tensors, by the last part of their key, in stored order.
        weight: The tensor that carries the kernel's shape (`weight`, `weight_v`, `weight_orig`, …).
        bias: Its bias, or None when it has none.
        norm: "weight_norm", "spectral_norm", "pruned" or "parametrized" when several tensors give the kernel.
        pointwise: A convolution whose every kernel dimension is 1. False for Linear, which has none.
        in_width: in_channels or in_features; None when it depends on groups and these are not recorded.
        out_width: out_channels or out_features.
        kernel_size: One number per kernel dimension, () for Linear-like kinds.
        stride: As recorded, or None.
        padding: As recorded (numbers or "same"/"valid"), or None.
        dilation: As recorded, or None.
        groups: As recorded, or None.
        tied_to: Keys elsewhere that are the same bytes; of many the first `MOST_TIES`.
        tied_to_more: How many more there are.
        tags: Short words for a table: "grouped", "weight-norm", "tied", "assumed", ….
        notes: Whole sentences for people: the reasons behind tags and evidence, those of `doubts` among them.
        doubts: What it may be, or need, other than it seems.
        low_rank: One half of a low-rank pair (LoRA), by its name.
        layout: How the weight lies where that is not PyTorch's order of axes, and where it is known from.
        norm_dims: Dimensions along which spectral norm may be taken, the likeliest first; one where it is known.
        patch: A convolution, possibly transposed, whose stride is its kernel size, of more than one position, without
            padding, dilation and groups; by its name where the file does not record them.
    """

    name: str
    kind: str
    evidence: Evidence
    tensors: Mapping[str, Tensor]
    weight: Tensor
    bias: Tensor | None = None
    norm: str | None = None
    pointwise: bool = False
    in_width: int | None = None
    out_width: int | None = None
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] | None = None
    padding: tuple[int, ...] | str | None = None
    dilation: tuple[int, ...] | None = None
    groups: int | None = None
    tied_to: tuple[str, ...] = ()
    tied_to_more: int = 0
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    low_rank: bool = False
    layout: Layout | None = None
    norm_dims: tuple[int, ...] = ()
    patch: bool = False

    def __repr__(self) -> str:
        known = self.in_width is not None and self.out_width is not None
        sizes = f"{self.in_width}→{self.out_width}" if known else str(self.weight.shape)
        parts = [one_line(f"{self.kind} {sizes}")]
        if self.pointwise:
            parts.append("pointwise")
        elif self.kernel_size:
            parts.append(f"{'patch' if self.patch else 'kernel'} {one_line('×'.join(map(str, self.kernel_size)))}")
        return f"<Layer {quoted(self.name)}: {', '.join(parts)}, evidence {self.evidence}>"

    @property
    def numel(self) -> int:
        """Elements in all of the layer's tensors."""
        return sum([tensor.numel for tensor in self.tensors.values()])

    @property
    def nbytes(self) -> int:
        """Bytes of all of the layer's tensors."""
        return sum([tensor.nbytes for tensor in self.tensors.values()])
