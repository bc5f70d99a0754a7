"""Every failure that a user can fix, as a tree of exceptions.

    ConvInspectError            one line: PATH: what is wrong; what to do          (exit code 2)
    ├── NotACheckpoint          the file is something else: git-lfs pointer, HTML, tar, ONNX, …
    ├── BrokenFile              it is a checkpoint, but malformed
    │   └── CutShort            … because it ends too early
    ├── RefusedFile             it asks for what no honest file asks for: duplicate records, a path outside
    ├── NotThere                no layer, root or path has this name (lists the closest names)
    │   └── NoSuchTensor        … or a tensor, in a lookup; a KeyError too
    ├── CannotWrite             the target cannot be written, or must not be overwritten
    ├── ChangedMeanwhile        the source changed while it was read
    ├── CannotConvert           a layer was asked for that must not be converted, or the options contradict each other
    ├── CannotShow              the options do not fit the data: a slice out of range, shapes without numbers
    └── NotInstalled            a package that this needs is not installed

Anything else that escapes a command is a bug of ours and ends with exit code 3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple


class Option(NamedTuple):
    """An option of a command, which is a keyword argument of the function with the same name.

    Attributes:
        name: As in Python: "state_dict", "layer", "from_" (Python keeps "from" for itself).
        value: Its value; True for a switch, None to name the option without a value.
    """

    name: str
    value: object = True


class Wording(str):
    """A sentence that names options, which the command line and Python spell differently. `str` spells them for Python.

    In an f-string it becomes plain text, with the options spelled for Python, so a longer sentence that contains one
    must be a `Wording` too.

    Args:
        parts: Text, options, and wordings, in order.
    """

    parts: tuple[str | Option, ...]

    def __new__(cls, *parts: str | Option) -> Wording:
        flat: list[str | Option] = []
        for part in parts:
            flat += part.parts if isinstance(part, Wording) else (part,)
        wording = super().__new__(cls, _spelled(flat, as_argument))
        wording.parts = tuple(flat)
        return wording


def as_argument(option: Option) -> str:
    """An option as a keyword argument: `layer='conv1'`, `state_dict=True`, or its name alone."""
    return option.name if option.value is None else f"{option.name}={option.value!r}"


def spelled(text: str, spell: Callable[[Option], str]) -> str:
    """Plain text unchanged, a wording with its options spelled out."""
    return _spelled(text.parts, spell) if isinstance(text, Wording) else text


def _spelled(parts: Iterable[str | Option], spell: Callable[[Option], str]) -> str:
    return "".join(part if isinstance(part, str) else spell(part) for part in parts)


def named(path: Path) -> str:
    """A path as it was typed, without what is secret in an address; of one, `Path` keeps only one of the slashes."""
    if (shown := getattr(path, "shown", None)) is not None:
        return str(shown)
    text = path.as_posix()
    scheme, slash, rest = text.partition(":/")
    # A scheme of one letter is a drive.
    is_address = slash and rest[:1] not in ("", "/") and len(scheme) > 1 and scheme.replace("+", "").isalnum()
    return f"{scheme}://{rest}" if is_address else str(path)


class ConvInspectError(Exception):
    """A failure with a remedy.

    Args:
        problem: What is wrong, without the path; no full stop at the end.
        remedy: What the user can do about it, or "" when the problem already says it.
        path: The file concerned. May be added later, by `at`.
    """

    def __init__(self, problem: str, remedy: str = "", path: Path | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.path = path

    def at(self, path: Path) -> ConvInspectError:
        """The same error, naming `path` unless it already names a file."""
        if self.path is None:
            self.path = path
        return self

    def line(self, spell: Callable[[Option], str]) -> str:
        """PATH: what is wrong; what to do."""
        where = f"{named(self.path)}: " if self.path is not None else ""
        remedy = f"; {spelled(self.remedy, spell)}" if self.remedy else ""
        return f"{where}{spelled(self.problem, spell)}{remedy}"

    def __str__(self) -> str:
        return self.line(as_argument)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors raised inside name the file that the user gave, unless they name another already."""
    try:
        yield
    except ConvInspectError as error:
        raise error.at(path) from None


class NotACheckpoint(ConvInspectError):
    """The file holds something other than a saved model."""


class BrokenFile(ConvInspectError):
    """The file is a checkpoint whose bytes are missing or malformed."""


class CutShort(BrokenFile):
    """The file ends before what it describes."""


class RefusedFile(ConvInspectError):
    """The file asks for something that no legitimate file needs."""


class NotThere(ConvInspectError):
    """No file, layer or root has the given name."""


class NoSuchTensor(NotThere, KeyError):
    """No tensor has the given name; also a `KeyError`, as any mapping raises."""


class NotInstalled(ConvInspectError):
    """A package that is needed is not installed.

    Args:
        package: Its name for `import` and `pip install`.
        user: The command or function that needs it.
    """

    def __init__(self, package: str, user: str) -> None:
        name = PACKAGES.get(package, package)
        super().__init__(f"{user} needs {name}, which is not installed", installing(package))


def installing(package: str) -> str:
    """The command that installs a package beside this program: pip's, unless pipx or uv made its environment."""
    with suppress(OSError, UnicodeDecodeError):
        here = Path(sys.prefix)
        if (here / "pipx_metadata.json").exists():
            return f"pipx inject convinspect {package}"
        # Such an environment has no pip.
        if "\nuv = " in (here / "pyvenv.cfg").read_text(encoding="utf-8"):
            from shlex import quote

            return f"uv pip install --python {quote(str(here))} {package}"
    return f"python -m pip install {package}"


PACKAGES = {
    "torch": "PyTorch", "safetensors": "safetensors", "ml_dtypes": "ml-dtypes", "fsspec": "fsspec",
    "aiohttp": "aiohttp", "huggingface_hub": "huggingface_hub", "s3fs": "s3fs", "gcsfs": "gcsfs",
    "textual": "textual",
}  # fmt: skip
"""Packages that only some commands and functions need, with their names."""


def not_installed(error: ImportError, user: str) -> NotInstalled | None:
    """The error for a failed import of an optional package; None for any other import, which is a bug in convinspect.

    Args:
        error: What the import raised.
        user: The command or function that needs the package.
    """
    package = (error.name or "").partition(".")[0]
    return NotInstalled(package, user) if package in PACKAGES and isinstance(error, ModuleNotFoundError) else None


def unreadable(error: OSError, path: Path) -> BrokenFile:
    """The error for a file that the system cannot read."""
    reason = error.strerror or str(error)
    denied = isinstance(error, PermissionError)
    remedy = "ask its owner" if denied else "see whether its disk or network is well, and try again"
    return BrokenFile(f"it cannot be read ({reason})", remedy, path)


class CannotShow(ConvInspectError):
    """What was asked for does not fit the data at hand."""


class CannotWrite(ConvInspectError):
    """The target cannot be written."""


class ChangedMeanwhile(ConvInspectError):
    """The source has changed since it was opened."""


class CannotConvert(ConvInspectError):
    """A conversion that was asked for would be wrong."""
