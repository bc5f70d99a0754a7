"""An opened checkpoint: one root's tensors under clean names, what is tied, and the numbers on demand."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from convinspect.dtypes import NUMBERS
from convinspect.errors import BrokenFile, ConvInspectError, NoSuchTensor, NotThere
from convinspect.formats import read_contents
from convinspect.formats.files import check_unchanged
from convinspect.formats.roots import main_root, root_at
from convinspect.keys.wrappers import clean_name, clean_names, is_path
from convinspect.records import Container, Contents, Module, Root, Tensor, bytes_of
from convinspect.remote.addresses import path_of
from convinspect.text import closest, plural

if TYPE_CHECKING:
    import numpy as np

    from convinspect.keys.others import Other


FEW_OF_A_TIE = 4
"""How many names of a tie tell what lies in a storage: thousands may, and each would be looked at for each."""

_BUFFERS = (
    "running_mean", "running_var", "num_batches_tracked", "_mask", "weight_u", ".0._u", ".0._v",
    # What Paddle and Keras call their statistics.
    "._mean", "._variance", "moving_mean", "moving_variance",
)  # fmt: skip


class Totals(NamedTuple):
    """Sums over tensors, each distinct run of bytes counted once.

    Attributes:
        numel: Elements.
        nbytes: Bytes of these elements.
        storage_nbytes: Bytes of the storages that they are views of.
    """

    numel: int
    nbytes: int
    storage_nbytes: int


class Sharing(NamedTuple):
    """Which tensors share bytes, by their names; those that share none have no entry.

    Attributes:
        ties: Names of all tensors that are the same bytes, in stored order; one and the same tuple for each of them.
        storages: Names of the tensors that lie in one storage, in stored order, of each tie the first few; one and the
            same tuple for each of them.
        distinct: No two tensors name the same storage, so that there is neither.
    """

    ties: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    storages: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    distinct: bool = True


class Checkpoint(Mapping[str, Tensor]):
    """One root of a saved model: a read-only mapping of its tensors' names to their records.

    A lookup takes a name with or without wrappers' prefixes (`module.`, `_orig_mod.`); iteration gives each tensor
    once, by its clean name, in stored order. Numbers are read on demand, by `read`.

    As a context manager it gives itself and releases nothing: no file is held open between reads, and the checkpoint
    can be used after the `with` block as before.

    Attributes:
        path: What was opened.
        format: Name of the container, for people.
        container: What keeps the tensors.
        shards: Into how many files the checkpoint is split; 0 when it is not.
        root: The root in use.
        roots: All roots of the file.
        tensors: The root's tensors in stored order, by clean name.
        others: The root's keys whose values are no tensors, by clean name.
        modules: The root's modules by clean name, where the file describes them.
        prefixes: Wrappers' prefixes that the clean names leave out, each with the number of keys that have it.
        problems: Lines that say what is wrong with the file.
        notes: Lines that a user should know.
        unwritten: The one of them that says why all numbers may be missing; "" where nothing shows that.
        unloadable: The one of them that says why the format's own library does not load the file; "" where it does.
        metadata: The file's string metadata.
        layout: How another library than PyTorch laid out its weights, where the file itself says so.
        foreign: Names that the file's pickle mentions beyond torch's own.
        nbytes_on_disk: Size of the file or of all its shards.
        versions: The files that were read, as they were then.
        pickles: What was read of each file's pickle, where it was to be kept.
        folder: The folder that was opened, where one was: its other files belong to the weights; else None.
        known_parameters: Names of what are parameters, where a model was given that tells; else None.
        sharing: Which tensors share bytes.
    """

    def __init__(self, contents: Contents, root: str | None = None) -> None:
        self.path = contents.path
        self.format = contents.format
        self.container = contents.container
        self.shards = contents.shards
        self.roots = contents.roots
        if contents.problems and not any(one.tensors for one in contents.roots):
            raise BrokenFile(contents.problems[0])
        flat = contents.container is Container.DISTRIBUTED
        self.root: Root = (
            main_root(contents.roots, contents.foreign) if root is None else root_at(contents.roots, root, flat)
        )
        self.problems = contents.problems
        self.unwritten = contents.unwritten
        self.unloadable = contents.unloadable
        self.notes = (*contents.notes, *filter(None, (contents.unwritten, contents.unloadable)))
        self.metadata = contents.metadata
        self.layout = contents.layout
        self.foreign = contents.foreign
        self.nbytes_on_disk = contents.nbytes_on_disk
        self.versions = contents.versions
        self.pickles = contents.pickles
        self.folder = contents.folder
        self.known_parameters: frozenset[str] | None = None
        others = self.root.others
        keys = [tensor.key for tensor in self.root.tensors]
        keys += [other.key for other in others]
        names = _distinct(clean_names(keys))
        self.tensors: dict[str, Tensor] = dict(zip(names, self.root.tensors, strict=not others))
        self.others: dict[str, Other] = dict(zip(names[len(self.tensors) :], others, strict=True))
        self.modules: dict[str, Module] = {clean_name(name): module for name, module in self.root.modules.items()}
        self.prefixes = _prefixes(keys, names)
        self.sharing = _sharing(self.tensors)

    def __getitem__(self, name: str) -> Tensor:
        """The record of a tensor.

        Raises:
            NoSuchTensor: There is none of that name (a `KeyError` too).
        """
        return self.tensors[self._known(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.tensors or clean_name(name) in self.tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    # A checkpoint is a file, not its names: two that were opened apart are two, as before it was a mapping.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __repr__(self) -> str:
        root = f", root {self.root.path!r}" if self.root.path else ""
        return f"<Checkpoint {str(self.path)!r}: {self.format}, {plural(len(self.tensors), 'tensor')}{root}>"

    def _known(self, name: str) -> str:
        """The clean name of a tensor that is called by its clean name or as it is stored.

        Raises:
            NoSuchTensor: There is none.
        """
        if name in self.tensors:
            return name
        # A stored key that is no clean name becomes one where its wrappers' levels are left out.
        if isinstance(name, str) and clean_name(name) in self.tensors:
            return clean_name(name)
        raise NoSuchTensor(f"there is no tensor {name!r}", closest(str(name), list(self.tensors)), self.path)

    def described_by(self, modules: Mapping[str, Module], parameters: frozenset[str] | None) -> Checkpoint:
        """The same checkpoint, with what a model's code tells of it.

        Args:
            modules: The model's modules by clean name, in place of those that the file describes.
            parameters: Names of the tensors that are parameters; None where their names tell.
        """
        described = copy.copy(self)
        described.modules, described.known_parameters = dict(modules), parameters
        return described

    @property
    def holds_modules(self) -> bool:
        """Whether shapes stand in modules' attributes too (whole models, TorchScript, `.pt2`), so that a changed shape
        alone would contradict them.
        """
        return any(root.modules for root in self.roots) or self.container.holds_code

    def tie(self, name: str) -> tuple[str, ...]:
        """Names of all tensors that are the same bytes as tensor `name`, in stored order with its own; () where it is
        tied to none. All of a tie are given one and the same tuple.
        """
        return self.sharing.ties.get(name, ())

    def tied_to(self, name: str) -> tuple[str, ...]:
        """Names of the other tensors that are the same bytes as tensor `name`."""
        return tuple(other for other in self.tie(name) if other != name)

    def parameters(self) -> list[Tensor]:
        """What `model.parameters()` would give, as far as names and dtypes tell: each tie once, in stored order.

        Left out are what PyTorch registers as buffers (batch statistics, pruning masks, spectral norm's u and v),
        and integers other than quantized weights, such as position ids.
        """
        return self._once_each(filter(self.is_parameter, self.tensors))

    def is_parameter(self, name: str) -> bool:
        """Whether the tensor `name` counts as a parameter; nothing in an optimizer's state does."""
        if self.known_parameters is not None:
            return name in self.known_parameters
        if self.root.role == "optimizer" or name.endswith(_BUFFERS) or name.startswith("batch_stats."):
            return False
        if self.tensors[name].dtype not in NUMBERS and not name.endswith("weight"):
            return False
        # Weight norm's v is a parameter; spectral norm's, which stands beside a u, is not.
        return not (name.endswith("weight_v") and name.removesuffix("v") + "u" in self.tensors)

    def totals(self) -> Totals:
        """Sums over all of the root's tensors."""
        storages = [tensor.storage for tensor in self.tensors.values() if tensor.storage is not None]
        if not self.sharing.distinct:
            storages = list({(storage.file, storage.key): storage for storage in storages}.values())
        distinct = self._once_each(self.tensors)
        return Totals(
            sum(tensor.numel for tensor in distinct),
            sum(tensor.nbytes for tensor in distinct),
            sum(storage.nbytes for storage in storages),
        )

    def _once_each(self, names: Iterable[str]) -> list[Tensor]:
        """The tensors of these names, of a tie the first."""
        if self.sharing.distinct:
            return [self.tensors[name] for name in names]
        first: dict[int, Tensor] = {}
        for name in names:
            tensor = self.tensors[name]
            # All of a tie have one tuple of its names.
            first.setdefault(id(self.sharing.ties.get(name, tensor)), tensor)
        return list(first.values())

    def read(self, name: str) -> np.ndarray:
        """The numbers of tensor `name`, in its own shape and dtype.

        Raises:
            NoSuchTensor: There is none of that name (a `KeyError` too).
            ChangedMeanwhile: The file changed since it was opened.
            ConvInspectError: They are not in the file, or cannot be read.
        """
        from convinspect.arrays.read import read_tensor

        tensor = self[name]
        try:
            # In another version of the file its bytes may lie elsewhere.
            file = None if tensor.storage is None else tensor.storage.file
            check_unchanged({file: self.versions[file]} if file is not None and file in self.versions else {})
            return read_tensor(tensor)
        except ConvInspectError as error:
            raise error.at(self.path) from None


def open_checkpoint(path: str | Path, root: str | None = None) -> Checkpoint:
    """Open a saved model without running anything in it; only headers are read.

    Args:
        path: A file (`torch.save` of any age, TorchScript, `.pt2`, safetensors, shard index), a folder of shards, or
            an archive that holds one checkpoint; `ARCHIVE!MEMBER` names one of several.
        root: Which dictionary of tensors in it, as dotted keys; "." for all; by default the model's.

    Raises:
        ConvInspectError: It cannot be opened; the message says why and what to do.
    """
    return _opened(path_of(path), root, keep_pickles=False)


def open_for_change(path: str | Path, root: str | None = None) -> Checkpoint:
    """Open a saved model whose pickles are needed beyond its tensors, and are kept so that they are read once.

    Args:
        path: As for `open_checkpoint`.
        root: As for `open_checkpoint`.

    Raises:
        ConvInspectError: It cannot be opened.
    """
    return _opened(path_of(path), root, keep_pickles=True)


def _opened(path: Path, root: str | None, keep_pickles: bool) -> Checkpoint:
    contents = read_contents(path, keep_pickles)
    try:
        return Checkpoint(contents, root)
    except ConvInspectError as error:
        raise error.at(path) from None


def open_whole(path: str | Path, root: str | None = None) -> Checkpoint:
    """Open a saved model of which nothing is missing.

    Args:
        path: As for `open_checkpoint`.
        root: As for `open_checkpoint`.

    Raises:
        BrokenFile: It is damaged.
        ConvInspectError: It cannot be opened.
    """
    return whole(open_checkpoint(path, root))


def open_alike(path: str | Path, root: str | None) -> Checkpoint:
    """Open another whole file, at the root of a first one; at its main root where it has none there, as a plain
    state_dict has.

    Raises:
        ConvInspectError: As for `open_whole`.
    """
    try:
        return open_whole(path, root)
    except NotThere:
        return open_whole(path)


def open_like(path: str | Path, root: str | None) -> Checkpoint:
    """As `open_alike`, of a file that need not be whole.

    Raises:
        ConvInspectError: It cannot be read.
    """
    try:
        return open_checkpoint(path, root)
    except NotThere:
        return open_checkpoint(path)


def whole(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, once it is seen to be whole.

    Raises:
        BrokenFile: It is damaged.
    """
    if checkpoint.problems:
        raise BrokenFile(checkpoint.problems[0], path=checkpoint.path)
    return checkpoint


def _distinct(names: list[str]) -> list[str]:
    """Each name that occurs again is numbered: keys `1` and `"1"` read the same, and no tensor may be lost."""
    if len(set(names)) == len(names):
        return names
    taken = set(names)
    seen: set[str] = set()
    distinct = []
    for name in names:
        number, new = 2, name
        while new in seen or (new != name and new in taken):
            number, new = number + 1, f"{name} ({number})"
        seen.add(new)
        distinct.append(new)
    return distinct


def _prefixes(keys: list[str], names: list[str]) -> dict[str, int]:
    """What cleaning took from the front of keys, with how many had it; wrappers in mid-name count by their own name."""
    prefixes: dict[str, int] = {}
    for key, name in zip(keys, names, strict=True):
        if key != name and not ("/" in key and is_path(key)):
            removed = key.removesuffix(name) if key.endswith(name) else "…_orig_mod."
            prefixes[removed] = prefixes.get(removed, 0) + 1
    return prefixes


def _sharing(tensors: Mapping[str, Tensor]) -> Sharing:
    keys = [tensor.storage.key for tensor in tensors.values() if tensor.storage is not None]
    if len(set(keys)) == len(keys):
        return Sharing()
    same: dict[tuple[object, ...], list[str]] = {}
    stored: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        where = bytes_of(tensor)
        if where is not None:
            tie = same.setdefault(where, [])
            tie.append(name)
            if len(tie) <= FEW_OF_A_TIE:
                stored.setdefault(where[:2], []).append(name)
    shared = {storage: tuple(names) for storage, names in stored.items() if len(names) > 1}
    return Sharing(
        {name: tie for tie in map(tuple, same.values()) if len(tie) > 1 for name in tie},
        {name: shared[where[:2]] for where, tie in same.items() if where[:2] in shared for name in tie},
        distinct=False,
    )
