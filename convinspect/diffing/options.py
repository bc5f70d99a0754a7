"""What of the options of `diff` contradicts itself."""

from __future__ import annotations

from pathlib import Path

from convinspect.errors import CannotShow, Option, Wording

_ERROR = Option("error", None)


def check_options(path: Path, b: object, error: object, values: bool) -> None:
    """See that there is one thing to compare with.

    Args:
        path: The checkpoint that is to be loaded.
        b: The one that loads, or None.
        error: What loading it raised, or None.
        values: Whether numbers are to be compared.

    Raises:
        CannotShow: There is nothing to compare with, or two things, or numbers of an error.
    """
    remedy = Wording("give a second checkpoint or ", _ERROR)
    if b is None and error is None:
        raise CannotShow("there is nothing to compare it with", remedy, path)
    if b is not None and error is not None:
        raise CannotShow(Wording("B and ", _ERROR, " say both what to compare it with"), remedy, path)
    if values and error is not None:
        problem = Wording(Option("values", None), " compares two checkpoints, and ", _ERROR, " stands for one")
        raise CannotShow(problem, "drop one of them", path)
