"""One of a thing is said in the singular, and several in the plural, in whatever stands around a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import convinspect
from convinspect.checking.findings import Report as CheckReport
from convinspect.converting.job import Job
from convinspect.diffing.differences import DiffReport
from convinspect.diffing.fixes import ErrorReport
from convinspect.layers.find import find_layers
from convinspect.layers.folding import unfolded
from convinspect.render.table import Block, Table, plain
from convinspect.showing.check import check_tables
from convinspect.showing.convert import plan_table
from convinspect.showing.diff import difference_table
from convinspect.showing.footnotes import note_on_more
from convinspect.showing.load_error import error_table
from convinspect.showing.shapes import listing_table
from convinspect.showing.verify import names_of, verdict_table
from convinspect.verifying.findings import Report as VerifyReport
from support.every_record import of_many_rows, records

NOUNS = (
    "layer", "tensor", "parameter", "number", "key", "record", "pickle", "name", "row", "column", "line", "finding",
    "error", "warning", "module", "file", "path", "shape", "dtype", "rank", "value", "output", "reason", "byte",
    "kernel", "channel", "thread", "root", "prefix", "square matri", "cop", "patch",
)  # fmt: skip
_ENDS = {"square matri": ("x", "ces"), "cop": ("y", "ies"), "patch": ("", "es"), "prefix": ("", "es")}
_COUNT = r"(?<![\w.,:×%/-])({number}) ((?:more |other |optimizer |conv and linear |square )*)({nouns})\b"


def _of(number: str, form: int) -> re.Pattern[str]:
    nouns = "|".join(noun + _ENDS.get(noun, ("", "s"))[form] for noun in NOUNS)
    return re.compile(_COUNT.format(number=number, nouns=nouns))


_ONE_OF_MANY, _MANY_OF_ONE = _of("1", 1), _of(r"0|[2-9]|\d[\d,]+", 0)
_VERBS = re.compile(r"(?<![\w.,])(?:1 \w+s (?:are|have|differ)\b|(?:0|[2-9]|\d[\d,]+) \w+ (?:is|has|differs)\b)")
_AGREE = re.compile(r"(?<![\w.,])(?:1 \w+ (?:are|have|differ|need)\b|(?:0|[2-9]|\d[\d,]+) \w+s (?:is|has|differs)\b)")


def faults(text: str) -> list[str]:
    """Where a number and what follows it do not agree."""
    return [found[0] for pattern in (_ONE_OF_MANY, _MANY_OF_ONE, _VERBS, _AGREE) for found in pattern.finditer(text)]


def drawn(record: Any) -> list[Table | Block]:
    if isinstance(record, convinspect.Checkpoint):
        layers = find_layers(record)
        return [listing_table(record, layers, unfolded(layers), every) for every in (True, False)]
    tables: dict[type, Any] = {
        DiffReport: difference_table,
        ErrorReport: error_table,
        Job: plan_table,
        VerifyReport: lambda report: verdict_table(report, names_of(report)),
        CheckReport: lambda report: check_tables([report], kept=True),
    }
    made = tables[type(record)](record)
    return [made] if isinstance(made, Table) else list(made)


def around(table: Table | Block) -> Iterator[str]:
    """What stands around a table's rows."""
    if isinstance(table, Table):
        yield from map(plain, (*table.lead, *table.summary))
    else:
        yield from map(plain, table.lines)
    yield from map(plain, table.notes)


def of_few(folder: Path) -> Iterator[Any]:
    """One and two of whatever may be wrong, or right."""
    for number in (1, 2):
        names = [f"l{place}" for place in range(number)]
        a: dict[str, Any] = {f"{name}.weight": torch.ones(2, 3, 1) for name in names}
        others: list[dict[str, Any]] = [
            {f"{name}.weight": torch.ones(2, 3) for name in names},
            {f"{name}.weight": torch.ones(2, 5, 1) for name in names},
            {f"{name}.weight": torch.ones(2, 3, 1).half() for name in names},
            {f"{name}.weight": torch.zeros(2, 3, 1) for name in names},
            {f"{name}.weight": torch.ones(3, 2, 1) for name in names},
            {f"{name}.weight": "text" for name in names} | {"other.weight": torch.ones(1)},
            {f"x.{name}.weight": torch.ones(2, 3, 1) for name in names},
            {f"y{name}.bias": torch.ones(1) for name in names},
        ]
        torch.save(a, folder / "a.pt")
        yield convinspect.check(folder / "a.pt", values=True)
        yield convinspect.open(folder / "a.pt")
        for other in others:
            torch.save(other, folder / "b.pt")
            for values in (False, True):
                yield convinspect.diff(folder / "a.pt", folder / "b.pt", values=values)
            yield convinspect.convert(folder / "a.pt", like=folder / "b.pt", dry_run=True)
            yield convinspect.verify(folder / "a.pt", folder / "b.pt", bits=True)


def test_a_number_and_its_noun_agree(tmp_path: Path) -> None:
    made = [*records(), *of_many_rows(tmp_path), *of_few(tmp_path)]
    shown = [record for record in made if type(record).__name__ != "Example"]
    said = {line for record in shown for table in drawn(record) for line in around(table)}
    said |= {note_on_more(number, 5) for number in (1, 2)}
    assert len(said) > 100
    assert {line: wrong for line in said if (wrong := faults(line))} == {}


@pytest.mark.parametrize(
    "wrong",
    ["1 layers converted", "2 layer left", "2 shape differs", "1 more rows not shown", "1,234 key",
     "1 of 1 records", "1 lines are not understood", "2 keys has", "1 square matrices may be"],
)  # fmt: skip
def test_a_number_that_does_not_agree_is_found(wrong: str) -> None:
    assert faults(wrong)


def test_what_agrees_is_not_complained_of() -> None:
    assert not faults("1 layer, 2 shapes differ, 1 shape differs, Conv1d: 1.5 MB, 1 square matrix may be; 0 layers")


def test_the_counts_of_diff_are_sentences(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2, 3), "b.weight": torch.ones(2, 4)}, tmp_path / "a.pt")
    torch.save({"a.weight": torch.ones(2, 5), "b.weight": torch.ones(2, 6)}, tmp_path / "b.pt")
    (counts,) = difference_table(convinspect.diff(tmp_path / "a.pt", tmp_path / "b.pt")).summary
    assert plain(counts) == "0 same · 2 shapes differ"
