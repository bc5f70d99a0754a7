"""A command under torchrun: its ranks share the work, and rank 0 alone speaks."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from convinspect.cli.commands import SUMMARIES
from convinspect.cli.complaints import NO_MEMORY, refused, say
from convinspect.errors import ConvInspectError
from convinspect.ranks.group import Group, OtherRankFailed
from convinspect.ranks.place import Place, place_of_process
from convinspect.showing.flags import as_flag

SHARING = ("convert", "verify")
"""Commands whose ranks share the work; any other is rank 0's alone."""

_SECONDS_AFTER_A_SIGNAL = 3.0
"""How long a process that is to end asks the others why; torchrun waits for 30."""

_EARLY = "stopped before the ranks were connected, as torchrun does when one has ended; nothing was done"


def run_as_rank(command: Callable[[], None]) -> None:
    """Run the command line on one rank; where torchrun did not start this process, as ever.

    torchrun prints a report on each process that ends with another code than 0, so of those on a machine only one
    does.
    """
    place = place_of_process()
    if place is None:
        command()
        return
    if place.rank:
        if next((word for word in sys.argv[1:] if word in SUMMARIES), None) not in SHARING:
            sys.exit(0)
        silence = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        sys.stdout = sys.stderr = silence
    try:
        command()
    except SystemExit as ended:
        if place.local:
            # At once: torchrun ends, by a signal that its report names, whoever lives on when another has ended.
            os._exit(0)
        raise ended from None


@contextmanager
def joined() -> Iterator[Group | None]:
    """The ranks that run this command; None where it runs alone.

    Raises:
        OtherRankFailed: On the rank that speaks, where another has failed.
        SystemExit: On the others, where any has.
    """
    place = place_of_process()
    if place is None:
        yield None
        return
    group = Group(place, _said)
    try:
        yield group
    except BaseException as error:
        stopped = not isinstance(error, Exception)
        failure = group.fail(error, _SECONDS_AFTER_A_SIGNAL if stopped else None)
        if group.alive:
            if not group.connected and _first_to_say():
                say("error", _EARLY, sys.__stderr__)
            _leave_at_once(error, place)
        if failure is None or failure.rank == group.rank or (not failure.line and stopped):
            raise
        if not place.rank and isinstance(error, ConvInspectError) and failure.line == error.line(as_flag):
            # Every rank finds it; which of them was the first says nothing.
            raise
        if not group.speaks:
            sys.exit(2)
        sys.stderr = sys.__stderr__
        raise OtherRankFailed(failure) from None
    group.finish()


def _said(error: BaseException) -> str:
    """A failure as a line for the rank that speaks; "" of what only follows a signal."""
    if isinstance(error, ConvInspectError):
        return error.line(as_flag)
    if isinstance(error, OSError):
        return refused(error)
    if isinstance(error, MemoryError):
        return NO_MEMORY
    if isinstance(error, (SystemExit, KeyboardInterrupt, typer.Exit, typer.Abort)):
        return ""
    traceback.print_exception(error, file=sys.__stderr__)
    return f"{type(error).__name__}, a bug of convinspect; please report it with the lines above"


def _first_to_say() -> bool:
    """Whether no other rank on this machine has said it: one of them makes a file where torchrun keeps theirs."""
    try:
        folder = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parent.parent
        os.close(os.open(folder / "convinspect", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except (KeyError, OSError):
        return True
    return True


def _leave_at_once(error: BaseException, place: Place) -> None:
    """End without the interpreter's own end, which a thread that is inside PyTorch may hold up."""
    for stream in (sys.stdout, sys.stderr, sys.__stderr__):
        if stream is not None:
            stream.flush()
    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 130
    os._exit(0 if place.local else code)
