"""What the functions of the Python API share: opening their arguments, and errors about these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeAlias, TypeVar

from convinspect.checkpoint import Checkpoint, open_alike, open_checkpoint, whole
from convinspect.errors import CannotShow, ConvInspectError, Option, Wording, not_installed

Source: TypeAlias = str | Path | Checkpoint
"""A path, or an open checkpoint, of which the root in use counts."""

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of bytes that were processed since the last call."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def saying_what_to_install(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function so that importing a package that is not installed raises an error that says what to install."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ImportError as error:
            raise not_installed(error, function.__name__) or error from None

    return checked


def opened(source: Source, root: str | None, damaged: bool = False) -> Checkpoint:
    """Open a checkpoint, unless it is open already.

    Args:
        source: A path, or an open checkpoint.
        root: The root to use, for a path only.
        damaged: Accept a file with missing bytes.

    Raises:
        ConvInspectError: It cannot be opened, or is damaged.
    """
    if isinstance(source, Checkpoint) and root is not None:
        raise root_was_chosen(source)
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source, root)
    return checkpoint if damaged else whole(checkpoint)


def root_was_chosen(checkpoint: Checkpoint) -> ConvInspectError:
    """The error for a `root` given together with an open checkpoint."""
    remedy = Wording("leave out ", Option("root", None))
    return CannotShow("its root was chosen when it was opened", remedy, checkpoint.path)


def opened_alike(source: Source, root: str | None) -> Checkpoint:
    """Open a second checkpoint at the same root as the first, or at its main root if it has no such root.

    Raises:
        ConvInspectError: It cannot be opened, or is damaged.
    """
    return whole(source) if isinstance(source, Checkpoint) else open_alike(source, root)


def several(values: T | Iterable[T]) -> tuple[T, ...]:
    """A tuple of one value, or of all values of an iterable."""
    if isinstance(values, Iterable) and not isinstance(values, str):
        return tuple(values)
    return (values,)


def check_at_least(least: int, **options: int | None) -> None:
    """Refuse numbers below a minimum.

    Raises:
        CannotShow: One is below it.
    """
    for name, number in options.items():
        if number is not None and number < least:
            raise CannotShow(Wording(Option(name, number), f" is less than {least}"), f"give {least} or more")


def silent(done: object) -> None:
    """A progress callback that does nothing."""


def kernel_text(patch: str | Sequence[int] | None) -> str | None:
    """A kernel's sizes as the command takes them: (16, 16) as "16x16"."""
    return patch if patch is None or isinstance(patch, str) else "x".join(map(str, patch))
