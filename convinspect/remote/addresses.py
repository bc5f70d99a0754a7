"""Addresses: what a user types where a path may stand, such as `https://host/model.pt` or `hf://owner/model`.

An address is a `Path`, so that all that is written for files holds for it: what it is called, what lies beside it or in
it. What `pathlib` would ask the system, it asks whoever holds the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convinspect.errors import named

if TYPE_CHECKING:
    from typing_extensions import Self

ONLY_HERE = ("it is an address, and only files on this machine are written", "write it here, and upload it then")
"""What is said of an address that is to be written: the problem, and what to do."""
_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]+)(?:://|::)"
_QUERIED = ("http", "https")
"""Schemes whose addresses may end in `?name=value`, and whose names of files are quoted."""

_WITHOUT_HOST = ("memory", "file", "local", "dir")
"""Schemes whose addresses begin with a file's name, in which `@` stands for nothing."""


def scheme_of(text: str) -> str:
    """The scheme that an address begins with, in lower case; "" where the text is none."""
    # Compiled where it is needed, since most paths are no addresses.
    match = re.match(_SCHEME, text) if "://" in text else None
    return match[1].lower() if match else ""


class Address(type(Path())):  # type: ignore[misc]
    """A path whose text is kept as it was typed: `Path` leaves slashes and dots out of it.

    Attributes:
        typed: The text.
        scheme: What it begins with, in lower case.
    """

    typed: str
    scheme: str

    # --- the text

    @property
    def shown(self) -> str:
        """The text without what may be secret: who logs in, and most values of a query."""
        from convinspect.remote.secrets import without_secrets

        return without_secrets(self.typed)

    def _text_and_query(self) -> tuple[str, str]:
        """The text without a query, and the query."""
        if self.scheme not in _QUERIED:
            return self.typed.rstrip("/"), ""
        text, mark, query = self.typed.partition("?")
        return text.partition("#")[0].rstrip("/"), mark + query

    def outermost(self, inside: str) -> Address:
        """The address up to where a path into the file begins, if one follows.

        Args:
            inside: What stands between both. A login may hold it too.
        """
        at = self.typed.find(inside, _behind_login(self.typed))
        return self if at < 0 else _address(self.typed[:at], self.scheme)

    @property
    def name(self) -> str:
        text = self._text_and_query()[0]
        head, _, rest = text.partition("://")
        last = (rest or head).rpartition("/")[2]
        return _unquoted(last) if self.scheme in _QUERIED else last

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.name)[1]

    @property
    def stem(self) -> str:
        return os.path.splitext(self.name)[0]

    @property
    def parent(self) -> Path:
        text = self._text_and_query()[0]
        head, separator, rest = text.partition("://")
        return path_of(f"{head}{separator}{rest.rpartition('/')[0]}") if "/" in rest else self

    @property
    def parents(self) -> tuple[Path, ...]:
        found: list[Path] = []
        here: Path = self
        while here.parent is not here:
            here = here.parent
            found.append(here)
        return tuple(found)

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        below = os.fspath(name)
        if self.scheme in _QUERIED:
            # Imported here, as all that only addresses need.
            from urllib.parse import quote

            # An index may give a name that is no text.
            below = quote(below, errors="surrogatepass")
        return path_of(f"{self._text_and_query()[0]}/{below}")

    def with_name(self, name: str) -> Path:
        return self.parent / name

    def with_suffix(self, suffix: str) -> Path:
        return self.parent / (self.stem + suffix)

    def joinpath(self, *names: str | os.PathLike[str]) -> Path:
        found: Path = self
        for name in names:
            found = found / name
        return found

    def relative_to(self, other: str | os.PathLike[str], *_: Any, **__: Any) -> Path:
        begin = os.fspath(other).rstrip("/") + "/"
        if not isinstance(other, Address) or not self.typed.startswith(begin):
            raise ValueError(f"{self.shown} is not below {other}")
        rest = self._text_and_query()[0].removeprefix(begin)
        return Path(_unquoted(rest) if self.scheme in _QUERIED else rest)

    def resolve(self, strict: bool = False) -> Self:
        return self

    absolute = expanduser = resolve

    def as_posix(self) -> str:
        return self.shown

    def __str__(self) -> str:
        return self.shown

    def __fspath__(self) -> str:
        return self.typed

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and self.typed == other.typed

    def __lt__(self, other: object) -> bool:
        return self.typed < os.fspath(other) if isinstance(other, Path) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.typed)

    def __reduce__(self) -> Any:
        return path_of, (self.typed,)

    # --- what whoever holds it is asked

    def is_dir(self, **_: Any) -> bool:
        from convinspect.remote.folders import is_folder

        return is_folder(self)

    def is_file(self, **_: Any) -> bool:
        from convinspect.remote.folders import is_file

        return is_file(self)

    def exists(self, **_: Any) -> bool:
        from convinspect.remote.folders import is_file, is_folder

        return is_folder(self) or is_file(self)

    def iterdir(self) -> Iterator[Path]:
        from convinspect.remote.folders import entries

        return entries(self)

    def stat(self, **_: Any) -> os.stat_result:
        from convinspect.remote.folders import status

        return status(self)


def _behind_login(text: str) -> int:
    """Where in an address its host begins, or what is in the host's place: of a chain, in the last of its addresses."""
    start, scheme = 0, ""
    for match in re.finditer(r"(?:^|(?<=::))([A-Za-z][A-Za-z0-9+.-]+)://", text):
        start, scheme = match.end(), match[1].lower()
    first, slash, _ = text[start:].partition("/")
    return start + (first.rfind("@") + 1 if slash and scheme not in _WITHOUT_HOST else 0)


def _unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)


def path_of(text: str | Path) -> Path:
    """The path that a text names, an `Address` where it is one."""
    if isinstance(text, Address):
        return text
    # `Path` has left a slash out of an address.
    typed = named(text) if isinstance(text, Path) else text
    scheme = scheme_of(typed)
    if not scheme or (isinstance(text, Path) and os.path.lexists(text)):
        return Path(text)
    return _address(typed, scheme)


def _address(typed: str, scheme: str) -> Address:
    address = Address(typed)
    address.typed, address.scheme = typed, scheme
    return address
