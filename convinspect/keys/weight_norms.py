"""The two names that PyTorch has for each half of a weight norm, one of each function that makes one.

`torch.nn.utils.weight_norm` calls them `weight_g` and `weight_v`, `torch.nn.utils.parametrizations.weight_norm`
`parametrizations.weight.original0` and `original1`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from convinspect.keys.wrappers import apart

_NEW = re.compile(r"(?<![^.])parametrizations\.(?P<of>\w+)\.original(?P<half>[01])\Z", re.ASCII)
_OLD = re.compile(r"(?<![^.])(?P<of>\w+)_(?P<half>[gv])\Z", re.ASCII)
_HALVES = {"0": "g", "1": "v", "g": "0", "v": "1"}


def with_old_norms(a: Sequence[str], b: Sequence[str]) -> tuple[list[str], list[str]]:
    """Two lists of names as the old function gives them; unchanged where PyTorch itself loads A's, which are old, into
    B's. A name stays whole where two would become the same.
    """
    there = set(b)
    if any((new := _new(name)) is not None and new in there for name in a):
        return list(a), list(b)
    return _with_old(a), _with_old(b)


def _with_old(names: Sequence[str]) -> list[str]:
    return apart(list(names), [_NEW.sub(_old, name) if "parametrizations." in name else name for name in names])


def norm_tails(key: str, partner: str) -> tuple[str, str] | None:
    """The ends of two keys that are one half of a weight norm, under its two names; None where they are not."""
    for new, old, turned in ((key, partner, False), (partner, key, True)):
        found = _NEW.search(new)
        if found is not None and (end := _old(found)) and _ends_with(old, end):
            return (end, found[0]) if turned else (found[0], end)
    return None


def _ends_with(key: str, end: str) -> bool:
    return key == end or key.endswith(f".{end}")


def _old(found: re.Match[str]) -> str:
    return f"{found['of']}_{_HALVES[found['half']]}"


def _new(name: str) -> str | None:
    found = _OLD.search(name)
    return found and f"{name[: found.start()]}parametrizations.{found['of']}.original{_HALVES[found['half']]}"
