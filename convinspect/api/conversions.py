"""`convert` and `verify`: a conversion, and the proof that it changed shapes and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from convinspect.api.calls import (
    Progress,
    Source,
    check_at_least,
    kernel_text,
    opened,
    opened_alike,
    root_was_chosen,
    saying_what_to_install,
    several,
    silent,
)
from convinspect.checkpoint import Checkpoint
from convinspect.errors import naming
from convinspect.remote.addresses import path_of
from convinspect.showing.notebook import show_in_notebooks

if TYPE_CHECKING:
    from convinspect.converting.job import Job
    from convinspect.verifying.findings import Report

Target: TypeAlias = Literal[
    "linear", "conv1d", "conv2d", "conv3d", "convtranspose1d", "convtranspose2d", "convtranspose3d"
]
"""What layers become."""

Origin: TypeAlias = Literal[
    "linear", "conv1d", "conv2d", "conv3d", "convtranspose1d", "convtranspose2d", "convtranspose3d", "transformers",
    "any",
]  # fmt: skip
"""What layers are taken from."""


# fmt: off
@saying_what_to_install
def convert(
    source: Source, target: str | Path | None = None, *,
    to: Target | None = None, from_: Origin | Iterable[Origin] = (),
    layer: str | Iterable[str] = (), exclude: str | Iterable[str] = (),
    like: Source | None = None, rename: str | Iterable[str] = (),
    groups: Literal["expand"] | None = None, model: str | None = None,
    state_dict: bool = False, fuse: bool = False, keep_optimizer: bool = False, drop_optimizer: bool = False,
    in_place: bool = False, force: bool = False, dry_run: bool = False,
    root: str | None = None, turn_square: bool = False,
    patches: bool = False, patch: str | Sequence[int] | None = None, in_channels: int | None = None,
    patch_order: Literal["chw", "hwc"] | None = None, copy: bool = False,
    progress: Progress | None = None,
) -> Job:
    # fmt: on
    """Turn kernel-size-1 convolutions into Linear, or back, inside a checkpoint; patch embeddings with `patches`. Every
    number stays unchanged.

    PyTorch is needed only to write another format, a whole model's state_dict, or fused weights.

    Args:
        source: The checkpoint to convert, a file or a folder.
        target: The new file, whose suffix says the format, or the new folder, which gets the other files of a folder
            too, its optimizer converted. None with `in_place` or `dry_run`.
        to: What the layers become: "linear", "conv1d", "conv2d", "conv3d", or a transposed convolution,
            "convtranspose1d" and so on, whose weight is stored as (in, out, 1, …).
        from_: Kinds to convert: as `to`, "transformers" or "any"; by default Conv1d to Linear and Linear to
            convolutions.
        layer: Names or globs of the layers to convert; all by default.
        exclude: Names or globs of layers to leave.
        like: Another checkpoint, whose shapes the tensors get.
        rename: Rules `OLD=NEW` for names of tensors or modules; what * stands for is carried over.
        groups: "expand" writes grouped convolutions as Linear over all channels, mostly zeros.
        model: The model's code, as "package.module:Class", which tells stride, padding and groups.
        state_dict: Write the plain state_dict of a whole model, TorchScript or .pt2.
        fuse: Write weight-normed, spectral-normed and pruned layers as plain weights.
        keep_optimizer: Leave optimizer state unchanged; it will not fit the new shapes.
        drop_optimizer: Leave optimizer state out, so that a resumed run starts with empty state.
        in_place: Change the source itself: its header alone where that can be done, else by a copy that replaces it.
        force: Overwrite a target that exists; a folder only if the new one has all of its files.
        dry_run: Decide everything, write nothing.
        root: Which dictionary of tensors in the file, as dotted keys; "." for all; by default the model's.
        turn_square: With `like`: where other matrices are stored transposed, turn the square ones too.
        patches: With `to="linear"`: take convolutions that cut patches (stride = kernel size), of all three kinds
            unless `from_` says which, and not those of kernel size 1.
        patch: With `to="conv2d"` and the like: the kernel that a Linear over flattened patches gets, as "16x16" or
            (16, 16); of layers that are named, or called a patch embedding.
        in_channels: With `patch`: refuse what gives other channels than these.
        patch_order: With `patches`, `patch` or `like`: how patches are flattened. "chw", PyTorch's order, by default;
            "hwc", channels last, moves the numbers of each kernel.
        copy: With `in_place`: write a whole new file, which replaces the source at the end.
        progress: Called with the number of bytes that were written; PyTorch, which writes other formats, tells nothing.

    Returns:
        What was done: `.plan.conversions`, `.plan.refusals` with their reasons, `.followers`, `.renaming`, `.notes` on
        what is left behind, `.warnings`, `.beside` for a folder's other files; `.in_memory()` gives the converted
        checkpoint without a file.

    Raises:
        ConvInspectError: It cannot be done; the target is then unchanged.
    """
    from convinspect.converting.job import Job
    from convinspect.converting.job import convert as carry_out
    from convinspect.converting.options import Options
    from convinspect.showing.convert import plan_table

    if in_channels is not None:
        check_at_least(1, in_channels=in_channels)
    if isinstance(source, Checkpoint) and root is not None:
        raise root_was_chosen(source)
    show_in_notebooks(Job, plan_table)
    options = Options(
        to, several(from_), several(layer), several(exclude), path_of(like) if isinstance(like, str) else like,
        several(rename), groups, model, state_dict, fuse, keep_optimizer, drop_optimizer, in_place, force, dry_run,
        root, turn_square, patches,
        kernel_text(patch), in_channels,
        patch_order, copy,
    )  # fmt: skip
    with naming(source.path if isinstance(source, Checkpoint) else path_of(source)):
        return carry_out(source, target, options, progress or silent)


# fmt: off
@saying_what_to_install
def verify(
    before: Source, after: Source | None = None, *,
    layer: str | Iterable[str] = (), rename: str | Iterable[str] = (),
    bits: bool = False, grad: bool = False,
    model: str | None = None, model_after: str | None = None, input: str | Path | Iterable[str | Path] = (),
    device: str = "cpu", dtype: str = "", seed: int = 0, batch: int | None = None, length: int | None = None,
    root: str | None = None, progress: Progress | None = None,
) -> Report:
    # fmt: on
    """Check that a conversion changed shapes and nothing else.

    Three strengths, and the report names the one it reached. bits: every number of every tensor is the same to the bit,
    every other tensor, key and object is unchanged. layer: each converted layer is run before and after on random
    inputs, in float64, within 2·γₙ(|x||W|ᵀ + |b|), the most that rounding can do there (Higham, "Accuracy and Stability
    of Numerical Algorithms", 2nd ed. 2002, section 3.1). model: the whole model is loaded strictly and run.

    PyTorch is needed unless `bits` is set.

    Args:
        before: The checkpoint before its conversion.
        after: The checkpoint after; without it `before` is converted in memory.
        layer: Names or globs of the layers to report on; by default all that were converted or differ.
        rename: Rules `OLD=NEW`, where the conversion changed names.
        bits: Compare the stored bits only.
        grad: Also compare the gradients of input, weight and bias.
        model: The model's code, as "package.module:Class", to run the whole model too.
        model_after: The code for `after`; by default layers of `model` are swapped.
        input: The model's inputs, each a shape such as "2x64x1024" or "2x16:int64:1000", or a file.
        device: Where to run, such as "cuda".
        dtype: In which dtype to measure rounding; the file's own by default.
        seed: Of the random inputs.
        batch: Batch size of a layer's input (N, C, L); two inputs, (1, C, 2) and (2, C, 1), by default.
        length: Length of a layer's input.
        root: Which dictionary of tensors in both files, as dotted keys; "." for all; by default the model's.
        progress: Called with the number of bytes that were compared.

    Returns:
        `.equal`, `.strength`, `.cause` (the first thing that is wrong, or None), `.layers`, `.changed`, `.missing`,
        `.unexpected`, `.notes`.

    Raises:
        ConvInspectError: A file is damaged, nothing can be compared, or the options contradict each other.
    """
    from convinspect.showing.verify import names_of, verdict_table
    from convinspect.verifying.findings import Report
    from convinspect.verifying.options import VerifyOptions
    from convinspect.verifying.told import COMPARING
    from convinspect.verifying.verify import verify_opened

    check_at_least(0, seed=seed)
    check_at_least(1, batch=batch, length=length)
    show_in_notebooks(Report, lambda report: verdict_table(report, names_of(report)))
    inputs = (input,) if isinstance(input, (str, Path)) else input
    options = VerifyOptions(
        several(layer), several(rename), bits, grad, model, model_after, tuple(map(str, inputs)), device, dtype,
        seed, batch, length,
    )  # fmt: skip
    both = [opened(before, root), None if after is None else opened_alike(after, root)]

    def bar(nbytes: int, what: str) -> Progress:
        return silent if progress is None or what != COMPARING else progress

    return verify_opened(both, options, bar)
