"""Write a command's result in the requested form, and report problems and progress beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from convinspect.cli.complaints import say
from convinspect.errors import BrokenFile, CannotShow, CannotWrite, Option, Wording
from convinspect.remote.addresses import ONLY_HERE, Address
from convinspect.render.cells import safe
from convinspect.render.format import Format

if TYPE_CHECKING:
    from convinspect.checkpoint import Checkpoint
    from convinspect.records import Layer
    from convinspect.render.emit import TerminalSize
    from convinspect.render.table import Cell


class ReaderLeft(Exception):
    """The reader of our output closed the pipe, as `head` does."""


class Sink(NamedTuple):
    """Where a result goes, and in which form."""

    fmt: Format
    width: int | None
    output: Path | None
    title: str

    @property
    def wants_payload(self) -> bool:
        """Whether JSON is wanted; all other forms are made from the table."""
        return self.fmt is Format.json if self.output is None else self.output.suffix.lower() == ".json"

    @property
    def for_machines(self) -> bool:
        """Whether numbers are wanted in full precision instead of fitted to a screen."""
        if self.output is not None:
            return self.output.suffix.lower() in (".csv", ".json", ".md")
        return self.fmt is not Format.table

    @property
    def space(self) -> TerminalSize:
        """Size to lay out for, in cells: the terminal's, or that of a picture of moderate size."""
        from convinspect.render.emit import TerminalSize, terminal_size

        return terminal_size(sys.stdout, self.width) if self.output is None else TerminalSize(self.width or 100, 48)

    @property
    def color(self) -> bool:
        """Whether the result may be coloured."""
        from convinspect.render.emit import wants_color

        if self.output is None:
            return wants_color(sys.stdout)
        return self.pictured

    @property
    def pictured(self) -> bool:
        """Whether the result becomes a picture or a page, which has more than characters."""
        return self.output is not None and self.output.suffix.lower() in (".svg", ".html", ".png", ".gif")

    def show(self, thing: object, payload: object, verdict: Sequence[Cell] = ()) -> None:
        """Write the result: `payload` as JSON, `thing` in every other form.

        Args:
            thing: Tables and blocks.
            payload: The same for machines.
            verdict: What the result comes to, which is printed too where the rest goes to a file.
        """
        from convinspect.render.emit import emit

        if self.output is None:
            try:
                emit(payload if self.fmt is Format.json else thing, self.fmt, sys.stdout, self.width)
                sys.stdout.flush()
            except BrokenPipeError:
                raise ReaderLeft from None
            return
        from convinspect.render.picture import save

        save(thing, self.output, self.title, self.width, payload=payload)
        self.say_written(verdict)

    def keep(self, parts: Iterable[str], verdict: Sequence[Cell] = ()) -> None:
        """Write text that is drawn already to the file that was asked for."""
        from convinspect.render.picture import save_text

        assert self.output is not None
        save_text(self.output, parts)
        self.say_written(verdict)

    def say_written(self, verdict: Sequence[Cell] = ()) -> None:
        """Print the verdict, if there is one, and on stderr what was written."""
        from convinspect.render.emit import emit
        from convinspect.render.table import Table

        if verdict:
            try:
                emit(Table((), (), lead=tuple(verdict)), Format.table, sys.stdout)
            except BrokenPipeError:
                raise ReaderLeft from None
        if self.output is not None:
            wrote(self.output)


def wrote(path: Path) -> None:
    """Say on stderr that a file or folder was written."""
    sys.stdout.flush()
    print(f"wrote {safe(str(path))}", file=sys.stderr)


def check_output(output: Path | None, fmt: Format, sources: Sequence[Path | None], force: bool) -> None:
    """Check `--output` against the other options before any work.

    Args:
        output: The file to write, if any.
        fmt: What `--format` says.
        sources: What is opened; None is nothing.
        force: An existing file may be overwritten.

    Raises:
        CannotShow: The suffix and `--format` ask for different things, or there is no Pillow for a picture in pixels.
        CannotWrite: It exists, it would replace what was opened, or the index of a checkpoint, or it is an address.
    """
    if output is None:
        return
    suffix = output.suffix.lower()
    if fmt is not Format.table and suffix != f".{fmt.value}":
        raise CannotShow(f"--format {fmt.value} and --output {output.name} disagree", "leave out --format")
    if output.name.endswith(".index.json"):
        raise CannotWrite("a name in .index.json is that of a checkpoint's index", "choose another name", output)
    check_here(output)
    if suffix in (".png", ".gif"):
        from convinspect.render.raster import check_pillow

        check_pillow()
    if not os.path.exists(output):
        return
    if any(os.path.samefile(output, source) for source in sources if source is not None and os.path.exists(source)):
        raise CannotWrite("it is the file that was opened", "choose another name", output)
    if os.path.isdir(output):
        raise CannotWrite("it is a folder", "give the name of a file in it", output)
    if not force:
        another = Wording("use ", Option("force"), " to overwrite it, or choose another name")
        raise CannotWrite("the file exists", another, output)


def check_here(output: Path) -> None:
    """Check that what is to be written is no address.

    Raises:
        CannotWrite: It is one.
    """
    if isinstance(output, Address):
        raise CannotWrite(*ONLY_HERE, output)


def end_with_problems(checkpoint: Checkpoint, layers: Iterable[Layer] = ()) -> None:
    """Report a damaged file's problems after its listing.

    Raises:
        BrokenFile: The last problem, if there is any; the others are printed before.
    """
    incomplete = [layer for layer in layers if layer.kind == "Incomplete"]
    advice = [f"layer {layer.name}: {layer.notes[-1]}; save it again" for layer in incomplete]
    problems = [*checkpoint.problems, *advice]
    if not problems:
        return
    sys.stdout.flush()
    for problem in problems[:-1]:
        say("error", f"{checkpoint.path}: {problem}")
    raise BrokenFile(problems[-1], path=checkpoint.path)


_LONG = 500_000_000
"""Bytes from which reading takes long enough for a progress bar."""


@contextmanager
def reading_progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, if that is a terminal and the work is long."""
    if total < _LONG or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(what, total=total)
    begun = False

    def advance(done: int) -> None:
        nonlocal begun
        if not begun:
            begun = True
            # It draws from its own thread, which the system may refuse; then the work goes on without a bar. There is
            # no thread before anything was read: work may begin with a fork.
            with suppress(RuntimeError):
                progress.start()
        progress.advance(task, done)

    try:
        yield advance
    finally:
        # Threads that are not done yet start it no more.
        begun = True
        progress.stop()
