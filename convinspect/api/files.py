"""`diff`, `check` and `recover`: what two checkpoints, or one file, have to say, and a file as it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, overload

from convinspect.api.calls import Progress, Source, opened, opened_alike, saying_what_to_install, silent
from convinspect.checkpoint import Checkpoint
from convinspect.errors import naming
from convinspect.remote.addresses import path_of
from convinspect.showing.notebook import show_in_notebooks, with_lines

if TYPE_CHECKING:
    from convinspect.checking.findings import Report as CheckReport
    from convinspect.diffing.differences import DiffReport
    from convinspect.diffing.fixes import ErrorReport
    from convinspect.writing.in_place.recover import Recovered


@overload
def diff(
    a: Source, b: Source, *, values: bool = False, root: str | None = None, progress: Progress | None = None
) -> DiffReport: ...


@overload
def diff(a: Source, *, error: str | Path | BaseException, root: str | None = None) -> ErrorReport: ...


@saying_what_to_install
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
    from convinspect.diffing.options import check_options
    from convinspect.showing.diff import difference_table
    from convinspect.showing.load_error import error_commands, error_pytorch, error_table
    from convinspect.showing.verdict import by_hand, commands

    check_options(a.path if isinstance(a, Checkpoint) else path_of(a), b, error, values)
    checkpoint = opened(a, root)
    if error is not None:
        from convinspect.diffing.fixes import ErrorReport, suggest_fixes
        from convinspect.diffing.load_error import error_text, read_error

        show_in_notebooks(
            ErrorReport,
            lambda report: with_lines(error_table(report), error_pytorch(report, error_commands(report))),
        )
        return suggest_fixes(checkpoint, read_error(error_text(error), whole=isinstance(error, BaseException)))
    from convinspect.diffing.checkpoints import diff as compare_checkpoints
    from convinspect.diffing.differences import DiffReport

    assert b is not None
    partner = opened_alike(b, root)
    show_in_notebooks(
        DiffReport, lambda report: with_lines(difference_table(report), by_hand(report, commands(report)))
    )
    with naming(checkpoint.path):
        return compare_checkpoints(checkpoint, partner, values, progress or silent)


def recover(path: str | Path) -> Recovered:
    """Undo a conversion with `in_place` that was interrupted: the file is as it was before.

    Args:
        path: The file or folder.

    Returns:
        `.files` that are again as they were, and `.nbytes` that were restored.

    Raises:
        ConvInspectError: No edit of it was interrupted, one is still under way, or it was changed since.
    """
    from convinspect.writing.in_place.recover import recover as undo

    return undo(path_of(path))


@saying_what_to_install
def check(path: Source, *, values: bool = False, full: bool = False, progress: Progress | None = None) -> CheckReport:
    """Is this file whole, and what would loading it elsewhere call? Nothing in it is run.

    Args:
        path: A file or folder of any kind.
        values: Also read every number, and look for NaN and infinities.
        full: Of an address fetch all, its numbers too, and compare every checksum; else what describes them alone.
        progress: Called with the number of bytes that were read.

    Returns:
        `.findings`, each with its code, level, place and remedy, and `.exit_code` as the command would give it. A file
        that cannot be read is a finding too ("unreadable").

    Raises:
        ConvInspectError: A package that is needed for its numbers is not installed. Whatever is wrong with the file
            is a finding.
    """
    from convinspect.checking.findings import Report
    from convinspect.checking.scan import check as scan
    from convinspect.showing.check import check_tables

    show_in_notebooks(Report, lambda report: check_tables([report], kept=True))
    return scan(path.path if isinstance(path, Checkpoint) else path_of(path), values, progress or silent, full)
