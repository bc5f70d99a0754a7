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

from convinspect.diffing.texts.lines import FRAME, Line

_ORDINARY = re.compile(r"\w(?:[\w.-]*\w)?")
"""A name that is read across a line's end; with other characters it may have swallowed a frame."""
_LEFT_OVER = re.compile(r"\d{4}-\d\d-\d\d|ERROR|WARN|INFO|DEBUG|\.py\d|MISSING|UNEXPECTED|MISMATCH")
"""What a logger, or a table's column, has written into the middle of a name."""
_SPACED = re.compile(r"[\w.,:/@*-]+")
"""A name with spaces in it."""
_SENTENCE = re.compile(r"[A-Z][a-z]|(?:missing|unexpected|these|size)$")
"""What the first word of a line is that no broken name begins."""
_LAST_PART = re.compile(r"[._]")
_LAST_PARTS = frozenset(
    {
        "weight", "bias", "scale", "gamma", "beta", "mean", "var", "std", "tracked", "g", "v", "alpha", "embedding",
        "embeddings", "buffer", "mask", "decay", "freq", "freqs", "kernel", "A", "B", "zeros", "qweight", "scales",
        "qzeros",
    }
)  # fmt: skip
"""What names of tensors end with, behind their last dot or underscore."""
_SYMBOLS = re.compile(r"[\W_]+")

_FOLDED = re.compile(r"\w[\w.,{}-]*")


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
        full: Different lines of so many characters.
        ends: The text ends with a line's end, so that nothing was cut off within one.
        lone: Where a line begins that is a number alone: it may be that of a line.
        borders: Where the lines of another process begin, and the end: nothing is said across these.
    """

    text: str
    words: Sequence[int]
    starts: Sequence[int]
    lines: Sequence[Line]
    at_start: frozenset[int]
    width: int
    full: int
    ends: bool
    lone: frozenset[int]
    borders: Sequence[int]

    @classmethod
    def of(cls, lines: Sequence[Line], ends: bool) -> Stream:
        split = [line.text.split() for line in lines]
        words = [word for line in split for word in line]
        starts = list(accumulate((sum(map(len, line)) for line in split), initial=0))[:-1]
        lengths = [len(line.text) for line in lines]
        width = max(lengths, default=0)
        begins = list(accumulate(map(len, words), initial=0))[:-1]
        text = "".join(words)
        borders = [start for start, line in zip(starts, lines, strict=True) if line.border] + [len(text)]
        full = len({line.text for line in lines if len(line.text) == width})
        lone = frozenset(start for start, line in zip(starts, lines, strict=True) if line.text.isdecimal())
        return cls(text, begins, starts, lines, frozenset(starts), width, full, ends, lone, borders)

    def border(self, place: int) -> int:
        """Where the lines of the process that wrote a character end."""
        return self.borders[bisect_right(self.borders, place)] if place < len(self.text) else len(self.text)

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
        if not whole or "\\" in whole or self._has_lone(start, gaps):
            # What is left of an escape that was broken, or a number of a line.
            return None
        if not gaps:
            return whole
        if any(gap in self.at_start for gap in gaps):
            single = all(gap in self.at_start and self.text[gap] != "-" for gap in gaps)
            if self.lines[0].mixed or _LEFT_OVER.search(whole):
                return None
            spaced = self._gaps(end - 1, end + 1) and end not in self.at_start
            return whole if single and not spaced and _ORDINARY.fullmatch(whole) else None
        if start in self.at_start or _SPACED.fullmatch(whole) is None:
            return None
        edges = [start, *gaps, end]
        return " ".join(self.text[a:b] for a, b in pairwise(edges))

    def folded_name(self, start: int, end: int) -> str | None:
        """A name that stands for several, with spaces after commas and breaks; None where it is not certain."""
        whole = self.text[start:end]
        if self._has_lone(start, self._gaps(start, end)):
            return None
        spaces = [gap for gap in self._gaps(start, end) if gap not in self.at_start]
        sure = all(self.text[gap - 1] == "," for gap in spaces) and _FOLDED.fullmatch(whole) is not None
        return whole if sure and not _LEFT_OVER.search(whole) else None

    def numbers_whole(self, start: int, end: int) -> bool:
        """Whether the white space in a shape is that after its commas, or a line's end."""
        text, gaps = self.text, self._gaps(start, end)
        sure = all(gap in self.at_start or text[gap - 1] == "," for gap in gaps)
        return sure and not self._has_lone(start, gaps)

    def _has_lone(self, start: int, gaps: Sequence[int]) -> bool:
        """Whether a line of a number alone is in a span."""
        return bool(self.lone) and (start in self.lone or any(gap in self.lone for gap in gaps))

    def list_end(self, start: int) -> tuple[bool, int]:
        """Where names without quotes end, of which the first begins at `start`: at a line's end that no break made.

        Returns:
            Whether that is certain, and the place.
        """
        line = self.line_at(start)
        if start in self.at_start and (self.lines[line].begins or self.lines[line].hollow):
            # The names were cut off.
            return False, self.end_of(line)
        while line + 1 < len(self.lines):
            goes_on = self._goes_on(line)
            if goes_on is None:
                return False, self.end_of(line)
            if not goes_on:
                break
            line += 1
        if self.lines[line].mixed:
            return False, self.end_of(line)
        last = line + 1 == len(self.lines)
        return self.ends or not last, self.end_of(line)

    def _goes_on(self, line: int) -> bool | None:
        """Whether a list of names goes on in the next line; None where it may."""
        here, following = self.lines[line].text, self.lines[line + 1]
        words = following.text.split()
        if (here.endswith(",") and following.begins) or FRAME.search(following.text) is not None:
            # The rest was cut off, or a frame is left over.
            return None
        listed = all(word.endswith(",") for word in words[:-1])
        if following.apart and (following.record or len(words) > 1):
            # A list may go on below a blank line: the half of a prefix that a console broke looks like one.
            return None if listed and len(words) > 1 else False
        if any(_SYMBOLS.fullmatch(word) for word in words) or not words[0][0].isalpha():
            # A frame or a number that was left over, perhaps.
            return None
        # A console that breaks lines fills more than one.
        broken = self.full > 1 and len(here) == self.width
        if not listed:
            return False if _SENTENCE.match(words[0]) and not broken else None
        if here.endswith(","):
            return True
        if _ORDINARY.fullmatch(words[0].rstrip(",")) is None:
            return None
        # A console makes no blank ones.
        sure = broken and not following.begins and not following.hollow and self._names_follow(line + 1)
        return True if sure else None

    def _names_follow(self, line: int) -> bool:
        """Whether a line below one that is as long as a console is wide goes on with names, and is no other word."""
        text = self.lines[line].text
        begun = max(self.text.rfind(mark, 0, self.starts[line]) for mark in ",:._") + 1
        names = self.text[begun : self.end_of(line)].rstrip(".").split(",")
        known = any(_LAST_PART.split(name)[-1] in _LAST_PARTS for name in names)
        return known or len(text) == self.width
