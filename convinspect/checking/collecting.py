"""Collect the findings of a scan in a report, in bounded memory even for a hostile file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

from convinspect.checking.findings import (
    CODES,
    MOST_LISTED,
    Asked,
    Finding,
    Held,
    Item,
    Level,
    Looked,
    Note,
    Progress,
    Report,
    Scan,
    T,
)
from convinspect.errors import Option, Wording
from convinspect.records import Container

LOOKED = ("records", "crcs", "bytes", "pickles", "names", "admitted", "tensors")


class Collector:
    """Collects what scans yield.

    Args:
        advance: Called with the number of bytes of every run that was read.
    """

    def __init__(self, advance: Callable[[int], None] = lambda nbytes: None) -> None:
        self.findings: list[Finding] = []
        self._advance = advance
        self._notes: dict[str, None] = {}
        self._looked: Counter[str] = Counter()
        self._numbers: Counter[str] = Counter()
        self._names: dict[str, bool] = {}
        self._within = ""

    def run(self, scan: Scan[T]) -> T:
        """Run a scan, and return its result."""
        while True:
            try:
                item = next(scan)
            except StopIteration as end:
                result: T = end.value
                return result
            self.take(item)

    def take(self, item: Item) -> None:
        """Keep an item; findings past a thousand of a kind are only counted."""
        if isinstance(item, Finding):
            self._numbers[item.code] += 1
            if self._numbers[item.code] <= MOST_LISTED:
                self.findings.append(item)
        elif isinstance(item, Held):
            self._within = item.kind
        elif isinstance(item, Progress):
            self._advance(item.nbytes)
        elif isinstance(item, Looked):
            self._looked[item.what] += item.number
        elif isinstance(item, Asked):
            self._names[item.name] = self._names.get(item.name, True) and item.admitted
        else:
            self._notes[item.line] = None

    def items(self) -> Iterator[Item]:
        """What was kept, for a scan that tries something and then yields what it found."""
        yield from self.findings
        yield from (Asked(name, admitted) for name, admitted in self._names.items())
        yield from map(Note, self._notes)
        yield from (Looked(what, number) for what, number in self._looked.items())  # type: ignore[arg-type]

    def report(self, path: Path, container: Container | None, shards: int) -> Report:
        """The report, with the worst findings first."""
        order = {code: index for index, code in enumerate(CODES)}
        levels = {level: index for index, level in enumerate(get_args(Level))}

        def rank(finding: Finding) -> tuple[bool, int, int]:
            return finding.code != "unreadable", levels[finding.level], order[finding.code]

        unlisted = {code: number - MOST_LISTED for code, number in self._numbers.items() if number > MOST_LISTED}
        more = [f"{code}: {number:,} more such findings are only counted" for code, number in unlisted.items()]
        if spared := self._looked["spared"]:
            more.append(
                Wording(
                    f"{spared:,} bytes of numbers were not fetched, and so not compared with their checksums; ",
                    Option("full"),
                    " fetches all",
                )
            )
        looked = {what: self._looked[what] for what in LOOKED}
        looked["names"], looked["admitted"] = len(self._names), sum(self._names.values())
        findings = tuple(sorted(self.findings, key=rank))
        return Report(path, container, findings, (*self._notes, *more), looked, unlisted, shards, self._within)
