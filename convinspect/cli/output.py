"""Where a result goes and in which form, and what is said beside it: problems and progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from convinspect.errors import BrokenFile, CannotShow, CannotWrite
from convinspect.render.cells import safe
from convinspect.render.format import Format

if TYPE_CHECKING:
    from convinspect.checkpoint import Checkpoint
    from convinspect.records import Layer
    from convinspect.render.emit import TerminalSize


class ReaderLeft(Exception):
    """Whoever read our output has seen enough, as `head` does."""


class Sink(NamedTuple):
    """Where a result goes, and in which form."""

    fmt: Format
    width: int | None
    output: Path | None
    title: str

    @property
    def wants_payload(self) -> bool:
        """Whether JSON is wanted; everything else is drawn from the table."""
        return self.fmt is Format.json if self.output is None else self.output.suffix.lower() == ".json"

    @property
    def for_machines(self) -> bool:
        """Whether numbers are wanted whole rather than laid out."""
        if self.output is not None:
            return self.output.suffix.lower() in (".csv", ".json", ".md")
        return self.fmt is not Format.table

    @property
    def space(self) -> TerminalSize:
        """Cells to lay out in: the terminal's, or those of a picture that can be read at a glance."""
        from convinspect.render.emit import TerminalSize, terminal_size

        return terminal_size(sys.stdout, self.width) if self.output is None else TerminalSize(self.width or 100, 48)

    @property
    def color(self) -> bool:
        """Whether the result may be coloured."""
        from convinspect.render.emit import wants_color

        if self.output is None:
            return wants_color(sys.stdout)
        return self.output.suffix.lower() in (".svg", ".html", ".png", ".gif")

    def show(self, thing: object, payload: object) -> None:
        """Hand the result on: `payload` as JSON, `thing` in every other form."""
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


def check_output(output: Path | None, fmt: Format, source: Path) -> None:
    """See before any work that a file is a possible output; a table of an earlier call is replaced.

    Raises:
        CannotShow: The suffix and `--format` ask for different things.
        CannotWrite: It would replace what was opened, or the index of a checkpoint.
    """
    if output is None:
        return
    suffix = output.suffix.lower()
    if fmt is not Format.table and suffix != f".{fmt.value}":
        raise CannotShow(f"--format {fmt.value} and --output {output.name} disagree", "leave out --format")
    if output.name.endswith(".index.json"):
        raise CannotWrite("a name in .index.json is that of a checkpoint's index", "choose another name", output)
    if output.exists() and source.exists() and output.samefile(source):
        raise CannotWrite("it is the file that was opened", "choose another name", output)


def end_with_problems(checkpoint: Checkpoint, layers: Iterable[Layer] = ()) -> None:
    """What can be shown of a damaged file was shown; now say what is wrong with it.

    Raises:
        BrokenFile: There is something wrong; all but the last line are printed before.
    """
    half = [f"layer {layer.name}: {layer.notes[-1]}; save it again" for layer in layers if layer.kind == "Incomplete"]
    problems = [*checkpoint.problems, *half]
    if not problems:
        return
    sys.stdout.flush()
    for problem in problems[:-1]:
        print(f"error: {safe(f'{checkpoint.path}: {problem}')}", file=sys.stderr)
    raise BrokenFile(problems[-1], path=checkpoint.path)


_LONG = 500_000_000
"""Bytes from which reading takes long enough to show how far it is."""


@contextmanager
def reading_progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """How far the work is, on stderr, where it is a terminal and the work is long."""
    if total < _LONG or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    with suppress(RuntimeError):
        # It draws from a thread of its own, which the system may refuse; then the work goes on unseen.
        progress.start()
    task = progress.add_task(what, total=total)
    try:
        yield lambda done: progress.advance(task, done)
    finally:
        progress.stop()
