"""The program as a user runs it: whole processes, their output, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def run(
    *arguments: object, env: dict[str, str] | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """One call of the program; its output as text."""
    return subprocess.run(
        [sys.executable, "-m", "convinspect", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        input=stdin,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **(env or {})},
        timeout=120,
    )


def listed(path: Path, *options: object) -> dict[str, dict[str, object]]:
    """`shapes --format json`, layers by name."""
    result = run("shapes", path, "--format", "json", *options)
    assert result.returncode == 0, result.stderr
    return {layer["name"]: layer for layer in json.loads(result.stdout)["layers"]}


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """The user can fix it: exit code 2, one line on stderr that holds `words`, no traceback."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr


def command(folder: Path, *words: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "convinspect", *map(str, words)],
        cwd=folder, capture_output=True, text=True, timeout=120, input=stdin,
    )  # fmt: skip
