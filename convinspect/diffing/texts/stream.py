"""Lines → one text without any white space, in which sentences are found wherever a console broke them.

A console breaks a line at a space, inside a word or inside a number. Without white space all three read alike. What was
between two characters is remembered, since it tells names and numbers that were broken from those that something else
was written into.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from convinspect.diffing.texts.lines import Line

_ORDINARY = re.compile(r"[\w.-]+")
"""A name that is read across a line's end; with other characters it may have swallowed a frame."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A text without its white space.

    Attributes:
        text: All of its words.
        words: Where each word begins.
        starts: Where each line begins.
        lines: The lines themselves.
        at_start: The same as `starts`.
        width: Characters in the longest line.
    """

    text: str
    words: Sequence[int]
    starts: Sequence[int]
    lines: Sequence[Line]
    at_start: frozenset[int]
    width: int

    @classmethod
    def of(cls, lines: Sequence[Line]) -> Stream:
        split = [line.text.split() for line in lines]
        words = [word for line in split for word in line]
        starts = list(accumulate((sum(map(len, line)) for line in split), initial=0))[:-1]
        width = max((len(line.text) for line in lines), default=0)
        begins = list(accumulate(map(len, words), initial=0))[:-1]
        return cls("".join(words), begins, starts, lines, frozenset(starts), width)

    def line_at(self, place: int) -> int:
        """The number of the line that a character stands in."""
        return bisect_right(self.starts, place) - 1

    def end_of(self, line: int) -> int:
        """Where a line ends."""
        return self.starts[line + 1] if line + 1 < len(self.starts) else len(self.text)

    def _gaps(self, start: int, end: int) -> Sequence[int]:
        """Places between two characters of a span that white space was between."""
        return self.words[bisect_right(self.words, start) : bisect_left(self.words, end)]

    def name(self, start: int, end: int) -> str | None:
        """The name in a span, with the spaces in it; None where it is not certain.

        A line's end in it is a break of the console's. Where the name has spaces or rare characters too, it may as well
        have been a space, or a frame may be left in it.
        """
        gaps = self._gaps(start, end)
        whole = self.text[start:end]
        if not gaps or not whole:
            return whole or None
        if any(gap in self.at_start for gap in gaps):
            single = all(gap in self.at_start for gap in gaps)
            return whole if single and _ORDINARY.fullmatch(whole) else None
        edges = [start, *gaps, end]
        return " ".join(self.text[a:b] for a, b in pairwise(edges))

    def numbers_whole(self, start: int, end: int) -> bool:
        """Whether no white space but a line's end stands inside a number of a span."""
        text = self.text
        return not any(
            text[gap - 1].isdigit() and text[gap].isdigit() and gap not in self.at_start
            for gap in self._gaps(start, end)
        )

    def list_end(self, start: int) -> int:
        """Where names without quotes end, of which the first begins at `start`: at a line's end that no break made."""
        line = self.line_at(start)
        while line + 1 < len(self.lines) and self._goes_on(line):
            line += 1
        return self.end_of(line)

    def _goes_on(self, line: int) -> bool:
        """Whether a list of names may go on in the next line."""
        following = self.lines[line + 1]
        if following.begins:
            return False
        words = following.text.split()
        if any(not word.endswith(",") for word in words[:-1]):
            return False
        here = self.lines[line].text
        if here.endswith(","):
            return True
        broken = len(here) + len(words[0]) >= self.width
        return broken and _ORDINARY.fullmatch(words[0].rstrip(",")) is not None
