"""`convinspect convert`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convinspect.cli.completion import complete_layers
from convinspect.cli.options import FormatOption, RootOption, WidthOption, naming
from convinspect.cli.output import Sink, reading_progress
from convinspect.converting.checks import (
    check_anew,
    check_model,
    check_optimizer,
    check_source,
    check_wish,
    nothing_converted,
    target_of,
)
from convinspect.errors import CannotConvert
from convinspect.render.cells import safe
from convinspect.render.format import Format

if TYPE_CHECKING:
    from convinspect.checkpoint import Checkpoint
    from convinspect.converting.plan import Plan
    from convinspect.converting.rename import Renaming
    from convinspect.converting.training_state import Followers
    from convinspect.records import Layer
    from convinspect.report.convert import Done


class Target(str, Enum):
    """Kinds that layers can become."""

    linear = "linear"
    conv1d = "conv1d"
    conv2d = "conv2d"
    conv3d = "conv3d"


class Groups(str, Enum):
    """What becomes of grouped convolutions."""

    expand = "expand"


class Origin(str, Enum):
    """Kinds that layers can be taken from."""

    linear = "linear"
    conv1d = "conv1d"
    conv2d = "conv2d"
    conv3d = "conv3d"
    transformers = "transformers"
    any = "any"


def convert(
    path: Annotated[Path, typer.Argument(metavar="SOURCE", readable=False, help="The checkpoint to convert.")],
    to: Annotated[Target | None, typer.Option("--to", help="What the layers become.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="TARGET", help="The new file; its suffix says the format.")
    ] = None,
    origin: Annotated[
        list[Origin] | None,
        typer.Option("--from", help="Kinds to convert; by default Conv1d to Linear and Linear to convolutions."),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", "-l", metavar="GLOB", help="Only these layers.", autocompletion=complete_layers),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Not these layers.")] = None,
    like: Annotated[
        Path | None,
        typer.Option("--like", metavar="OTHER", help="Give each tensor the shape that it has in this checkpoint."),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            "--rename", metavar="OLD=NEW", help="Other names, of tensors or modules; what * stands for is carried over."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would be done, write nothing.")] = False,
    groups: Annotated[
        Groups | None,
        typer.Option("--groups", help="Write grouped convolutions as Linear over all channels, mostly zeros."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="PACKAGE.MODULE:CLASS", help="Your model's code, to learn stride, padding, groups."
        ),
    ] = None,
    state_dict: Annotated[
        bool, typer.Option("--state-dict", help="Write the plain state_dict of a whole model, TorchScript or .pt2.")
    ] = False,
    fuse: Annotated[
        bool, typer.Option("--fuse", help="Write weight-normed, spectral-normed and pruned layers as plain weights.")
    ] = False,
    keep_optimizer: Annotated[
        bool, typer.Option("--keep-optimizer", help="Leave optimizer state as it is; it will not fit the new shapes.")
    ] = False,
    drop_optimizer: Annotated[
        bool, typer.Option("--drop-optimizer", help="Leave optimizer state out, so that a resumed run starts it anew.")
    ] = False,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the source, in one step at the end.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite TARGET when it exists.")] = False,
    root: RootOption = None,
    fmt: FormatOption = Format.table,
    width: WidthOption = None,
) -> None:
    """Turn kernel-size-1 convolutions into Linear, or back, inside a checkpoint.

    Only shapes change: the header is written anew and everything else is copied as it is, so that every number, name,
    tie and foreign object stays, and there and back gives the same bytes. Optimizer state and EMA copies follow their
    weights. PyTorch is needed only to write another format, a whole model's state_dict, or fused weights.

    [bold]Examples[/bold]

      convinspect convert model.pt -o linear.pt --to linear

      convinspect convert model.pt --to linear --dry-run

      convinspect convert model.safetensors -o conv.safetensors --to conv2d --layer '*attn*'

      convinspect convert gpt2.pt -o linear.pt --to linear --from transformers

      convinspect convert old.pt -o new.pt --like model_that_wants_it.pt

      convinspect convert model.pt -o new.pt --rename 'encoder.*=enc.*' --rename 'module.*=*'

      convinspect convert whole_model.pt -o weights.safetensors --state-dict --to linear
    """
    from convinspect.checkpoint import open_checkpoint
    from convinspect.converting.plan import chosen_layers
    from convinspect.converting.rename import renaming
    from convinspect.converting.training_state import followers, own_copies
    from convinspect.kinds import TARGETS
    from convinspect.layers.find import can_fuse, find_layers
    from convinspect.layers.select import exactly_named
    from convinspect.report.convert import Done, plan_payload, plan_table
    from convinspect.writing.left_behind import first_few, losses, old_names, unfused
    from convinspect.writing.same_format import check_target, wants_other_format, writer_of

    target = target_of(path, output, in_place, dry_run)
    if target is not None:
        check_target(path, target, in_place, force)
    checkpoint = open_checkpoint(path, root)
    other_format = output is not None and wants_other_format(checkpoint, output)
    anew = state_dict or fuse or groups is not None or other_format
    with naming(path):
        check_wish(to, like, anew or bool(rename) or drop_optimizer, groups is not None)
        check_optimizer(checkpoint, keep_optimizer, drop_optimizer)
        if anew:
            check_anew(checkpoint, keep_optimizer, drop_optimizer or state_dict, fuse or groups is not None)
        check_source(checkpoint, anew)
        if model is not None:
            from convinspect.modules.user_code import described

            checkpoint.modules, checkpoint.known_parameters = described(model)
            check_model(checkpoint, model)
        layers = find_layers(checkpoint)
        globs = (tuple(layer or ()), tuple(exclude or ()))
        renamed = renaming(checkpoint, rename or [])
        apart: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        prefixes: list[str] = []
        if like is None:
            planned = _planned(layers, to, origin or [], globs, groups is not None)
        else:
            other, names = open_checkpoint(like), renamed.names(checkpoint)
            planned, apart = _plan_like(layers, names, other, origin or [], globs)
            prefixes = _prefixes_apart(names, renamed, other, like.name)
        following = (
            own_copies(checkpoint, planned)
            if anew
            else followers(checkpoint, planned, keep_optimizer or drop_optimizer)
        )
        chosen = chosen_layers(layers, *globs)
        fused = [one for one in layers if fuse and one.name in chosen and can_fuse(one)]
        worth_writing = state_dict or other_format or drop_optimizer or fused or renamed.edits or planned.conversions
        asked = chosen if (layer or like) and not worth_writing else frozenset()
        fruitless = planned.refused_of(asked)
        if fruitless and target is not None:
            raise nothing_converted(fruitless)
        writer = writer_of(output) if anew and output is not None else "torch"
        lost = losses(checkpoint, writer, renamed.edits) if anew else []
        lost += prefixes
        kept = [] if anew or drop_optimizer else old_names(checkpoint, renamed.edits)
        if kept and not renamed.parameters:
            lost.append(f"the optimizer's param_names keep the old names: {first_few(kept)}")
        if fuse and (parts := unfused(checkpoint.root, fused)):
            lost.append(
                f"{first_few(parts)}: computed from several tensors, and left so; --fuse takes single weights alone"
            )
        if target is not None and anew:
            from convinspect.writing.state_dict import resave

            shapes = (*planned.edits, *following.copies)
            resave(checkpoint, shapes, planned.groups, fused, target, renamed.edits)
        elif target is not None:
            _write(checkpoint, planned, following, renamed, target, drop_optimizer)
    sink = Sink(fmt, width, None, "")
    there = 0 if to is None else sum(one.kind == TARGETS[to.value] for one in layers)
    done = Done(checkpoint, planned, following, renamed, tuple(fused), anew, drop_optimizer, apart, there)
    sink.show(
        plan_table(done, target.name if target is not None else None),
        plan_payload(done, str(target) if target is not None else None),
    )
    if fmt is Format.table:
        _advise(done, like if apart != ((), ()) or any(not one.done for one in planned.refusals) else None)
    for line in [*lost, *(_left(target) if target is not None else ())]:
        print(f"note: {safe(line)}", file=sys.stderr)
    if fruitless:
        print("warning: nothing can be converted, so nothing would be written", file=sys.stderr)
    elif layer:
        for one in planned.refused_of(exactly_named(layers, layer)):
            print(f"warning: layer {safe(one.name or '(root)')} stays as it is: {safe(one.reason)}", file=sys.stderr)


def _left(target: Path) -> list[str]:
    from convinspect.writing.atomic import left_behind

    return [
        f"{path} is of another run, which is under way or was killed; if none is under way, remove it"
        for path in left_behind(target)
    ]


def _planned(
    layers: Sequence[Layer],
    to: Target | None,
    origin: list[Origin],
    globs: tuple[tuple[str, ...], tuple[str, ...]],
    expand: bool,
) -> Plan:
    from convinspect.converting.plan import Plan, Request, plan
    from convinspect.kinds import TARGETS

    if to is None:
        return Plan()
    if expand and not any(one.groups is not None for one in layers):
        raise CannotConvert("its groups are not recorded in the file", "give the model's code with --model")
    return plan(layers, Request(TARGETS[to.value], _kinds(origin, to), *globs, expand))


def _advise(done: Done, like: Path | None) -> None:
    from convinspect.report.code_changes import advice_lines, called

    for line in advice_lines(done.plan, done.names):
        print(safe(line))
    if done.fused:
        names = ", ".join(called(layer, done.names).name or "(root)" for layer in done.fused)
        print(f"\nPlain weights now: {safe(names)}; drop the wrapper in the model's code.")
    if like is not None:
        print(f"\nThe result and {safe(like.name)} still differ as said above, so it will still not load there.")


def _plan_like(
    layers: Sequence[Layer],
    names: dict[str, str],
    other: Checkpoint,
    origin: list[Origin],
    globs: tuple[tuple[str, ...], tuple[str, ...]],
) -> tuple[Plan, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Shapes wanted by another checkpoint's main root, and the names that only this or only that one has."""
    from convinspect.converting.like import plan_like
    from convinspect.converting.plan import chosen_layers
    from convinspect.layers.find import find_layers

    chosen = chosen_layers(layers, *globs)
    if origin:
        kinds = _kinds(origin, None)
        chosen = frozenset(one.name for one in layers if one.name in chosen and one.kind in kinds)
    here = dict.fromkeys(names.values())
    apart = (
        tuple(name for name in here if name not in other.tensors),
        tuple(name for name in other.tensors if name not in here),
    )
    return plan_like(layers, names, other.tensors, find_layers(other), chosen), apart


def _prefixes_apart(names: dict[str, str], renamed: Renaming, other: Checkpoint, called: str) -> list[str]:
    """A line where wrappers' prefixes differ, which alone makes strict loading fail; shapes are paired without them."""
    new = {edit.tensor.key: edit.key or "" for edit in renamed.edits}
    there = {name: tensor.key for name, tensor in other.tensors.items()}
    for key, name in names.items():
        here = new.get(key, key)
        if there.get(name, here) != here:
            return [f"{here} is {there[name]} in {called}; `convinspect diff` gives the --rename for it"]
    return []


def _kinds(origin: list[Origin], to: Target | None) -> tuple[str, ...]:
    """Kinds named by `--from`; `any` is all but the wanted one."""
    from convinspect.kinds import CONVOLUTIONS, TARGETS, TRANSFORMERS_CONV1D

    kinds: list[str] = []
    for one in origin:
        if one is Origin.any:
            wanted = TARGETS[to.value] if to is not None else ""
            kinds += [kind for kind in ("Linear", *CONVOLUTIONS, TRANSFORMERS_CONV1D) if kind != wanted]
        else:
            kinds.append(TRANSFORMERS_CONV1D if one is Origin.transformers else TARGETS[one.value])
    return tuple(dict.fromkeys(kinds))


def _write(
    checkpoint: Checkpoint, planned: Plan, following: Followers, renamed: Renaming, target: Path, drop: bool
) -> None:
    from convinspect.converting.rename import together
    from convinspect.writing.same_format import save_edits

    shapes = (*planned.edits, *following.copies, *following.optimizer)
    edits = together(shapes, (*renamed.edits, *renamed.copies))
    with reading_progress(checkpoint.nbytes_on_disk, "writing") as advance:
        save_edits(checkpoint, edits, target, advance, drop, renamed.parameters)
    sys.stdout.flush()
