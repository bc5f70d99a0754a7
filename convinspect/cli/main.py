"""`main()`: run the command line, and turn every outcome into an exit code.

0 done · 1 a difference or a fault was found · 2 the user can fix it · 3 a bug in convinspect · 130 interrupted
· 128 + n ended by signal n.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, NoReturn

import typer

from convinspect import __version__
from convinspect.cli.commands import SUMMARIES, LazyGroup
from convinspect.cli.complaints import NO_MEMORY, refused, say
from convinspect.cli.output import ReaderLeft, reading_progress
from convinspect.cli.sharing import under_torchrun
from convinspect.cli.usage import UsageError, is_help, usage_line
from convinspect.errors import ConvInspectError, not_installed

_REPORT_TO = "https://github.com/convinspect/convinspect/issues"

app = typer.Typer(
    name="convinspect",
    cls=LazyGroup,
    help="See and change the pointwise layers of a saved PyTorch model, without running the model.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"convinspect {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def program() -> None:
    """The program `convinspect`: `main`, and the end of the process."""
    try:
        main()
    except SystemExit as ended:
        if "torch" in sys.modules:
            from convinspect.cli.ending import leave

            leave(ended.code)
        raise


def main() -> None:
    """Run the command line and exit with its exit code."""
    shell = os.environ.get("_CONVINSPECT_COMPLETE")
    if shell == "complete_bash":
        from convinspect.cli.shells import complete_in_bash

        complete_in_bash(_main)
    if shell == "complete_fish":
        from convinspect.cli.shells import complete_in_fish

        complete_in_fish(_main)
    if not under_torchrun():
        _main()
        return
    from convinspect.cli.ranks import run_as_rank

    run_as_rank(_main)


def _main() -> None:
    # A command is short and makes few reference cycles; collecting them takes a twentieth of a listing's time.
    gc.disable()
    # Nor are they looked for at the end, which with PyTorch loaded takes a twentieth of `verify`.
    atexit.register(gc.freeze)
    if sys.argv[1:2] in (["--install-completion"], ["--show-completion"]):
        from convinspect.cli.shells import replace_zsh_script

        replace_zsh_script()
    if sys.stderr.isatty():
        # Only there a bar can be seen.
        from convinspect.formats import sources
        from convinspect.remote import waiting

        sources.watching = reading_progress
        waiting.told = lambda where, seconds: say("note", f"{where}: its server asks to wait {seconds:.0f} seconds")
    try:
        with _signals_as_exceptions():
            # Not standalone: Typer would draw boxes around usage errors.
            sys.exit(app(prog_name="convinspect", standalone_mode=False) or 0)
    except UsageError as error:
        if is_help(error):
            print(error)
        else:
            say("error", usage_line(error))
        sys.exit(2)
    except typer.Abort:
        sys.exit(1)
    except ConvInspectError as error:
        from convinspect.cli.mistaken import pointed
        from convinspect.showing.flags import as_flag

        say("error", pointed(error).line(as_flag))
        sys.exit(2)
    except ModuleNotFoundError as error:
        command = next((word for word in sys.argv[1:] if word in SUMMARIES), "this")
        missing = not_installed(error, command)
        if missing is None:
            _report_bug()
        say("error", str(missing))
        sys.exit(2)
    except (ReaderLeft, BrokenPipeError):
        _forget_output()
        sys.exit(0)
    except OSError as error:
        say("error", refused(error))
        _forget_output()
        sys.exit(2)
    except MemoryError:
        say("error", NO_MEMORY)
        sys.exit(2)
    except Exception:
        _report_bug()
    finally:
        gc.enable()


def _report_bug() -> NoReturn:
    """Print the traceback of the current exception, and exit."""
    traceback.print_exc()
    say("error", f"this is a bug of convinspect {__version__}; please report it with the lines above at {_REPORT_TO}")
    sys.exit(3)


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into exceptions, so that a command that is stopped still removes its temporary files."""
    old = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            with suppress(ValueError):
                # Only the main thread may set handlers.
                old[number] = signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in old.items():
            # A rank that gives up has signals ignored, until its end.
            if signal.getsignal(number) is _leave:
                signal.signal(number, handler)


def _leave(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _forget_output() -> None:
    """Discard buffered output so that exit does not raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
