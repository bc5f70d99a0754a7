"""What the functions of the Python API have in common: what they take, and how they say what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeAlias, TypeVar

from convinspect.checkpoint import Checkpoint, open_alike, open_checkpoint, whole
from convinspect.errors import CannotShow, ConvInspectError, Option, Wording, not_installed

Source: TypeAlias = str | Path | Checkpoint
"""What a function works on: where it lies, or what was opened; of the latter its root in use counts."""

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of bytes that were dealt with since the last call."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def saying_what_to_install(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose failed imports of packages that not everyone has become errors that say what to install."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ImportError as error:
            raise not_installed(error, function.__name__) or error from None

    return checked


def opened(source: Source, root: str | None, damaged: bool = False) -> Checkpoint:
    """A checkpoint.

    Args:
        source: Where it lies, or itself.
        root: Which of its roots.
        damaged: Whether one will do of which bytes are missing.

    Raises:
        ConvInspectError: It cannot be opened, or is damaged.
    """
    if isinstance(source, Checkpoint) and root is not None:
        raise root_was_chosen(source)
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source, root)
    return checkpoint if damaged else whole(checkpoint)


def root_was_chosen(checkpoint: Checkpoint) -> ConvInspectError:
    """The error for a root beside a checkpoint that is open."""
    remedy = Wording("leave out ", Option("root", None))
    return CannotShow("its root was chosen when it was opened", remedy, checkpoint.path)


def opened_alike(source: Source, root: str | None) -> Checkpoint:
    """Another whole checkpoint, at the root of a first one, or at its main root where it has none there.

    Raises:
        ConvInspectError: It cannot be opened, or is damaged.
    """
    return whole(source) if isinstance(source, Checkpoint) else open_alike(source, root)


def several(values: T | Iterable[T]) -> tuple[T, ...]:
    """One value, or any number of them."""
    if isinstance(values, Iterable) and not isinstance(values, str):
        return tuple(values)
    return (values,)


def check_at_least(least: int, **options: int | None) -> None:
    """Refuse numbers that are too small.

    Raises:
        CannotShow: One is.
    """
    for name, number in options.items():
        if number is not None and number < least:
            raise CannotShow(Wording(Option(name, number), f" is less than {least}"), f"give {least} or more")


def silent(done: object) -> None:
    """Tell nobody how far the work is."""
