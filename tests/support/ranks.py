"""Commands under torchrun: the real one, and its ranks as children of a process that has imported PyTorch already."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.faults import Ended, Program, Run
from support.paths import ROOT

torch_store = pytest.importorskip("torch.distributed").TCPStore


def torchrun(ranks: int, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """One call of the program by torchrun."""
    started = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "-m", "convinspect"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [*started, *map(str, words)], cwd=folder, env=variables, capture_output=True, text=True, timeout=120
    )


def complaints(stderr: str) -> list[str]:
    """The lines of the program, among those of torchrun."""
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


def run_ranks(
    program: Program, *words: object, ranks: int = 2, of_rank: Mapping[int, Mapping[str, Any]] | None = None
) -> list[Ended]:
    """The ranks of one command, on machines of their own, so that nothing but their connections says how others fare.

    Args:
        program: Of whose children they are.
        words: As on the command line.
        ranks: How many.
        of_rank: Fields of `Run` for some.
    """
    store = torch_store("localhost", 0, is_master=True, wait_for_workers=False)
    alike: dict[str, Any] = {"arguments": tuple(map(str, words))}
    runs = [
        Run(variables=tuple(_variables(rank, ranks, store.port).items()), **{**alike, **(of_rank or {}).get(rank, {})})
        for rank in range(ranks)
    ]
    return program.at_once(*runs)


def _variables(rank: int, ranks: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": "0",
        "GROUP_RANK": str(rank),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "a test",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
