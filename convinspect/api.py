"""The commands as Python functions: they take paths or checkpoints, and return the records that the commands show.

    open        a checkpoint, of which nothing is run
    find_layers its layers
    select      those that are meant
    diff        how two checkpoints differ, or what a load_state_dict error asks for
    convert     a checkpoint with pointwise convolutions as Linear or back, other names, another format
    explain     what one layer computes on a few rows of data
    check       whether a file is whole, and what loading it elsewhere would call

A command's options are keyword arguments of the same names (`--state-dict` is `state_dict`, `--from` is `from_`). What
can be fixed by the caller is a `ConvInspectError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar, overload

from convinspect.checkpoint import Checkpoint, open_alike, whole
from convinspect.checkpoint import open_checkpoint as open
from convinspect.errors import CannotShow, ConvInspectError, Option, Wording, naming, not_installed
from convinspect.layers.find import find_layers
from convinspect.layers.select import select
from convinspect.records import Layer, Tensor
from convinspect.report.notebook import checkpoint_table, layer_table, show_in_notebooks

if TYPE_CHECKING:
    import torch

    from convinspect.checking.findings import Report as CheckReport
    from convinspect.converting.job import Job
    from convinspect.diffing.differences import DiffReport
    from convinspect.diffing.fixes import ErrorReport
    from convinspect.explaining.example import Example

__all__ = [
    "Checkpoint",
    "ConvInspectError",
    "Layer",
    "Tensor",
    "check",
    "convert",
    "diff",
    "explain",
    "find_layers",
    "open",
    "select",
]

Source: TypeAlias = str | Path | Checkpoint
"""What a function works on: where it lies, or what was opened; of the latter its root in use counts."""

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of bytes that were dealt with since the last call."""

P = ParamSpec("P")
R = TypeVar("R")

show_in_notebooks(Checkpoint, checkpoint_table)
show_in_notebooks(Layer, layer_table)


def _saying_what_to_install(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose failed imports of packages that not everyone has become errors that say what to install."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ImportError as error:
            raise not_installed(error) or error from None

    return checked


@overload
def diff(
    a: Source, b: Source, *, values: bool = False, root: str | None = None, progress: Progress | None = None
) -> DiffReport: ...


@overload
def diff(a: Source, *, error: str | Path | BaseException, root: str | None = None) -> ErrorReport: ...


@_saying_what_to_install
def diff(
    a: Source,
    b: Source | None = None,
    *,
    error: str | Path | BaseException | None = None,
    values: bool = False,
    root: str | None = None,
    progress: Progress | None = None,
) -> DiffReport | ErrorReport:
    """Say why a checkpoint will not load where another does, and whether converting helps. Only headers are read.

    Args:
        a: The checkpoint that is to be loaded.
        b: One that loads where `a` should.
        error: Instead of `b`: what `load_state_dict` raised, its text, or the path of a text file that holds it.
        values: Compare the numbers too, one tensor at a time.
        root: Which dictionary of tensors in the files, as dotted keys; "." for all; by default the model's.
        progress: Called with the number of bytes that were compared; only `values` takes long.

    Returns:
        Of two checkpoints `.verdict` ("loads", "loads after converting" or "does not load"), `.obstacles`, `.same` and
        every tensor's difference; of an error the same verdict, and an answer to each of its lines.

    Raises:
        ConvInspectError: One of them cannot be opened or is damaged; the text holds no such error.
    """
    from convinspect.report.diff import difference_table
    from convinspect.report.load_error import error_table

    checkpoint = _opened(a, root)
    if (b is None) == (error is None):
        what = "there is nothing to compare it with" if b is None else "b and error say both what to compare it with"
        remedy = Wording("give a second checkpoint or ", Option("error", None))
        raise CannotShow(what, remedy, checkpoint.path)
    if error is not None:
        from convinspect.diffing.fixes import ErrorReport, suggest_fixes
        from convinspect.diffing.load_error import error_text, read_error

        if values:
            problem = Wording(
                Option("values", None), " compares two checkpoints, and ", Option("error", None), " stands for one"
            )
            raise CannotShow(problem, "drop one of them", checkpoint.path)
        show_in_notebooks(ErrorReport, error_table)
        return suggest_fixes(checkpoint, read_error(error_text(error)))
    from convinspect.diffing.checkpoints import diff as compare_checkpoints
    from convinspect.diffing.differences import DiffReport

    assert b is not None
    other = whole(b) if isinstance(b, Checkpoint) else open_alike(b, root)
    show_in_notebooks(DiffReport, difference_table)
    with naming(checkpoint.path):
        return compare_checkpoints(checkpoint, other, values, progress or _silent)


@_saying_what_to_install
def check(path: Source, *, values: bool = False, progress: Progress | None = None) -> CheckReport:
    """Is this file whole, and what would loading it elsewhere call? Nothing in it is run.

    Args:
        path: A file or folder of any kind.
        values: Also read every number, and look for NaN and infinities.
        progress: Called with the number of bytes that were read.

    Returns:
        `.findings`, each with its code, level, place and remedy, and `.exit_code` as the command would give it. A file
        that cannot be read is a finding too ("unreadable").
    """
    from convinspect.checking.findings import Report
    from convinspect.checking.scan import check as scan
    from convinspect.report.check import check_tables

    show_in_notebooks(Report, lambda report: check_tables([report], kept=True))
    return scan(path.path if isinstance(path, Checkpoint) else Path(path), values, progress or _silent)


@_saying_what_to_install
def convert(
    source: Source,
    target: str | Path | None = None,
    *,
    to: str | None = None,
    from_: str | Iterable[str] = (),
    layer: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    like: Source | None = None,
    rename: str | Iterable[str] = (),
    groups: str | None = None,
    model: str | None = None,
    state_dict: bool = False,
    fuse: bool = False,
    keep_optimizer: bool = False,
    drop_optimizer: bool = False,
    in_place: bool = False,
    force: bool = False,
    dry_run: bool = False,
    root: str | None = None,
    progress: Progress | None = None,
) -> Job:
    """Turn kernel-size-1 convolutions into Linear, or back, inside a checkpoint. Every number stays as it is.

    PyTorch is needed only to write another format, a whole model's state_dict, or fused weights.

    Args:
        source: The checkpoint to convert.
        target: The new file, or folder of shards; its suffix says the format. None with `in_place` or `dry_run`.
        to: What the layers become: "linear", "conv1d", "conv2d" or "conv3d".
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
        drop_optimizer: Leave optimizer state out, so that a resumed run starts it anew.
        in_place: Replace the source, in one step at the end.
        force: Overwrite a target that exists.
        dry_run: Decide everything, write nothing.
        root: Which dictionary of tensors in the file, as dotted keys; "." for all; by default the model's.
        progress: Called with the number of bytes that were written; PyTorch, which writes other formats, tells nothing.

    Returns:
        What was done: `.plan.conversions`, `.plan.refusals` with their reasons, `.followers`, `.renaming`, `.notes` on
        what is left behind; `.in_memory()` gives the converted checkpoint without a file.

    Raises:
        ConvInspectError: It cannot be done; the target is then unchanged.
    """
    from convinspect.converting.job import Job
    from convinspect.converting.job import convert as carry_out
    from convinspect.converting.options import Options
    from convinspect.report.convert import plan_table

    if isinstance(source, Checkpoint) and root is not None:
        raise _root_was_chosen(source)
    show_in_notebooks(Job, plan_table)
    options = Options(
        to, _several(from_), _several(layer), _several(exclude), Path(like) if isinstance(like, str) else like,
        _several(rename), groups, model, state_dict, fuse, keep_optimizer, drop_optimizer, in_place, force, dry_run,
        root,
    )  # fmt: skip
    with naming(source.path if isinstance(source, Checkpoint) else Path(source)):
        return carry_out(source, target, options, progress or _silent)


@_saying_what_to_install
def explain(
    path: Source | None = None,
    layer: str | None = None,
    *,
    rows: int = 4,
    seed: int = 0,
    input: str | Path | torch.Tensor | None = None,
    root: str | None = None,
) -> Example:
    """Run one layer on a few rows of data, to see how n rows of `in` columns become n rows of `out`.

    Args:
        path: A checkpoint; without it, a small built-in layer of 3 → 6.
        layer: Which of its layers.
        rows: How many rows of data are drawn.
        seed: Of the data that are drawn for a file's layer.
        input: Your own data, (n, in): a tensor, or a .csv, .npy or .pt file.
        root: Which dictionary of tensors in the file, as dotted keys; "." for all; by default the model's.

    Returns:
        The data `.x` (n, in), the kernels `.w` (out, in, taps), `.b` (out), and the results `.f` (n - taps + 1, out),
        all computed by PyTorch in float64. A notebook draws it.

    Raises:
        ConvInspectError: The layer is none that can be explained, or the data do not fit it.
    """
    from convinspect.explaining.example import Example
    from convinspect.explaining.explain import Options
    from convinspect.explaining.explain import explain as compute
    from convinspect.report.explain_steps import overview

    _check_at_least(1, rows=rows)
    _check_at_least(0, seed=seed)
    show_in_notebooks(Example, overview)
    options = Options(layer, rows, seed, Path(input) if isinstance(input, str) else input)
    return compute(None if path is None else _opened(path, root, damaged=True), options)


def _check_at_least(least: int, **options: int | None) -> None:
    """Refuse numbers that are too small.

    Raises:
        CannotShow: One is.
    """
    for name, number in options.items():
        if number is not None and number < least:
            raise CannotShow(Wording(Option(name, number), f" is less than {least}"), f"give {least} or more")


def _several(values: str | Iterable[str]) -> tuple[str, ...]:
    """One value, or any number of them."""
    return (values,) if isinstance(values, str) else tuple(values)


def _opened(source: Source, root: str | None, damaged: bool = False) -> Checkpoint:
    """A checkpoint.

    Args:
        source: Where it lies, or itself.
        root: Which of its roots.
        damaged: Whether one will do of which bytes are missing.

    Raises:
        ConvInspectError: It cannot be opened, or is damaged.
    """
    if isinstance(source, Checkpoint) and root is not None:
        raise _root_was_chosen(source)
    checkpoint = source if isinstance(source, Checkpoint) else open(source, root)
    return checkpoint if damaged else whole(checkpoint)


def _root_was_chosen(checkpoint: Checkpoint) -> ConvInspectError:
    remedy = Wording("leave out ", Option("root", None))
    return CannotShow("its root was chosen when it was opened", remedy, checkpoint.path)


def _silent(done: int) -> None:
    pass
