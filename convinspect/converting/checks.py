"""Checks of a conversion's options against each other and against the file, before any work."""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING

from convinspect.converting.options import ORIGINS, PATCH_ORDERS, Options
from convinspect.errors import BrokenFile, CannotConvert, CannotWrite, Option, Wording
from convinspect.formats.sources import is_plain, outermost
from convinspect.kinds import CONVOLUTIONS, EXTRA_DIMS, TARGETS
from convinspect.layouts import Maker
from convinspect.records import Container
from convinspect.text import plural

if TYPE_CHECKING:
    from convinspect.checkpoint import Checkpoint

TARGET = Option("target", None)
DROP_OPTIMIZER = Option("drop_optimizer")
KEEP_OPTIMIZER = Option("keep_optimizer")


def target_of(source: Path, output: Path | None, options: Options) -> Path | None:
    """Where to write; None for a dry run.

    Raises:
        CannotWrite: The options contradict each other, or name no target.
    """
    if options.in_place and output is not None:
        problem = Wording(Option("in_place"), " writes over the source, so it cannot be combined with ", TARGET)
        raise CannotWrite(problem, "drop one of them", source)
    if options.dry_run:
        return None
    if options.in_place:
        return source
    if output is None:
        remedy = Wording("give one with ", TARGET, ", or use ", Option("in_place"), " or ", Option("dry_run"))
        raise CannotWrite("there is no target", remedy, source)
    return output


def check_archive(checkpoint: Checkpoint, in_place: bool, wrapped: bool) -> None:
    """Check that no checkpoint in an archive is to be edited where it lies, and no shards with the archive around them.

    Raises:
        CannotWrite: One is.
    """
    if wrapped and checkpoint.shards and checkpoint.container is not Container.DISTRIBUTED:
        problem = "its shards lie in an archive, which is not written with several files changed"
        remedy = Wording("end ", TARGET, " in .safetensors or .pt for one file, or give the name of a new folder")
        raise CannotWrite(problem, remedy, outermost(checkpoint.path))
    if not in_place or is_plain(checkpoint.path):
        return
    from convinspect.writing.archived import archive_of, is_rewritten

    archive = archive_of(checkpoint.path)
    if archive is None:
        return
    ways = [f"NEW{archive.suffix} for the whole archive, "] if is_rewritten(checkpoint.path) else []
    remedy = Wording("write a new file with ", Option("target", None), ": ", *ways, "NEW.pt for the checkpoint alone")
    raise CannotWrite("a checkpoint in an archive cannot be edited in place", remedy, archive)


def asks_for_nothing(options: Options) -> bool:
    """Whether options say of no layer, name or optimizer what becomes of it."""
    return not (options.to or options.like is not None or options.rename or options.drop_optimizer)


def check_options(options: Options, written_anyway: bool) -> None:
    """Refuse options that ask for nothing, or that contradict each other.

    Args:
        options: All of them.
        written_anyway: There is something to do besides: a plain state_dict is saved, or a checkpoint is taken out of
            an archive, or from an address.

    Raises:
        CannotConvert: They contradict each other, or there is nothing to do.
    """
    to, like, expand = Option("to", None), Option("like", None), Option("groups", "expand")
    idle = asks_for_nothing(options) and not written_anyway
    unknown = [kind for kind in options.from_ if kind not in ORIGINS]
    without_use = _without_use(options)
    rules: tuple[tuple[object, str, str], ...] = (
        (
            options.to is not None and options.to not in TARGETS,
            Wording("there is no kind to convert to that is called ", repr(options.to)),
            Wording(to, f" is one of {', '.join(TARGETS)}"),
        ),
        (
            unknown,
            Wording("there is no kind to convert that is called ", repr(unknown[0] if unknown else "")),
            Wording(Option("from_", None), f" is any of {', '.join(ORIGINS)}"),
        ),
        (
            options.groups not in (None, "expand"),
            Wording("grouped convolutions can be expanded, and not ", repr(options.groups)),
            Wording("give ", expand),
        ),
        (
            options.to and options.like is not None,
            Wording(to, " and ", like, " both say what the layers become"),
            "give one of them",
        ),
        (
            idle,
            "nothing says what the layers become",
            Wording("give ", to, ", ", like, " another checkpoint or ", Option("rename", None)),
        ),
        (
            without_use is not None,
            Wording(without_use or "", " chooses what is converted, and nothing says what that becomes"),
            Wording("give ", to, " or ", like, " too, or take it away"),
        ),
        (
            options.expand and options.to != "linear",
            Wording(expand, " writes grouped convolutions as Linear"),
            Wording("give ", Option("to", "linear")),
        ),
        (
            options.turn_square and options.like is None,
            Wording(Option("turn_square"), " says how matrices lie in a checkpoint that another one is compared with"),
            Wording("give ", like, " too, or take it away; ", Option("from_", "transformers"), " turns named layers"),
        ),
        (
            options.copy and not options.in_place,
            Wording(Option("copy"), " says how a file is changed with ", Option("in_place")),
            "give both, or drop it",
        ),
        (
            options.keep_optimizer and options.drop_optimizer,
            Wording(KEEP_OPTIMIZER, " and ", DROP_OPTIMIZER, " contradict each other"),
            "drop one of them",
        ),
    )
    for broken, problem, remedy in (*rules, *_patch_rules(options)):
        if broken:
            raise CannotConvert(problem, remedy)


def _patch_rules(options: Options) -> tuple[tuple[object, str, str], ...]:
    """What of the options on patches contradicts the others: whether it does, the problem, the remedy."""
    patches, patch, channels = Option("patches"), Option("patch", None), Option("in_channels", None)
    order = Option("patch_order", None)
    kind = TARGETS.get(options.to or "", "")
    dims = EXTRA_DIMS[kind] if kind in CONVOLUTIONS else 0
    example = Option("patch", "x".join(["16"] * max(dims, 1)))
    kernel = options.kernel
    return (
        (
            options.patches and options.to != "linear",
            Wording(patches, " writes convolutions that cut patches as Linear"),
            Wording("give ", Option("to", "linear")),
        ),
        (
            options.patches and options.expand,
            Wording(patches, " and ", Option("groups", "expand"), " are about different convolutions"),
            "drop one of them",
        ),
        (
            options.patches and "transformers" in options.from_,
            Wording(patches, " is about convolutions, and ", Option("from_", "transformers"), " about matrices"),
            "drop one of them",
        ),
        (
            options.patch is not None and not dims,
            Wording(patch, " is the kernel size of the convolutions that Linear layers become"),
            Wording("give ", Option("to", "conv2d"), " or another convolution too"),
        ),
        (
            kernel is None or (kernel and len(kernel) != dims),
            Wording(f"a {kind}'s patch has {plural(dims, 'size')}, and ", repr(options.patch), " does not say so"),
            Wording("give them as in ", example),
        ),
        (
            kernel and set(kernel) == {1},
            Wording(Option("patch", options.patch), " is a kernel of a single position"),
            "that is what converting gives without it",
        ),
        (
            options.patch is not None and any(kind not in ("linear", "any") for kind in options.from_),
            Wording(patch, " makes convolutions of Linear layers alone"),
            Wording("take ", Option("from_", None), " away"),
        ),
        (
            options.patch_order not in (None, *PATCH_ORDERS),
            Wording("there is no order of a patch's numbers that is called ", repr(options.patch_order)),
            Wording(order, f" is one of {', '.join(PATCH_ORDERS)}"),
        ),
        (
            options.patch_order is not None and not (options.patches or options.patch or options.like is not None),
            Wording(order, " says how patches are flattened"),
            Wording("give ", patches, " or ", patch, " too, or take it away"),
        ),
        (
            options.in_channels is not None and options.patch is None,
            Wording(channels, " checks what ", patch, " gives"),
            Wording("give ", patch, " too, or take it away"),
        ),
    )


def _without_use(options: Options) -> Option | None:
    """The first option that chooses layers where nothing is done to those that are chosen."""
    if options.to or options.like is not None:
        return None
    choosing = {} if options.fuse else {"layer": options.layer, "exclude": options.exclude}
    given = [(name, values) for name, values in {**choosing, "from_": options.from_}.items() if values]
    return Option(given[0][0], given[0][1][0]) if given else None


def check_optimizer(checkpoint: Checkpoint, options: Options, resave: bool, stuck: Sized = ()) -> None:
    """Refuse to drop optimizer state that does not exist, and to lose existing state unless the options allow it.

    Args:
        checkpoint: The source.
        options: What is asked for.
        resave: The weights are saved as a plain state_dict, where no optimizer state can be.
        stuck: Optimizer state beside the weights that cannot change, and can be dropped.

    Raises:
        CannotConvert: There is no state to drop, or it could be neither kept nor changed with its weights.
    """
    if not any(root.role == "optimizer" for root in checkpoint.roots):
        if options.drop_optimizer and not stuck:
            raise CannotConvert("it holds no optimizer state", Wording("leave out ", DROP_OPTIMIZER))
        return
    if not resave:
        return
    if options.keep_optimizer:
        problem = "optimizer state cannot be kept in a file that is saved as a plain state_dict"
        raise CannotConvert(problem, Wording("give ", DROP_OPTIMIZER))
    other_numbers = options.fuse or options.expand
    if other_numbers and not (options.drop_optimizer or options.state_dict):
        raise CannotConvert(
            "optimizer state cannot follow weights that get other numbers",
            Wording(DROP_OPTIMIZER, " leaves it out, ", Option("state_dict"), " writes the weights alone"),
        )


def described_by_code(checkpoint: Checkpoint, model: str) -> Checkpoint:
    """The checkpoint with what the user's code says of its modules: stride, padding, dilation and groups.

    Args:
        checkpoint: Of which the file says less.
        model: The code, as `PACKAGE.MODULE:CLASS`; it is run.

    Raises:
        ConvInspectError: The code cannot be run, or is that of another model.
    """
    from convinspect.modules.user_code import described

    with_code = checkpoint.described_by(*described(model))
    check_model(with_code, model)
    return with_code


def check_model(checkpoint: Checkpoint, model: str) -> None:
    """Refuse a model whose layers have other names than the file's: it would add nothing and seem to agree.

    Args:
        checkpoint: The source, described by the model.
        model: As the user named it.

    Raises:
        CannotConvert: No tensor of the file belongs to one of its modules.
    """
    if not any(name.rpartition(".")[0] in checkpoint.modules for name in checkpoint.tensors if "." in name):
        names = ", ".join(list(checkpoint.modules)[1:4])
        problem = Wording(Option("model", None), f" {model!r} has other layers than the file ({names}, …)")
        raise CannotConvert(problem, "give the model it was saved from")


def check_format(checkpoint: Checkpoint, resave: bool) -> None:
    """Refuse to write a format that is only read.

    Args:
        checkpoint: The source.
        resave: Its weights are saved as a plain state_dict, in another format.

    Raises:
        CannotConvert: It would keep its format.
    """
    if not checkpoint.container.rewritten and not resave:
        remedy = Wording("end ", TARGET, " in .safetensors or .pt, and its tensors are written as a plain state_dict")
        raise CannotConvert(f"no {checkpoint.container.value} is written here, anew or in place", remedy)


def check_source(checkpoint: Checkpoint, resave: bool, drop_optimizer: bool = False, unchanged: bool = False) -> None:
    """Refuse files that record shapes in more than one place, and damaged files.

    Args:
        checkpoint: The source.
        resave: Its weights are saved as a plain state_dict, without anything else that records their shapes.
        drop_optimizer: Its optimizer state is to be left out.
        unchanged: No layer, name or optimizer changes.

    Raises:
        CannotConvert: The file holds modules besides their weights, or is a distributed checkpoint that becomes none.
        BrokenFile: It is damaged.
    """
    if checkpoint.problems:
        raise BrokenFile(checkpoint.problems[0], path=checkpoint.path)
    if not resave and not unchanged and checkpoint.holds_modules:
        raise CannotConvert(
            f"it holds a whole model ({checkpoint.format}), whose classes would no longer fit their weights",
            Wording(Option("state_dict"), " writes its plain state_dict instead"),
        )
    if checkpoint.container is Container.DISTRIBUTED and not resave:
        check_distributed(checkpoint, drop_optimizer)


def saved_as_arrays(checkpoint: Checkpoint, options: Options) -> bool:
    """Whether shapes are to change of tensors that `torch.save` wrote as arrays, whose pickle has no sizes to edit.

    Raises:
        CannotConvert: They are to change in place.
    """
    changes = options.to is not None or options.like is not None
    if not changes or checkpoint.container not in (Container.TORCH_ZIP, Container.TORCH_LEGACY):
        return False
    from convinspect.formats.torch.saved_arrays import are_arrays

    if not are_arrays(checkpoint.root.tensors):
        return False
    if options.in_place:
        raise CannotConvert(
            "its tensors are NumPy arrays, whose shapes cannot be edited in place",
            Wording("give ", TARGET, ", and they are written as a plain state_dict"),
        )
    return True


def check_distributed(checkpoint: Checkpoint, drop_optimizer: bool) -> None:
    """Refuse what no distributed checkpoint is made of.

    Raises:
        CannotConvert: It is to lose some of it, or PyTorch does not load it itself.
    """
    from convinspect.formats.torch.distributed import holds_safetensors

    if not is_plain(checkpoint.path) and outermost(checkpoint.path) != checkpoint.path:
        problem = "it lies in an archive, which cannot be written with the folder changed"
        raise CannotConvert(problem, "end the target in .safetensors or .pt, or unpack the archive first")
    if holds_safetensors(checkpoint.path):
        problem = "its numbers are safetensors within its files, and PyTorch would load no folder of that kind"
        raise CannotConvert(problem, "end the target in .safetensors or .pt, and its tensors are written as one file")
    if drop_optimizer:
        remedy = "torch.distributed.checkpoint.load takes the weights alone too, where no optimizer is asked for"
        raise CannotConvert("optimizer state cannot be left out of a distributed checkpoint", remedy)


def check_layout(checkpoint: Checkpoint, resave: bool, writer: str, like: bool = False) -> None:
    """Refuse to save weights where their layout would no longer be recorded.

    Args:
        checkpoint: The source.
        resave: It is not written with another header alone.
        writer: What writes it then: "torch" or "safetensors".
        like: It is given another checkpoint's shapes.

    Raises:
        CannotConvert: Its layout is known from the file's metadata, which would be lost.
    """
    layout = checkpoint.layout
    if resave and layout is not None and layout.maker is Maker.PADDLE and not checkpoint.container.rewritten:
        _check_paddle(checkpoint, writer, like)
        return
    if not resave or layout is None or not any(len(tensor.shape) > 2 for tensor in checkpoint.tensors.values()):
        # A Linear and an Embedding lie as PyTorch's do.
        return
    if writer == "torch" or not checkpoint.metadata:
        problem = f"its weights are in {layout.maker.value}'s layout, which the new file would not record"
        raise CannotConvert(problem, Wording("write .safetensors, without ", Option("state_dict")))


def _check_paddle(checkpoint: Checkpoint, writer: str, like: bool) -> None:
    """Refuse a new file of Paddle's weights that would show by nothing that they are Paddle's.

    Raises:
        CannotConvert: It has no place for that, and no name in it tells.
    """
    told = writer == "safetensors" or like or any(name.endswith("._mean") for name in checkpoint.tensors)
    if not told and any(len(tensor.shape) == 2 for tensor in checkpoint.tensors.values()):
        problem = "its matrices are (in, out), Paddle's layout, which the new file would not record"
        remedy = Wording(
            "write .safetensors, which records it, or give a checkpoint of PyTorch with ", Option("like", None)
        )
        raise CannotConvert(problem, remedy)
