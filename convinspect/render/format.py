"""The formats of results, in a module of their own because the command line needs the names before anything else."""

from __future__ import annotations

from enum import Enum


class Format(str, Enum):
    """How results are written."""

    table = "table"
    json = "json"
    csv = "csv"
    md = "md"
