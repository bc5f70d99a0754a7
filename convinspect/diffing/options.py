"""Checks of the options of `diff`."""

from __future__ import annotations

from pathlib import Path

from convinspect.errors import CannotShow, Option, Wording

_ERROR = Option("error", None)


def check_options(path: Path, b: object, error: object, values: bool) -> None:
    """Refuse options without a second checkpoint or error, or with both.

    Args:
        path: The checkpoint that is to be loaded.
        b: The checkpoint that loads, or None.
        error: The error that loading `path` raised, or None.
        values: Whether numbers are to be compared.

    Raises:
        CannotShow: Both or neither is given, or `values` is given with an error.
    """
    remedy = Wording("give a second checkpoint or ", _ERROR)
    if b is None and error is None:
        raise CannotShow("there is nothing to compare it with", remedy, path)
    if b is not None and error is not None:
        raise CannotShow(Wording("B and ", _ERROR, " say both what to compare it with"), remedy, path)
    if values and error is not None:
        problem = Wording(Option("values", None), " compares two checkpoints, and ", _ERROR, " stands for one")
        raise CannotShow(problem, "drop one of them", path)
