"""The table and the JSON of `check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from convinspect.checking.findings import CODES, MOST_LISTED, Finding, Report, worst
from convinspect.formats.pickle.safe_globals import TAKEN_FROM
from convinspect.formats.sources import short_name
from convinspect.records import Container
from convinspect.render.cells import count
from convinspect.render.style import BAD, GOOD, NAME, QUIET, WARN
from convinspect.render.table import Block, Cell, Column, Styled, Table, pieces
from convinspect.showing.flags import by_reader, flagged
from convinspect.text import more_are, plural

_COLUMNS = (
    Column("level", priority=80, foldable=True, key="level"),
    Column("code", style=NAME, priority=90, key="code"),
    Column("where", style=QUIET, priority=60, wrap=True, key="where", min_width=18),
    Column("what", priority=100, wrap=True, key="message", min_width=18),
)
_STYLES = {"error": BAD, "warning": WARN, "note": ""}
_MOST_ROWS = 200


def check_tables(reports: Sequence[Report], kept: bool = False) -> list[Table | Block]:
    """A table for each path; then a summary of all.

    Args:
        reports: Reports, one for each path.
        kept: Whether the tables are saved to a file. Otherwise "unreadable" findings, which go to stderr, are left out.
    """
    names = Counter(short_name(report.path) for report in reports)
    shown: list[Table | Block] = [
        _table(report, short_name(report.path) if names[short_name(report.path)] == 1 else str(report.path), kept)
        for report in reports
        if _rows(report, kept) or report.exit_code < 2
    ]
    if len(reports) > 1:
        shown.append(Block((_sum(reports),)))
    return shown


def verdict_lines(reports: Sequence[Report]) -> tuple[Cell, ...]:
    """What the check comes to: of a file, or of many together."""
    if len(reports) > 1:
        return (_sum(reports),)
    return tuple((Styled(f"{short_name(report.path)}: "), *pieces(_verdict(report))) for report in reports)


def _rows(report: Report, kept: bool) -> list[Finding]:
    return [finding for finding in report.findings if kept or finding.code != "unreadable"]


def _table(report: Report, name: str, kept: bool) -> Table:
    rows = _rows(report, kept)
    left = len(rows) - _MOST_ROWS
    form = f" · {report.format}" if report.format else ""
    return Table(
        _COLUMNS if rows else (),
        [_row(finding, report) for finding in rows[:_MOST_ROWS]],
        title=f"{name}{form}",
        summary=(_verdict(report), *_looked_at(report)),
        notes=(
            *([f"{more_are(left, 'finding')} not shown{_where()}"] if left > 0 else []),
            *_advice(rows),
            *map(flagged, report.notes),
        ),
        raw=[(finding.level, finding.code, place_of(finding, report), finding.message) for finding in rows],
    )


def _where() -> str:
    """Where the findings are that have no row."""
    return by_reader(f"; --format json lists the first {MOST_LISTED:,} of each code", "; .findings has them")


def _row(finding: Finding, report: Report) -> tuple[Cell, ...]:
    # For these names the code already says the rest of the message.
    what = finding.subject if finding.code in ("global-library", "global-unknown") else finding.message
    return (Styled(finding.level, _STYLES[finding.level]), finding.code, place_of(finding, report), what)


def place_of(finding: Finding, report: Report) -> str:
    """File (if it is not the one that was given), record and byte."""
    place = finding.place
    parts = [short_name(finding.path)] if finding.path != report.path else []
    parts += [place.record] if place.record else []
    if place.offset is not None:
        parts.append(f"byte {count(place.offset)}")
    elif place.in_file is not None:
        parts.append(f"byte {count(place.in_file)} of the file")
    return ", ".join(parts) or "–"


def _verdict(report: Report) -> Cell:
    if report.exit_code == 2:
        return Styled("could not be read as a whole, so nothing is said of the rest", BAD)
    levels = Counter[str](finding.level for finding in report.findings)
    for code, number in report.unlisted.items():
        levels[CODES[code].level] += number
    parts = [plural(number, level) for level in ("error", "warning") if (number := levels[level])]
    return Styled(" and ".join(parts), BAD if levels["error"] else WARN) if parts else Styled("nothing found", GOOD)


def _looked_at(report: Report) -> Iterator[str]:
    looked = report.looked
    parts = []
    if looked["records"]:
        sums = looked["crcs"] - sum(finding.code == "wrong-crc" for finding in report.findings)
        parts.append(f"{count(sums)} of {plural(looked['records'], 'record')}, CRC-32 right")
    if looked["pickles"]:
        parts.append(f"{plural(looked['names'], 'name')} in {plural(looked['pickles'], 'pickle')}, {_beyond(report)}")
    elif report.exit_code < 2:
        parts.append("no pickle, so loading it calls nothing that the file names")
    if looked["tensors"]:
        parts.append(f"the numbers of {plural(looked['tensors'], 'tensor')}")
    if parts:
        yield f"looked at: {' · '.join(parts)}"


_NOT_LOADED = (Container.PICKLE, Container.JOBLIB, Container.NUMPY_ARCHIVE, Container.NUMPY_ARRAY)
"""What torch.load does not read, so that it is of no use to say what that admits."""


_OF_THEIR_OWN = (Container.TORCH_SCRIPT, Container.SCRIPT_UNPACKED, Container.DISTRIBUTED)
"""What has readers of its own in PyTorch."""


def _beyond(report: Report) -> str:
    beyond = report.looked["names"] - report.looked["admitted"]
    if beyond:
        return f"{count(beyond)} beyond what torch.load(weights_only=True) admits"
    own = report.container in (*_OF_THEIR_OWN, *_NOT_LOADED)
    return "all ordinary there" if own else "all of which torch.load(weights_only=True) admits"


def _advice(rows: Iterable[Finding]) -> Iterator[str]:
    """The meaning and the remedy of each code, once."""
    for code, remedy in dict.fromkeys((finding.code, finding.remedy) for finding in rows):
        meaning = CODES[code].meaning.rstrip(".")
        yield f"{code}: {_lowered(meaning)}; {remedy}"


def _lowered(sentence: str) -> str:
    """The sentence with its first word in lower case, unless that is a name."""
    first = sentence.partition(" ")[0]
    return sentence[:1].lower() + sentence[1:] if first[1:].islower() or len(first) == 1 else sentence


def _sum(reports: Sequence[Report]) -> Cell:
    codes = [report.exit_code for report in reports]
    parts = [
        Styled(f"{count(len(reports))} paths: "),
        Styled(f"{count(codes.count(0))} with nothing found", GOOD if codes.count(0) else ""),
        Styled(", "),
        Styled(f"{count(codes.count(1))} with findings", WARN if codes.count(1) else ""),
        Styled(", "),
        Styled(f"{count(codes.count(2))} could not be read", BAD if codes.count(2) else ""),
    ]
    return tuple(parts)


def check_payload(reports: Sequence[Report]) -> dict[str, Any]:
    """The JSON of `check`; an offset is null if there is no single place."""
    return {
        "exit_code": worst(reports),
        "admitted_by": f"torch {TAKEN_FROM}",
        "files": [
            {
                "path": str(report.path),
                "format": report.format,
                "exit_code": report.exit_code,
                "findings": [finding_payload(finding) for finding in report.findings],
                "looked_at": dict(report.looked),
                "notes": [flagged(note) for note in report.notes],
            }
            for report in reports
        ],
    }


def finding_payload(finding: Finding) -> dict[str, Any]:
    """One finding of the JSON contract."""
    return {
        "code": finding.code,
        "level": finding.level,
        "path": str(finding.path),
        "record": finding.place.record,
        "offset": finding.place.offset,
        "length": finding.place.length,
        "file_offset": finding.place.in_file,
        "name": finding.subject,
        "message": finding.message,
        "remedy": finding.remedy,
    }
