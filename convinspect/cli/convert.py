"""`convinspect convert`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convinspect.cli.complaints import say
from convinspect.cli.options import (
    FormatOption,
    LayerOption,
    ModelOption,
    RootOption,
    WidthOption,
    path_argument,
)
from convinspect.cli.output import Sink, reading_progress, wrote
from convinspect.cli.sharing import sharing_ranks
from convinspect.errors import naming
from convinspect.render.cells import safe
from convinspect.render.format import Format

if TYPE_CHECKING:
    from convinspect.converting.options import Options


class Target(str, Enum):
    """Kinds that layers can become."""

    linear = "linear"
    conv1d = "conv1d"
    conv2d = "conv2d"
    conv3d = "conv3d"
    convtranspose1d = "convtranspose1d"
    convtranspose2d = "convtranspose2d"
    convtranspose3d = "convtranspose3d"


class Groups(str, Enum):
    """How to convert grouped convolutions."""

    expand = "expand"


class PatchOrder(str, Enum):
    """In which order a flattened patch has its numbers."""

    chw = "chw"
    hwc = "hwc"


class Origin(str, Enum):
    """Kinds that layers can be taken from."""

    linear = "linear"
    conv1d = "conv1d"
    conv2d = "conv2d"
    conv3d = "conv3d"
    convtranspose1d = "convtranspose1d"
    convtranspose2d = "convtranspose2d"
    convtranspose3d = "convtranspose3d"
    transformers = "transformers"
    any = "any"


_SHAPES = "Names and shapes"
_PATCHES = "Convolutions over patches"
_WRITTEN = "Other contents"
_OPTIMIZER = "Optimizer state"
_IN_PLACE = "In place"
"""Headings in `--help`; what is under none is used most."""

Source = Annotated[Path, path_argument("SOURCE", "The checkpoint to convert.")]
To = Annotated[Target | None, typer.Option("--to", metavar="KIND", help="What the layers become.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write to this file, whose suffix says the format, or to this new folder.",
    ),
]
From = Annotated[
    list[Origin] | None,
    typer.Option(
        "--from", metavar="KIND", help="Kinds to convert; by default Conv1d to Linear and Linear to convolutions."
    ),
]
Exclude = Annotated[list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Not these layers.")]
Like = Annotated[
    Path | None,
    typer.Option(
        "--like",
        metavar="OTHER",
        help="Give each tensor the shape that it has in this checkpoint.",
        rich_help_panel=_SHAPES,
    ),
]
TurnSquare = Annotated[
    bool,
    typer.Option(
        "--turn-square",
        help="With --like: where other matrices are stored transposed, turn the square ones too.",
        rich_help_panel=_SHAPES,
    ),
]
Patches = Annotated[
    bool,
    typer.Option(
        "--patches",
        help="Convolutions that cut patches (stride = kernel size), not those of kernel size 1; with --to linear.",
        rich_help_panel=_PATCHES,
    ),
]
Patch = Annotated[
    str | None,
    typer.Option(
        "--patch",
        metavar="16x16",
        help="Kernel size of the convolution over patches, which a Linear over patches becomes.",
        rich_help_panel=_PATCHES,
    ),
]
InChannels = Annotated[
    int | None,
    typer.Option(
        "--in-channels",
        min=1,
        metavar="N",
        help="Input channels of the convolution over patches; with --patch: refuse others.",
        rich_help_panel=_PATCHES,
    ),
]
PatchOrderOption = Annotated[
    PatchOrder | None,
    typer.Option(
        "--patch-order",
        help="With --patches, --patch or --like: how patches are flattened. hwc, channels last, moves the numbers.",
        rich_help_panel=_PATCHES,
    ),
]
Rename = Annotated[
    list[str] | None,
    typer.Option(
        "--rename",
        metavar="OLD=NEW",
        help="Other names, of tensors or modules; what * stands for is carried over.",
        rich_help_panel=_SHAPES,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would be done, write nothing.")]
GroupsOption = Annotated[
    Groups | None,
    typer.Option(
        "--groups",
        help="Write grouped convolutions as Linear over all channels, mostly zeros.",
        rich_help_panel=_WRITTEN,
    ),
]
StateDict = Annotated[
    bool,
    typer.Option(
        "--state-dict",
        help="Write the plain state_dict of a whole model, TorchScript or .pt2.",
        rich_help_panel=_WRITTEN,
    ),
]
Fuse = Annotated[
    bool,
    typer.Option(
        "--fuse",
        help="Write weight-normed, spectral-normed and pruned layers as plain weights.",
        rich_help_panel=_WRITTEN,
    ),
]
KeepOptimizer = Annotated[
    bool,
    typer.Option(
        "--keep-optimizer",
        help="Leave optimizer state unchanged; it will not fit the new shapes.",
        rich_help_panel=_OPTIMIZER,
    ),
]
DropOptimizer = Annotated[
    bool,
    typer.Option(
        "--drop-optimizer",
        help="Leave optimizer state out, so that a resumed run starts with empty state.",
        rich_help_panel=_OPTIMIZER,
    ),
]
InPlace = Annotated[
    bool,
    typer.Option(
        "--in-place",
        help="Change the source itself: its header alone where it can be, else by a copy.",
        rich_help_panel=_IN_PLACE,
    ),
]
Copy = Annotated[
    bool,
    typer.Option(
        "--copy",
        help="With --in-place: write a whole new file, which replaces the source at the end.",
        rich_help_panel=_IN_PLACE,
    ),
]
Everything = Annotated[
    bool, typer.Option("--all", "-a", help="List everything: every layer, also where many are left for one reason.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite FILE when it exists; a folder only if nothing in it is lost.")
]


def convert(
    path: Source,
    to: To = None,
    output: Output = None,
    origin: From = None,
    layer: LayerOption = None,
    exclude: Exclude = None,
    like: Like = None,
    rename: Rename = None,
    dry_run: DryRun = False,
    groups: GroupsOption = None,
    model: ModelOption = None,
    state_dict: StateDict = False,
    fuse: Fuse = False,
    keep_optimizer: KeepOptimizer = False,
    drop_optimizer: DropOptimizer = False,
    in_place: InPlace = False,
    force: Force = False,
    root: RootOption = None,
    turn_square: TurnSquare = False,
    patches: Patches = False,
    patch: Patch = None,
    in_channels: InChannels = None,
    patch_order: PatchOrderOption = None,
    copy: Copy = False,
    everything: Everything = False,
    fmt: FormatOption = Format.table,
    width: WidthOption = None,
) -> None:
    """Turn kernel-size-1 convolutions into Linear, or back, inside a checkpoint.

    Only shapes change: the header is written again and everything else is copied unchanged, so that every number, name,
    tie and foreign object stays, and converting back gives the same bytes (where it cannot, a note says so). Optimizer
    state and EMA copies follow their weights. A folder in gives a folder out, with the optimizer and all other files
    beside the weights. PyTorch is needed only to write another format, a whole model's state_dict, or fused weights.

    With --in-place a file of any size is changed in a moment: its bytes stay where they are, and the header is written
    over. What it replaces is kept in a journal beside the file meanwhile; after a crash, recover restores it.

    Under torchrun (torchrun --nproc-per-node 8 -m convinspect convert …) the ranks share the files of a folder.

    With --patches the convolutions are converted that cut patches (stride = kernel size), as vision models' patch
    embeddings do, to Linear over the flattened patches: those known to do so or named so, others named with --layer.
    --patch is the way back. Patches are taken as flattened channel by channel, as PyTorch's unfold does; with
    --patch-order hwc position by position, as Siglip2 does: then the numbers of each kernel move.

    [bold]Examples[/bold]

      convinspect convert model.pt -o linear.pt --to linear

      convinspect convert model.pt --to linear --dry-run

      convinspect convert model.safetensors -o conv.safetensors --to conv2d --layer '*attn*'

      convinspect convert run/checkpoint-500 -o linear --to linear

      convinspect convert gpt2.pt -o linear.pt --to linear --from transformers

      convinspect convert vit.safetensors -o linear.safetensors --to linear --patches

      convinspect convert linear.safetensors -o vit.safetensors --to conv2d --patch 16x16

      convinspect convert old.pt -o new.pt --like model_that_wants_it.pt

      convinspect convert model.pt -o new.pt --rename 'encoder.*=enc.*' --rename 'module.*=*'

      convinspect convert whole_model.pt -o weights.safetensors --state-dict --to linear
    """
    from convinspect.converting.options import Options

    options = Options(
        None if to is None else to.value, tuple(kind.value for kind in origin or ()), tuple(layer or ()),
        tuple(exclude or ()), like, tuple(rename or ()), None if groups is None else groups.value, model,
        state_dict, fuse, keep_optimizer, drop_optimizer, in_place, force, dry_run, root, turn_square,
        patches, patch, in_channels, None if patch_order is None else patch_order.value,
        copy,
    )  # fmt: skip
    _run(path, output, options, Sink(fmt, width, None, ""), everything)


def _run(path: Path, output: Path | None, options: Options, sink: Sink, everything: bool) -> None:
    """Run the conversion, and show what was done, or what a real run would do."""
    from convinspect.converting.job import open_source, prepare
    from convinspect.showing.convert import code_lines, note_lines, plan_payload, plan_table, warning_lines

    with sharing_ranks() as group:
        checkpoint = open_source(path, output, options, alone=group is None)
        with naming(path):
            job = prepare(checkpoint, options, output)
            # The bar of rank 0 shows its own share.
            nbytes = job.nbytes_to_copy // (1 if group is None else group.size)
            with reading_progress(nbytes, "writing") as advance:
                job = job.write(advance, group)
    sink.show(plan_table(job, everything or sink.for_machines), plan_payload(job))
    for line in code_lines(job, sink.space.width) if sink.fmt is Format.table else ():
        print(safe(line))
    for line in note_lines(job):
        say("note", line)
    for line in warning_lines(job):
        say("warning", line)
    if job.target is not None:
        wrote(job.target)
