"""What `convert`'s options ask for, held against each other and against the file, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convinspect.errors import BrokenFile, CannotConvert, CannotWrite
from convinspect.records import Container
from convinspect.text import plural

if TYPE_CHECKING:
    from convinspect.checkpoint import Checkpoint
    from convinspect.converting.plan import Refusal


def target_of(path: Path, output: Path | None, in_place: bool, dry_run: bool) -> Path | None:
    """Where to write; None for a dry run.

    Raises:
        CannotWrite: The options contradict each other, or name no target.
    """
    if in_place and output is not None:
        raise CannotWrite("--in-place writes over the source, so -o has nothing to say", "drop one of them", path)
    if dry_run:
        return None
    if in_place:
        return path
    if output is None:
        raise CannotWrite("there is no target", "give one with -o, or use --in-place or --dry-run", path)
    return output


def check_wish(to: str | None, like: Path | None, anew: bool, expand: bool) -> None:
    """Refuse options that say nothing, or two things.

    Raises:
        CannotConvert: Neither or both of `--to` and `--like`, or `--groups expand` and no Linear to make.
    """
    if to is not None and like is not None:
        raise CannotConvert("--to and --like both say what the layers become", "give one of them")
    if to is None and like is None and not anew:
        raise CannotConvert("nothing says what the layers become", "give --to, --like another checkpoint or --rename")
    if expand and to != "linear":
        raise CannotConvert("--groups expand writes grouped convolutions as Linear", "give --to linear")


def check_optimizer(checkpoint: Checkpoint, keep: bool, drop: bool) -> None:
    """Refuse to leave out what is not there or is to stay.

    Raises:
        CannotConvert: Both options, or no optimizer.
    """
    if keep and drop:
        raise CannotConvert("--keep-optimizer and --drop-optimizer contradict each other", "drop one of them")
    if drop and not any(root.role == "optimizer" for root in checkpoint.roots):
        raise CannotConvert("it holds no optimizer state", "leave out --drop-optimizer")


def check_anew(checkpoint: Checkpoint, keep: bool, alone: bool, recomputed: bool) -> None:
    """Refuse to lose optimizer state unasked where weights are saved anew.

    Args:
        checkpoint: The source.
        keep: `--keep-optimizer`.
        alone: It was asked for to write the weights alone, or to drop the state.
        recomputed: Weights get other numbers (`--fuse`, `--groups expand`).

    Raises:
        CannotConvert: The state could be neither kept nor changed with its weights.
    """
    if not any(root.role == "optimizer" for root in checkpoint.roots):
        return
    if keep:
        raise CannotConvert("optimizer state cannot be kept in a file that is saved anew", "give --drop-optimizer")
    if recomputed and not alone:
        raise CannotConvert(
            "optimizer state cannot follow weights that get other numbers",
            "--drop-optimizer leaves it out, --state-dict writes the weights alone",
        )


def check_model(checkpoint: Checkpoint, model: str) -> None:
    """Refuse a model whose layers have other names than the file's: it would tell nothing and seem to agree.

    Raises:
        CannotConvert: No tensor of the file belongs to one of its modules.
    """
    if not any(name.rpartition(".")[0] in checkpoint.modules for name in checkpoint.tensors if "." in name):
        names = ", ".join(list(checkpoint.modules)[1:4])
        raise CannotConvert(
            f"--model {model!r} has other layers than the file ({names}, …)", "give the model it was saved from"
        )


def check_source(checkpoint: Checkpoint, anew: bool) -> None:
    """Refuse files whose shapes stand in more than one place, and files that are not whole.

    Raises:
        CannotConvert: The file holds modules beside their weights, or no numbers.
        BrokenFile: It is damaged.
    """
    if checkpoint.problems:
        raise BrokenFile(checkpoint.problems[0], path=checkpoint.path)
    if not anew and checkpoint.holds_modules:
        raise CannotConvert(
            f"it holds a whole model ({checkpoint.format}), whose classes would no longer fit their weights",
            "--state-dict writes its plain state_dict instead",
        )
    if checkpoint.container is Container.DISTRIBUTED:
        raise CannotConvert("a distributed checkpoint's shapes are spread over its files", "save it as one file first")


def nothing_converted(refused: Sequence[Refusal]) -> CannotConvert:
    """The error for a wish of which nothing could be carried out, so that a copy of the source would be all.

    Args:
        refused: At least one.
    """
    first, *others = refused
    more = f"--dry-run gives the reasons for {plural(len(others), 'more layer')}" if others else ""
    return CannotConvert(f"nothing can be converted: layer {first.name or '(root)'}: {first.reason}", more)
