"""The options of `convert` as one record, by their names in Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convinspect.checkpoint import Checkpoint
from convinspect.formats.sources import short_name
from convinspect.kinds import CONV_TRANSPOSES, CONVOLUTIONS, TARGETS, TRANSFORMERS_CONV1D
from convinspect.text import dimensions

PATCH_ORDERS = ("chw", "hwc")
"""What `patch_order` accepts."""

ORIGINS = (*TARGETS, "transformers", "any")
"""Kinds that `from_` accepts."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `convert`.

    Attributes:
        to: What the layers become: "linear", "conv1d", …, "convtranspose1d", …: a key of `TARGETS`.
        from_: Kinds to convert: those of `to`, "transformers" or "any"; () for the default ones.
        layer: Names or globs of the layers to convert; () for all.
        exclude: Names or globs of layers to leave.
        like: Another checkpoint, whose shapes the tensors get.
        rename: Rules `OLD=NEW` for names of tensors or modules.
        groups: "expand" turns grouped convolutions into Linear over all channels, mostly zeros.
        model: The model's code, as `PACKAGE.MODULE:CLASS`, from which stride, padding and groups are read.
        state_dict: Write the plain state_dict of a whole model, TorchScript or `.pt2`.
        fuse: Write weight-normed, spectral-normed and pruned layers as plain weights.
        keep_optimizer: Leave optimizer state unchanged.
        drop_optimizer: Leave optimizer state out.
        in_place: Replace the source.
        force: Overwrite a target that exists.
        dry_run: Decide everything, write nothing.
        root: The dictionary in the file, as dotted keys; "." for all.
        turn_square: With `like`: where other matrices are stored transposed, turn the square ones in doubt too.
        patches: Convert convolutions whose stride is their kernel size, and not those of kernel size 1, to Linear.
        patch: Kernel size of the convolutions that Linear layers over flattened patches become, as "16x16".
        in_channels: With `patch`: the channels that these convolutions must come out with.
        patch_order: In which order patches are flattened: "chw", PyTorch's, as None is, or "hwc", channels last.
        copy: With `in_place`: write a whole new file, and replace the source with it at the end.
    """

    to: str | None = None
    from_: tuple[str, ...] = ()
    layer: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    like: Path | Checkpoint | None = None
    rename: tuple[str, ...] = ()
    groups: str | None = None
    model: str | None = None
    state_dict: bool = False
    fuse: bool = False
    keep_optimizer: bool = False
    drop_optimizer: bool = False
    in_place: bool = False
    force: bool = False
    dry_run: bool = False
    root: str | None = None
    turn_square: bool = False
    patches: bool = False
    patch: str | None = None
    in_channels: int | None = None
    patch_order: str | None = None
    copy: bool = False

    @property
    def like_name(self) -> str:
        """The file name of the checkpoint in `like`; "" if `like` is None."""
        if self.like is None:
            return ""
        return short_name(self.like.path) if isinstance(self.like, Checkpoint) else short_name(self.like)

    @property
    def expand(self) -> bool:
        """Grouped convolutions become Linear."""
        return self.groups is not None

    @property
    def kind(self) -> str | None:
        """The kind that layers become, as a class's name; None if `to` is not given."""
        return None if self.to is None else TARGETS[self.to]

    @property
    def kernel(self) -> tuple[int, ...] | None:
        """The sizes that `patch` gives; () if it is None, and None if it is malformed."""
        return () if self.patch is None else dimensions(self.patch)

    @property
    def last(self) -> bool:
        """Whether the numbers of a patch have their channels last."""
        return self.patch_order == "hwc"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that `from_` names, as classes' names; "any" means all except the target kind."""
        kinds: list[str] = []
        for origin in self.from_:
            if origin == "any":
                kinds += [
                    kind
                    for kind in ("Linear", *CONVOLUTIONS, *CONV_TRANSPOSES, TRANSFORMERS_CONV1D)
                    if kind != self.kind
                ]
            else:
                kinds.append(TRANSFORMERS_CONV1D if origin == "transformers" else TARGETS[origin])
        return tuple(dict.fromkeys(kinds))
