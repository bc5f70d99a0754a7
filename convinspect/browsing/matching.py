"""Which names a search finds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate

_GLOB = re.compile(r"[*?\[]")


def found(names: Sequence[str], query: str) -> list[int]:
    """The places of the names that a query finds, in order; all of them for an empty one.

    A query with `*`, `?` or `[` is a glob that may match anywhere in the name. Words, separated by blanks, must all
    occur in the name. Where no name has them all, names count in which the query's characters occur in this order.
    Capital letters count only where the query has some.

    Args:
        names: Any.
        query: As it was typed so far.
    """
    words = query.split()
    if not words:
        return list(range(len(names)))
    exact = query != query.lower()
    known = names if exact else [name.lower() for name in names]
    if _GLOB.search(query):
        # An open bracket is an ordinary character until it is closed.
        pattern = re.compile(translate(f"*{query.strip()}*"))
        return [place for place, name in enumerate(known) if pattern.match(name)]
    places = [place for place, name in enumerate(known) if all(word in name for word in words)]
    return places or [place for place, name in enumerate(known) if _in_order("".join(words), name)]


def _in_order(characters: str, name: str) -> bool:
    at = -1
    for character in characters:
        at = name.find(character, at + 1)
        if at < 0:
            return False
    return True
