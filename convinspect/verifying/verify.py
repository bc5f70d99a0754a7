"""The entry point of `verify`: two checkpoints and options → the report.

Three strengths in ascending order: the stored bits, each layer's outputs, the whole model's outputs. The report names
the strength it reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.converting.eligibility import Writing
from convinspect.converting.in_memory import applied
from convinspect.converting.options import Options
from convinspect.converting.rename import renaming
from convinspect.converting.selection import Selection, select_layers
from convinspect.errors import CannotConvert, CannotShow, ConvInspectError, Option, Wording
from convinspect.formats.files import check_unchanged
from convinspect.formats.sources import short_name
from convinspect.records import Edit, Version
from convinspect.verifying.checkpoints import Compared, compare_stored
from convinspect.verifying.findings import Report
from convinspect.verifying.layer_outputs import run as run_layers
from convinspect.verifying.layer_outputs import run_by_ranks, runs_of
from convinspect.verifying.layers import LayerCheck
from convinspect.verifying.options import VerifyOptions
from convinspect.verifying.told import Bar, no_bar
from convinspect.writing.beside import with_optimizers

if TYPE_CHECKING:
    from convinspect.ranks.group import Group
    from convinspect.verifying.model import ModelCheck

_MANY = 20_000
"""Tensors of a checkpoint of so many that PyTorch is loaded once their records are gone, not beside them."""


def verify(
    before: Checkpoint,
    after: Checkpoint | None,
    options: VerifyOptions,
    bar: Bar = no_bar,
    group: Group | None = None,
) -> Report:
    """As `verify_opened`, of checkpoints that the caller keeps."""
    return verify_opened([before, after], options, bar, group)


def verify_opened(
    opened: list[Checkpoint | None],
    options: VerifyOptions,
    bar: Bar = no_bar,
    group: Group | None = None,
) -> Report:
    """Check that a conversion changed shapes and nothing else.

    Args:
        opened: The checkpoint before its conversion, and the one after, or None to convert the first in memory, all
            that can become a Linear. They are taken out of the list: where nothing else holds them, their memory is
            free for running layers.
        options: How they are compared, under the names of the command's options.
        bar: Told of what is compared, and of layers that are run.
        group: The ranks that do so together, each a part of the tensors and layers; rank 0 alone runs a whole model.

    Returns:
        What was found; `Report.equal` is the verdict.

    Raises:
        CannotConvert: Options contradict each other, nothing can be converted in memory, or a model cannot be built,
            does not take the file before, or fails on these inputs.
        NotThere: A name matches no layer, or an input is a file that does not exist.
        CannotShow: There is no such device, dtype or input.
        ConvInspectError: Bytes of one of the files are missing or damaged.
    """
    options.check()
    paths = [one.path for one in opened if one is not None]
    if group is not None:
        from convinspect.ranks.agreement import agree

        agree(group, [_sizes(one) for one in opened if one is not None], paths[0])
        bar = _shared(bar, group)
    few = all(one is None or len(one) < _MANY for one in opened)
    loading = None if options.bits else _prepare_torch(options, meanwhile=few and group is None)
    try:
        done = _compared(opened, options, bar, group, None if loading is None else loading.begin)
        # A thread that imports a module must be done with it, or another gets a part of one that fails to load.
        if loading is not None:
            loading.join()
        report = done.compared.report(done.run())
        # What was compared first may be another file's by now.
        check_unchanged(done.versions)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        remedy = Wording("try another ", Option("device", None), " or size, or ", Option("bits"))
        raise CannotShow(f"PyTorch cannot run it ({reason[:200]})", remedy, paths[0]) from None
    except ConvInspectError as error:
        raise error.at(paths[0]) from None
    report = replace(report, notes=(*done.notes, *report.notes))
    if done.kept is None or (group is not None and group.rank):
        return report
    return replace(report, model=_run_model(options, *done.kept, report))


class _Done(NamedTuple):
    """What is left of two checkpoints once all that they store was compared.

    Attributes:
        compared: What was found.
        run: Runs the layers, and gives their checks.
        versions: The files that were read, as they were then.
        notes: On what was not compared.
        kept: Where a whole model is run: the checkpoints before and after, and the first under its original names.
    """

    compared: Compared
    run: Callable[[], list[LayerCheck]]
    versions: Mapping[Path, Version]
    notes: tuple[str, ...]
    kept: tuple[Checkpoint, Checkpoint, Checkpoint] | None


def _compared(
    opened: list[Checkpoint | None],
    options: VerifyOptions,
    bar: Bar,
    group: Group | None,
    meanwhile: Callable[[], None] | None,
) -> _Done:
    """Compare all that is stored, and keep no more than is needed from then on."""
    stored, after = opened
    assert stored is not None
    opened.clear()
    before = _renamed(stored, options.rename) if options.rename else stored
    if after is None:
        after, notes = _as_linear(before, options.layer)
        pair = before, after
    else:
        pair, notes = _with_optimizers(before, after)
    compared = compare_stored(*pair, options, bar, group, meanwhile)
    if group is None:
        run = partial(run_layers, runs_of(compared.shown, options), options, bar)
        compared = compared._replace(shown=[])
    else:
        run = partial(run_by_ranks, compared.shown, options, group)
    unwritten = [f"{short_name(one.path)}: {one.unwritten}" for one in (before, after) if one.unwritten]
    return _Done(
        compared,
        run,
        {**pair[0].versions, **pair[1].versions},
        (*notes, *dict.fromkeys(unwritten)),
        None if options.model is None else (before, after, stored),
    )


def _shared(bar: Bar, group: Group) -> Bar:
    """The bar, which also ends the work once another rank has failed."""
    from convinspect.ranks.agreement import checking

    return lambda nbytes, what: checking(group, bar(nbytes, what))


def _sizes(checkpoint: Checkpoint) -> list[tuple[str, int]]:
    return sorted((short_name(path), version[2]) for path, version in checkpoint.versions.items())


def _with_optimizers(before: Checkpoint, after: Checkpoint) -> tuple[tuple[Checkpoint, Checkpoint], tuple[str, ...]]:
    """Two folders' checkpoints with the optimizers beside their weights, and notes on state that is not compared."""
    if before.folder is None or after.folder is None:
        return (before, after), ()
    both = with_optimizers(before), with_optimizers(after)
    notes = [f"{one.name} beside the weights is not compared: {one.why}" for each in both for one in each.stuck]
    return (both[0].checkpoint, both[1].checkpoint), tuple(dict.fromkeys(notes))


def _renamed(checkpoint: Checkpoint, rules: Sequence[str]) -> Checkpoint:
    """The checkpoint with other keys, as `convert` with these rules would write it.

    Raises:
        ConvInspectError: A rule is malformed, matches nothing, or gives two tensors the same name.
    """
    changes = renaming(checkpoint, list(rules))
    return applied(checkpoint, (*changes.edits, *changes.copies), changes.others)


def _as_linear(checkpoint: Checkpoint, names: tuple[str, ...]) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint with everything converted to Linear that can be, as `convert` writes it; and notes on the rest.

    Args:
        checkpoint: What to convert.
        names: Layers or globs; () for all.

    Raises:
        CannotConvert: There is nothing to convert.
    """
    options = Options(to="linear", from_=("any",), layer=names)
    selection = select_layers(checkpoint, options, writing=Writing(plain=True))
    edits = (*selection.plan.edits, *_of_patches(checkpoint, selection))
    converted = {id(edit.tensor) for edit in edits}
    # Layers that look convertible and are not get a note. Convolutions of larger kernels do not look so.
    larger = {layer.name for layer in selection.layers if layer.kernel_size and not layer.pointwise and not names}
    larger |= {layer.name for layer in selection.layers if layer.patch and id(layer.weight) in converted}
    left = [refusal for refusal in selection.plan.refusals if not refusal.done and refusal.name not in larger]
    if not edits:
        why = (f" ({left[0].name}: ", left[0].reason, ")") if left else ()
        problem = Wording("no layer can be converted to Linear", *why)
        raise CannotConvert(problem, "give the checkpoint to compare with")
    notes = tuple(Wording(f"left unchanged: {refusal.name}: ", refusal.reason) for refusal in left)
    return applied(checkpoint, edits), notes


def _of_patches(checkpoint: Checkpoint, selection: Selection) -> tuple[Edit, ...]:
    """Edits of the chosen convolutions that are known, or named, to cut patches."""
    names = tuple(layer.name or "." for layer in selection.layers if layer.patch and layer.name in selection.chosen)
    if not names:
        return ()
    options = Options(to="linear", layer=names, patches=True)
    return select_layers(checkpoint, options, writing=Writing(plain=True)).plan.edits


def _prepare_torch(options: VerifyOptions, meanwhile: bool) -> _Loading | None:
    """Check the device and dtype; what loads PyTorch, where that is to be done meanwhile.

    Raises:
        CannotShow: There is no such device or dtype.
    """
    if options.dtype:
        from convinspect.arrays.devices import check_dtype

        check_dtype(options.dtype)
    if options.device == "cpu":
        return _Loading() if meanwhile else None
    from convinspect.arrays.devices import check_device, check_dtype_on

    check_device(options.device)
    remedy = Wording("cpu has; ", Option("bits"), " needs no device")
    check_dtype_on(options.device, "float64", ", in which outputs are judged", remedy)
    return None


class _Loading:
    """Loads PyTorch, which takes a second, while the stored bits are compared."""

    def __init__(self) -> None:
        self._thread: Thread | None = None

    def begin(self) -> None:
        """Begin. If the system refuses a thread, PyTorch is loaded later, when it is needed."""
        thread = Thread(target=self._load)
        with suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def join(self) -> None:
        """Wait until it is loaded, if that was begun."""
        if self._thread is not None:
            self._thread.join()

    def _load(self) -> None:
        # If it is not installed, the code that needs it raises the error.
        with suppress(ImportError):
            import torch  # noqa: F401


def _run_model(
    options: VerifyOptions, before: Checkpoint, after: Checkpoint, stored: Checkpoint, report: Report
) -> ModelCheck:
    """Compare the whole model's outputs; `stored` is the first checkpoint under its original names."""
    from convinspect.verifying.inputs import model_inputs
    from convinspect.verifying.model import try_models
    from convinspect.verifying.model_runs import RunOptions

    last = tuple(check.name for check in report.layers if check.last)
    if last and not options.model_after:
        problem = f"layer {last[0]} multiplies patches with their channels last, which a swapped layer does not"
        raise CannotConvert(problem, Wording("give ", Option("model_after", None), ", the code that it is for"))
    run_options = RunOptions(
        options.model or "",
        options.model_after or "",
        model_inputs(options.input, options.seed),
        options.seed,
        options.device,
        options.grad,
        last,
    )
    return try_models(before, after, report.kinds, run_options, stored if options.rename else None)
