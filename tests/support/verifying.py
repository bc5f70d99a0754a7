"""What `verify` finds of two files or objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.in_memory import applied
from convinspect.converting.plan import Request, plan
from convinspect.layers.find import find_layers
from convinspect.verifying.findings import Report
from convinspect.verifying.options import VerifyOptions
from convinspect.verifying.verify import verify
from support import in_process, program


def report_of(before: Path, after: Path | None = None, **options: Any) -> Report:
    """What `verify` finds, in outputs too unless told otherwise; without `after`, converted in memory."""
    checkpoint = open_checkpoint(before)
    verify_options = VerifyOptions(**options)
    if after is None:
        planned = plan(find_layers(checkpoint), Request("Linear"))
        return verify(checkpoint, applied(checkpoint, planned.edits), verify_options)
    return verify(checkpoint, open_checkpoint(after), verify_options)


def report_of_objects(tmp_path: Path, before: Any, after: Any, **options: Any) -> Report:
    """The same of two objects, saved."""
    torch.save(before, tmp_path / "before.pt")
    torch.save(after, tmp_path / "after.pt")
    return report_of(tmp_path / "before.pt", tmp_path / "after.pt", **options)


def command(folder: Path, *words: str) -> tuple[int, Any]:
    """The exit code of `convinspect verify` in a folder, and its JSON, or its stderr where it printed none."""
    # Modules of models stay imported in the process that runs them.
    run = program.run if any(word.startswith("--model") for word in words) else in_process.run
    result = run("verify", *words, "--format", "json", folder=folder)
    assert "Traceback" not in result.stderr
    return result.returncode, json.loads(result.stdout) if result.stdout else result.stderr
