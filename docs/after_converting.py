"""Measures what other tools do with the forms of a pointwise layer: `python docs/after_converting.py`.

Each row is run where its packages are installed; the others keep what was recorded of them last, with the versions of
then. `--only torch` runs the rows that need no other package, `--page` writes the page from the records alone.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
PAGE, RECORDS = ROOT / "after-converting.md", ROOT / "after" / "records.json"

Records = dict[str, dict[str, Any]]
"""By the row's title: `table`, `cells` (three texts), `versions` by package, `date`."""

INTRODUCTION = """\
# After converting

Made by `docs/after_converting.py`; do not edit.

A converted layer gives the same outputs. What the next tool does with it may differ, since many tools look at a layer's
class, or at how many dimensions its weight has. Each row was run on one layer in three forms with the same numbers.
Errors are relative to the outputs of the layer in float. "Left in float" comes without an exception, mostly without a
warning.
"""

HEAD = "| {} | Conv1d, k = 1 | Conv2d, 1×1 | Linear | with |\n|---|---|---|---|---|"

TABLES = {
    "wants": "## Who wants which form\n\n" + HEAD.format("tool"),
    "behaves": """\
## What behaves differently afterwards

Optimizers start from the same numbers and see the same data. Named are those whose weights end elsewhere than the
Linear's: by how much, in percent of the way that the Linear's went. The others differ by less than 0.1 %.

"""
    + HEAD.format("what"),
}

AGAIN = """\
## Run it again

```sh
python docs/after_converting.py
```

It runs each row whose packages are installed, in about two minutes, and writes this page. The others keep their last
result, with the versions of then. `--only torch` takes the rows that need nothing but PyTorch.
"""


def rows() -> list[Any]:
    """Every row, in the page's order; PyTorch is imported here."""
    from after import afterwards, optimizers, takers

    return [*takers.ROWS, *optimizers.ROWS, *afterwards.ROWS]


def versions(packages: Iterable[str]) -> dict[str, str] | None:
    """Of each distribution, without the build's name; None when one is not installed."""
    try:
        return {name: metadata.version(name).partition("+")[0] for name in packages}
    except metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars, logs and warnings of a dozen libraries."""
    logging.disable(logging.WARNING)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def measured(row: Any) -> dict[str, Any] | None:
    """A row's record as of today; None when a package is missing."""
    found = versions(row.packages)
    if found is None:
        return None
    with quiet():
        cells = list(row.measure())
    return {"table": row.table, "cells": cells, "versions": found, "date": datetime.date.today().isoformat()}


def update(records: Records, only: str | None) -> Records:
    """The records in the page's order, with the rows that could be run measured anew."""
    kept: Records = {}
    for row in rows():
        wanted = only is None or row.packages == (only,)
        record = measured(row) if wanted else None
        if record is None and wanted:
            print(f"{row.title}: not run, for lack of {', '.join(row.packages)}", file=sys.stderr)
        record = record or records.get(row.title)
        if record is not None:
            kept[row.title] = record
    return kept


def page(records: Records) -> str:
    """The page, in Markdown."""
    parts = [INTRODUCTION]
    for table, head in TABLES.items():
        lines = [_line(title, record) for title, record in records.items() if record["table"] == table]
        parts.append("\n".join([head, *lines]) + "\n")
    return "\n".join([*parts, AGAIN, _dates(records)])


def _line(title: str, record: dict[str, Any]) -> str:
    used = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if name != "torch")
    torch = f"torch {record['versions']['torch']}"
    return f"| {title} | {' | '.join(record['cells'])} | {used or torch} |"


def _dates(records: Records) -> str:
    torch = sorted({record["versions"]["torch"] for record in records.values()})
    days = sorted({record["date"] for record in records.values()})
    return f"Run on {', '.join(days)} with torch {', '.join(torch)} on the CPU.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", metavar="PACKAGE", help="run only the rows that need this package and no other")
    parser.add_argument("--page", action="store_true", help="run nothing; write the page from the records")
    options = parser.parse_args()
    records: Records = json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else {}
    if not options.page:
        records = update(records, options.only)
        RECORDS.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(records), encoding="utf-8")


if __name__ == "__main__":
    main()
