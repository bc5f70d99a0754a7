"""Small parts of sentences: an article, a number of things."""

from __future__ import annotations

from collections.abc import Iterable

_SPOKEN_WITH_A_VOWEL = "AEFHILMNORSX"
"""Letters whose names begin with a vowel: an LSTM, an RNN."""


def an(noun: str) -> str:
    """A noun with its article: "an Embedding", "an LSTM", "a Linear", "a GRU"."""
    spelled = noun[:2].isupper() and len(noun) > 1
    vowel = noun[:1].upper() in (_SPOKEN_WITH_A_VOWEL if spelled else "AEIOU")
    return f"{'an' if noun and vowel else 'a'} {noun}"


def several(number: int, noun: str) -> str:
    """A number of things, with thousands set apart: "1 layer", "1,234 layers"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def listed(words: Iterable[str]) -> str:
    """Words as a sentence counts them up, each once: "stride 1, padding 0 and groups 1"."""
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} and {last}" if others else last
