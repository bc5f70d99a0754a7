"""Wrappers' levels are left out of keys, and nothing else is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from convinspect.keys.wrappers import clean_names


@given(st.lists(st.lists(st.sampled_from(["module", "_orig_mod", "a", "b"]), min_size=1, max_size=5), max_size=8))
@settings(deadline=None, max_examples=100)
def test_clean_names_lose_no_key(parts: list[list[str]]) -> None:
    keys = list(dict.fromkeys(".".join(part) for part in parts))
    names = clean_names(keys)
    assert len(set(names)) == len(keys)
    for key, name in zip(keys, names, strict=True):
        remaining = iter(key.split("."))
        assert all(part in remaining for part in name.split("."))
