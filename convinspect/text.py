"""Parts of sentences (articles, plurals, lists of names), and numbers that users type."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import Enum


class Word(str, Enum):
    """A member of a closed list that is also the text that stands for it, in tables, JSON and Python alike."""

    __str__ = str.__str__


_SPOKEN_WITH_A_VOWEL = "AEFHILMNORSX"
"""Letters whose names begin with a vowel: an LSTM, an RNN."""


def with_article(noun: str) -> str:
    """A noun with its article: "an Embedding", "an LSTM", "a Linear", "a GRU"."""
    spelled = noun[:2].isupper() and len(noun) > 1
    vowel = noun[:1].upper() in (_SPOKEN_WITH_A_VOWEL if spelled else "AEIOU")
    return f"{'an' if noun and vowel else 'a'} {noun}"


def plural(number: int, noun: str) -> str:
    """A count and its noun, with a thousands separator: "1 layer", "1,234 layers"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def more_are(number: int, noun: str) -> str:
    """A count of what is left of a thing, with its verb: "1 more row is", "12 more rows are"."""
    return f"{plural(number, f'more {noun}')} {'is' if number == 1 else 'are'}"


_DIGITS = 18
"""No dimension of a tensor has more; Python's integers could have any number, and refuse thousands."""


def dimension(text: str) -> int | None:
    """The number in a text; None unless it can be a tensor's dimension."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else None


def dimensions(text: str) -> tuple[int, ...] | None:
    """The numbers in "16x16" or "2×14×14", each at least 1; None if it is anything else."""
    sizes = [dimension(size) for size in text.lower().replace("×", "x").split("x")]
    whole = tuple(size for size in sizes if size)
    return whole if len(whole) == len(sizes) else None


def join_words(words: Iterable[str]) -> str:
    """Words as a list in a sentence, each once: "stride 1, padding 0 and groups 1"."""
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} and {last}" if others else last


def first_few(names: Sequence[str], most: int = 6) -> str:
    """The first few of many names, with the number of the others: "a, b and 1,234 more".

    Args:
        names: All of them.
        most: How many are named.
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def one_line(text: str, most: int = 40) -> str:
    """A text from a file as one line: what does not print is escaped, and the middle of a long one is left out."""
    return quoted(text, most)[1:-1]


def quoted(text: str, most: int = 40) -> str:
    """The same in quotes, as Python writes a string.

    Args:
        text: Any.
        most: How many of its characters are shown.
    """
    return repr(text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2) :]}")


def closest(name: str, names: Sequence[str]) -> str:
    """A remedy line that offers the names most like `name`."""
    import difflib

    bare = name.strip("*")
    near = [candidate for candidate in names if bare and bare.lower() in candidate.lower()][:3]
    near += [match for match in difflib.get_close_matches(name, names, n=3, cutoff=0.5) if match not in near]
    if not near:
        near = list(names[:3])
    return "the closest are: " + ", ".join(near[:3]) if near else "the checkpoint has no layers"


def to_noise(value: float, noise: float) -> str:
    """A figure with no more digits than its noise leaves, and three at most: "1.24" ± 0.03, "1.2" ± 0.4, "100" ± 40.

    Args:
        value: The figure.
        noise: Half the width of where it may lie, in its unit; 0 if that is not known.
    """
    if not (math.isfinite(value) and math.isfinite(noise)):
        return f"{value:.0f}"
    place = max(
        (math.floor(math.log10(abs(part))) - less for part, less in ((value, 2), (noise, 0)) if part), default=0
    )
    # What the noise swallows whole keeps its first digit: "0" would say more.
    place = min(place, math.floor(math.log10(abs(value)))) if value else place
    return f"{round(value, -place):.{max(-place, 0)}f}"
