"""What a loader's error says: of PyTorch in all versions, and of the libraries around it (`texts/loaders.py`).

It may stand anywhere in a log or a traceback, broken into lines by a console, with prefixes, in frames, in colours.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from convinspect.diffing.texts.items import LoadError, LoadErrorItem, Shape, Trouble
from convinspect.diffing.texts.reading import read_text
from convinspect.errors import CannotShow, NotThere

__all__ = ["LoadError", "LoadErrorItem", "Shape", "Trouble", "decoded_error", "error_text", "read_error"]

_MOST_TEXT = 64 << 20
"""Bytes of an error's text that are read; a log of more is no error."""


def error_text(error: str | Path | BaseException) -> str:
    """The text of an error.

    Args:
        error: The text itself, the exception, or the path of a text file that holds it.

    Raises:
        NotThere: There is no such file.
    """
    if not isinstance(error, Path):
        return str(error)
    try:
        with error.open("rb") as file:
            return decoded_error(file)
    except OSError as failure:
        raise NotThere(
            f"it cannot be read: {failure.strerror}", "give a text file, or - for standard input", error
        ) from None


def decoded_error(file: BinaryIO) -> str:
    """The text in a file: UTF-8, or UTF-16 where a mark at its beginning says so, as PowerShell writes what it
    redirects.
    """
    text = file.read(_MOST_TEXT)
    return text.decode("utf-16" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")


def read_error(text: str, whole: bool = False) -> LoadError:
    """What an error says.

    Args:
        text: With any text around it.
        whole: It is all that an exception says.

    Raises:
        CannotShow: Nothing in the text was understood as an error of a loader.
    """
    error = read_text(text, whole)
    if error.items:
        return error
    if error.unread:
        raise CannotShow(
            f"the text was not understood: {error.unread[0]}",
            "give all that the loader printed, from its first line on, as it printed it",
        )
    raise CannotShow(
        "no line of a load_state_dict error is in the text",
        "give all that PyTorch printed, from 'Error(s) in loading state_dict for' on",
    )
