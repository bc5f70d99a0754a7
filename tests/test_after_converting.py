"""docs/after-converting.md is what its script writes, and still holds where the same packages are installed."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from typing import Any

import pytest

from support.paths import ROOT

sys.path.append(str(ROOT / "docs"))
script: Any = import_module("after_converting")

RECORDS: dict[str, dict[str, Any]] = json.loads(script.RECORDS.read_text(encoding="utf-8"))
ROWS = script.rows()


def test_the_page_is_what_the_records_say() -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(RECORDS)


def test_each_row_of_the_script_is_recorded() -> None:
    assert [row.title for row in ROWS] == list(RECORDS)


def without_figures(cells: list[str]) -> list[str]:
    """Errors differ from processor to processor in the last digits; what is said of them does not."""
    return [re.sub(r"\d[\d,.]*", "#", cell) for cell in cells]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_what_the_page_says_holds(row: Any) -> None:
    recorded = RECORDS[row.title]
    here = script.versions(row.packages)
    if here is None:
        pytest.skip(f"not installed: one of {', '.join(row.packages)}")
    if here != recorded["versions"]:
        pytest.skip(f"recorded with {recorded['versions']}, here are {here}: run docs/after_converting.py")
    assert without_figures(script.measured(row)["cells"]) == without_figures(recorded["cells"])


def test_a_row_without_its_packages_keeps_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "versions", lambda packages: None)
    assert script.update(RECORDS, None) == RECORDS
