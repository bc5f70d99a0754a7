"""A whole conversion: from a checkpoint and options to a job that can be shown, applied in memory, and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from convinspect.checkpoint import Checkpoint, open_checkpoint, open_for_change
from convinspect.converting.afterwards import Afterwards, afterwards
from convinspect.converting.checks import (
    asks_for_nothing,
    check_archive,
    check_format,
    check_layout,
    check_optimizer,
    check_options,
    check_source,
    described_by_code,
    saved_as_arrays,
    target_of,
)
from convinspect.converting.eligibility import Writing
from convinspect.converting.folder import check_stuck, company_of, left_behind, notes_on
from convinspect.converting.fusing import Fusing, fusing, left_unfused
from convinspect.converting.in_memory import applied
from convinspect.converting.moving import check_apart
from convinspect.converting.nothing import (
    Fruitless,
    OtherKind,
    check_named,
    left_of_other_kinds,
    notes_beside_patches,
    notes_on_other_kinds,
    why_nothing,
)
from convinspect.converting.options import Options
from convinspect.converting.patches import notes_on_order
from convinspect.converting.plan import Plan, chosen_layers
from convinspect.converting.rename import Renaming, renaming, together
from convinspect.converting.selection import Selection, select_layers
from convinspect.converting.strides import not_given_back
from convinspect.converting.training_state import Followers, followers, own_copies
from convinspect.errors import CannotConvert, Option, Wording, naming
from convinspect.formats.journal import is_interrupted
from convinspect.formats.sources import is_plain
from convinspect.layers.numberless import lines_on_numbers
from convinspect.layers.select import exactly_named
from convinspect.records import Container, Edit, Layer, Root
from convinspect.remote.addresses import path_of
from convinspect.text import first_few, plural, quoted
from convinspect.writing.archived import wraps
from convinspect.writing.carried import folder_of
from convinspect.writing.left_behind import losses, old_names, unfused
from convinspect.writing.same_format import save_edits
from convinspect.writing.shards import Beside
from convinspect.writing.target import check_target, named_alike, wants_other_format, writer_of

if TYPE_CHECKING:
    from convinspect.ranks.group import Group

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """A planned conversion, ready to be written.

    Attributes:
        checkpoint: The source.
        options: The options of `convert`.
        target: Where it is written; None for a dry run.
        selection: Which layers change.
        followers: What changes with them: copies and optimizer state.
        renaming: Tensors that get another name.
        fused: Layers that get their plain effective weight.
        resaved: The root is saved as a plain state_dict, instead of the file with another header.
        fruitless: Why nothing that was asked for changes; None if something does, or if no layers were asked for.
        idle: Nothing would be done at all.
        notes: What is left behind, and what else a user should know; one line each.
        beside: What a new folder holds besides the checkpoint's own files; None where none is written.
        warnings: What a user must do, or take care of; one line each.
        other_kinds: What could be as asked too, and is of kinds that were not named.
    """

    checkpoint: Checkpoint
    options: Options
    target: Path | None
    selection: Selection
    followers: Followers
    renaming: Renaming
    fused: tuple[Layer, ...]
    resaved: bool
    fruitless: Fruitless | None
    idle: bool
    notes: tuple[str, ...]
    beside: Beside | None = None
    warnings: tuple[str, ...] = ()
    other_kinds: tuple[OtherKind, ...] = ()

    def __repr__(self) -> str:
        target = "dry run" if self.target is None else f"to {quoted(self.target.name)}"
        counts = [plural(len(self.plan.conversions), "layer")]
        counts += [f"{len(self.plan.refusals):,} refused"] if self.plan.refusals else []
        counts += [plural(len(self.renaming.edits), "new key")] if self.renaming.edits else []
        source = self.checkpoint.path
        return f"<conversion of {quoted(source.name or str(source))}, {target}: {', '.join(counts)}>"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers of the source."""
        return self.selection.layers

    @property
    def plan(self) -> Plan:
        """Conversions and refusals of the layers."""
        return self.selection.plan

    @property
    def names(self) -> dict[str, str]:
        """Tensors' new names by stored key; {} where none is renamed."""
        return self.renaming.names(self.checkpoint) if self.renaming.edits else {}

    @property
    def already(self) -> int:
        """How many layers are of the wanted kind already."""
        return sum(layer.kind == self.options.kind for layer in self.layers)

    @property
    def afterwards(self) -> list[Afterwards]:
        """What treats the converted layers differently from now on, though their outputs are the same."""
        return afterwards(self.checkpoint, self.plan, self.followers.others, self.resaved)

    @property
    def edits(self) -> list[Edit]:
        """All changes of the source: one edit for each tensor."""
        shapes = (*self.plan.edits, *self.followers.copies, *self.followers.optimizer)
        return together(shapes, (*self.renaming.edits, *self.renaming.copies))

    @property
    def nbytes_to_copy(self) -> int:
        """Bytes for which `write` reports progress; 0 for a plain state_dict, since PyTorch reports none."""
        if self.target is None or self.resaved:
            return 0
        carried = None if self.beside is None else self.beside.carried
        return self.checkpoint.nbytes_on_disk + (0 if carried is None else carried.nbytes)

    def in_memory(self) -> Checkpoint:
        """The converted checkpoint, whose tensors read the source under other shapes and names.

        Raises:
            CannotConvert: Weights would get numbers that the source does not hold.
        """
        if self.fused or self.plan.groups:
            raise CannotConvert("weights get other numbers, which are only in a file that is written")
        return applied(self.checkpoint, self.edits, self.renaming.others)

    def _seen(self) -> list[object]:
        """What every rank must see alike: the files' sizes, and what becomes of which tensor."""
        carried = None if self.beside is None else self.beside.carried
        files = {**self.checkpoint.versions, **({} if carried is None else carried.versions)}
        sizes = sorted((path.name, version[2]) for path, version in files.items())
        return [sizes, [(edit.tensor.key, edit.shape, edit.key) for edit in self.edits]]

    def write(self, progress: Progress = lambda done: None, group: Group | None = None) -> Job:
        """Write the target, whole or not at all; nothing in a dry run.

        Args:
            progress: Called now and then with the number of bytes that were written since the last call.
            group: The ranks that do so together. They share the files of a folder; what else there is to write, rank 0
                writes alone.

        Returns:
            The job, with a note if the source was copied though it was to be edited in place.

        Raises:
            ConvInspectError: It cannot be read or written; the target is then unchanged.
        """
        if self.target is None:
            return self
        if group is not None:
            from convinspect.ranks.agreement import agree, checking

            agree(group, self._seen(), self.checkpoint.path)
            progress = checking(group, progress)
            if group.rank and (self.resaved or self.options.in_place):
                return self
        if not self.resaved:
            drop, renamed = self.options.drop_optimizer, self.renaming
            copied = save_edits(
                self.checkpoint, self.edits, self.target, progress, drop, renamed.parameters, renamed.others,
                self.beside, self.options.force or self.options.in_place,
                None if self.options.in_place else group, self.options.in_place and not self.options.copy,
            )  # fmt: skip
            note = f"written as a whole new copy, which replaced the old one: {copied}"
            return replace(self, notes=(*self.notes, note)) if copied else self
        from convinspect.writing.state_dict import resave

        shapes = (*self.plan.edits, *self.followers.copies)
        resave(self.checkpoint, shapes, self.plan.groups, self.fused, self.target, self.renaming.edits)
        return self


def convert(
    source: str | Path | Checkpoint, output: str | Path | None, options: Options, progress: Progress = lambda done: None
) -> Job:
    """Convert a checkpoint as `options` say, and return what was done.

    Args:
        source: A file, a folder of shards, or an open checkpoint.
        output: The new file or folder, whose suffix sets the format; None with `in_place` or `dry_run`.
        options: What to do.
        progress: Called now and then with the number of bytes that were written since the last call.

    Raises:
        ConvInspectError: It cannot be done; the target is then unchanged.
    """
    path = (source.folder or source.path) if isinstance(source, Checkpoint) else path_of(source)
    written = None if output is None else path_of(output)
    if isinstance(source, Checkpoint):
        check_paths(path, written, options)
    checkpoint = source if isinstance(source, Checkpoint) else open_source(path, written, options)
    # By the path that was given: of a folder, what was opened is its index.
    with naming(path):
        return prepare(checkpoint, options, written).write(progress)


def check_paths(source: Path, output: Path | None, options: Options) -> Path | None:
    """Where to write, after checking that it may be written; None for a dry run. Nothing is opened.

    Raises:
        CannotWrite: The options contradict each other, or the target may not be written.
    """
    target = target_of(source, output, options)
    if target is not None:
        check_target(source, target, options.in_place, options.force)
    return target


def open_source(path: Path, output: Path | None, options: Options, alone: bool = True) -> Checkpoint:
    """Open a checkpoint in order to convert it, after checking that the target may be written.

    An edit of it in place that was interrupted is undone first, if it is to be edited in place again, by a process that
    is `alone`.

    If the conversion needs more of a pickle than its tensors, the parsed pickle is kept, so that it is read once only;
    other conversions do not spend memory on it.

    Raises:
        CannotWrite: The options contradict each other, or the target may not be written.
        ConvInspectError: The source cannot be opened.
    """
    check_paths(path, output, options)
    if alone and options.in_place and not options.dry_run and is_interrupted(path):
        from convinspect.writing.in_place.recover import recover

        recover(path)
    resaved = options.state_dict or options.fuse or options.expand
    other_format = output is not None and not named_alike(path, output)
    needed = resaved or other_format or options.rename or options.drop_optimizer
    return (open_for_change if needed else open_checkpoint)(path, options.root)


_ARRAYS = (
    "its tensors are NumPy arrays, whose shapes cannot be edited in the file: they are saved as a plain state_dict"
)


def prepare(checkpoint: Checkpoint, options: Options, output: Path | None = None) -> Job:
    """Plan a conversion, and write nothing.

    Args:
        checkpoint: The source.
        options: What to do.
        output: The new file, also of a dry run, whose suffix sets the format; None to keep the source's format.

    Raises:
        ConvInspectError: It cannot be done.
    """
    distributed = checkpoint.container is Container.DISTRIBUTED
    source = folder_of(checkpoint.path) if distributed else checkpoint.folder or checkpoint.path
    target = None if options.dry_run else source if options.in_place else output
    # A dry run without a target is one of what can be written.
    other_format = (
        options.dry_run and not checkpoint.container.rewritten
        if output is None
        else wants_other_format(checkpoint, output)
    )
    anew = options.state_dict or options.fuse or options.expand or other_format
    as_arrays = not anew and saved_as_arrays(checkpoint, options)
    resaved = anew or as_arrays
    check_format(checkpoint, resaved)
    wrapped = output is not None and not resaved and wraps(checkpoint.path, output)
    taken_out = output is not None and not is_plain(checkpoint.path) and not wraps(checkpoint.path, output)
    check_options(options, resaved or taken_out)
    check_archive(checkpoint, options.in_place, wrapped)
    company = company_of(checkpoint, options, output, resaved)
    checkpoint = company.checkpoint
    check_optimizer(checkpoint, options, resaved, company.stuck)
    check_source(checkpoint, resaved, options.drop_optimizer, taken_out and asks_for_nothing(options))
    writer = writer_of(output) if resaved and output is not None else "torch"
    check_layout(checkpoint, resaved, writer, options.like is not None)
    if options.model is not None:
        checkpoint = described_by_code(checkpoint, options.model)
    renamed = renaming(checkpoint, options.rename)
    selection, following, writing = _selected(checkpoint, options, renamed, resaved)
    exact = exactly_named(selection.layers, options.layer)
    fused = fusing(selection.layers, selection.chosen, exact) if options.fuse else Fusing()
    found = selection.layers, selection.chosen, selection.plan
    fruitless = why_nothing(checkpoint, options, found, renamed.names(checkpoint), writing, fused.refused)
    does_more = options.state_dict or other_format or options.drop_optimizer or fused.layers or renamed
    if fruitless is not None and not does_more and target is not None:
        raise fruitless.error
    if target is not None:
        check_named(selection.plan, exact)
    check_stuck(company, options, bool(selection.plan.edits or renamed))
    behind = left_behind(company) if selection.plan.edits else None
    others = left_of_other_kinds(options, selection.layers, writing)
    notes = (
        *((_ARRAYS,) if as_arrays else ()),
        *lines_on_numbers(checkpoint, selection.layers),
        *(losses(checkpoint, writer, renamed.edits) if resaved else _not_given_back(selection, following)),
        *notes_on_order(selection.plan.conversions, resaved, options.patch_order is not None),
        *selection.notes,
        *notes_on_other_kinds(options, selection.plan, others),
        *notes_beside_patches(options, selection.layers, selection.plan, writing),
        *_names_left(checkpoint, options, renamed, resaved),
        *notes_on(company, options),
        *fused.notes,
        *left_unfused(fused.refused),
        *(_left_unfused(checkpoint.root, fused) if options.fuse else ()),
    )
    return Job(
        checkpoint, options, target, selection, following, renamed, fused.layers, resaved, fruitless,
        fruitless is not None and not does_more, notes, company.beside,
        () if behind is None else (behind,), others,
    )  # fmt: skip


def _not_given_back(selection: Selection, following: Followers) -> tuple[str, ...]:
    return not_given_back(selection.layers, selection.plan.edits, (*following.copies, *following.optimizer))


def _selected(
    checkpoint: Checkpoint, options: Options, renamed: Renaming, resaved: bool
) -> tuple[Selection, Followers, Writing]:
    """The layers that change, what changes with them, and what writing asks of layers: one that something cannot follow
    is refused.
    """
    keep = options.keep_optimizer or options.drop_optimizer
    writing = Writing(plain=resaved)
    while True:
        selection = select_layers(checkpoint, options, renamed, writing)
        planned = selection.plan
        staying = _staying(checkpoint, options, renamed, selection)
        if resaved:
            following = own_copies(checkpoint, planned, staying)
        else:
            following = followers(checkpoint, planned, keep, staying)
        held = {key: it for key, it in following.held.items() if not resaved or it.tensor.layout != "strided"}
        if not held:
            if not resaved:
                check_apart(checkpoint, (*planned.edits, *following.copies, *following.optimizer))
            return selection, following, writing
        writing = writing._replace(held={**writing.held, **held})


def _staying(checkpoint: Checkpoint, options: Options, renamed: Renaming, selection: Selection) -> set[str]:
    """Keys of tensors that follow no other: of excluded layers, and those whose shape another checkpoint tells."""
    if options.like is not None:
        names, unknown = renamed.names(checkpoint), set(selection.only_here)
        return {key for key, name in names.items() if name not in unknown}
    if not options.exclude:
        return set()
    kept = chosen_layers(selection.layers, (), options.exclude)
    return {one.key for layer in selection.layers if layer.name not in kept for one in layer.tensors.values()}


def _names_left(checkpoint: Checkpoint, options: Options, renamed: Renaming, resaved: bool) -> tuple[str, ...]:
    """A line if an optimizer keeps the old names of its parameters."""
    if resaved or options.drop_optimizer or renamed.parameters:
        return ()
    kept = old_names(checkpoint, renamed.edits)
    return (f"the optimizer keeps the old names: {first_few(kept)}",) if kept else ()


def _left_unfused(root: Root, fused: Fusing) -> tuple[str, ...]:
    """A line for weights that are computed from several tensors and cannot be fused."""
    parts = unfused(root, (*fused.layers, *fused.kept))
    if not parts:
        return ()
    what = f"{first_few(parts)}: computed from several tensors, and left so; "
    return (Wording(what, Option("fuse"), " takes single weights alone"),)
