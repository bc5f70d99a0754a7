"""Findings of `check` as SARIF 2.1.0 (OASIS, 2020), the format in which code hosts import analysis results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from convinspect import __version__
from convinspect.checking.findings import CODES, Finding, Report, worst
from convinspect.render.cells import safe

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_HOME = "https://github.com/convinspect/convinspect"


def sarif_payload(reports: Sequence[Report]) -> dict[str, Any]:
    """One run with all findings; what could not be read is both a result and a failed invocation."""
    findings = [finding for report in reports for finding in report.findings]
    rules = list(dict.fromkeys(finding.code for finding in findings))
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "convinspect",
                        "version": __version__,
                        "informationUri": _HOME,
                        "rules": [_rule(code) for code in rules],
                    }
                },
                "invocations": [{"executionSuccessful": worst(reports) < 2, "exitCode": worst(reports)}],
                "results": [_result(finding, rules.index(finding.code)) for finding in findings],
            }
        ],
    }


def _rule(name: str) -> dict[str, Any]:
    code = CODES[name]
    return {
        "id": name,
        "shortDescription": {"text": code.meaning},
        "help": {"text": f"{code.remedy[:1].upper()}{code.remedy[1:]}."},
        "defaultConfiguration": {"level": code.level},
    }


def _result(finding: Finding, rule: int) -> dict[str, Any]:
    place = finding.place
    physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(finding.path)}}
    if place.in_file is not None:
        physical["region"] = {"byteOffset": place.in_file}
        if place.length is not None:
            physical["region"]["byteLength"] = place.length
    location: dict[str, Any] = {"physicalLocation": physical}
    if place.record:
        location["logicalLocations"] = [{"fullyQualifiedName": safe(place.record), "kind": "member"}]
    record = f"{place.record}: " if place.record else ""
    return {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": finding.level,
        "message": {"text": safe(f"{record}{finding.message}; {finding.remedy}")},
        "locations": [location],
    }


def _uri(path: Path) -> str:
    """A path as a URI reference, relative where the path is."""
    return path.as_uri() if path.is_absolute() else quote(os.fsencode(path.as_posix()))
