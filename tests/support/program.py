"""The program as a user runs it: whole processes, their output, and how they end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from support.fork_server import ForkServer


def run(
    *arguments: object,
    folder: Path | None = None,
    stdin: str | None = None,
    env: dict[str, str] | None = None,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """One call of the program; its output as text.

    Args:
        arguments: As on the command line.
        folder: Where it is called; the current one when None.
        stdin: What it can read; nothing when None.
        env: Variables to set beside those of this process.
        fresh: Start Python anew, for tests about that. Else the process is forked from one that has imported
            everything, which is faster by seconds, unless `env` is given: some variables are read at import.
    """
    words = [os.fsdecode(word) if isinstance(word, Path) else str(word) for word in arguments]
    where = os.path.abspath(folder or Path.cwd())
    data = None if stdin is None else stdin.encode()
    if fresh or env or sys.platform != "linux":
        started = [sys.executable, "-m", "convinspect", *words]
        variables = {**os.environ, "PYTHONIOENCODING": "utf-8", **(env or {})}
        ended = subprocess.run(started, cwd=where, capture_output=True, input=data, env=variables, timeout=120)
    else:
        ended = _fork_server(os.getpid(), needs_torch(words)).run(words, where, data)
    return subprocess.CompletedProcess(ended.args, ended.returncode, _text(ended.stdout), _text(ended.stderr))


def needs_torch(words: Sequence[str]) -> bool:
    """Whether a command is one that loads PyTorch; another that does imports it itself, which takes seconds."""
    if "--bits" in words:
        return False
    return not _WITH_TORCH.isdisjoint(words) or ("convert" in words and _saves_anew(words))


def _saves_anew(words: Sequence[str]) -> bool:
    """Whether `convert` has PyTorch write the file: tensors that it calculates, or that were in another format."""
    if not _ANEW.isdisjoint(words):
        return True
    ends = [words[at + 1] for at, word in enumerate(words[:-1]) if word in ("convert", "-o", "--output")]
    return len({end.endswith(".safetensors") for end in ends}) == 2


_WITH_TORCH = frozenset(("verify", "compare", "explain", "--model"))
_ANEW = frozenset(("--state-dict", "--fuse"))
_servers: dict[tuple[int, bool], ForkServer] = {}


def _fork_server(process: int, with_torch: bool) -> ForkServer:
    """The one of this process, which is given so that no child shares its parent's."""
    which = process, with_torch
    if which not in _servers:
        _servers[which] = ForkServer(with_torch)
    return _servers[which]


def end_fork_servers() -> None:
    """End those of this process, where they were ever started."""
    for which in [which for which in _servers if which[0] == os.getpid()]:
        _servers.pop(which).close()


def _text(output: bytes) -> str:
    return output.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def command(folder: Path, *arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """One call of the program in that folder."""
    return run(*arguments, folder=folder, stdin=stdin)


def listed(path: Path, *options: object) -> dict[str, dict[str, object]]:
    """`shapes --format json`, layers by name."""
    result = run("shapes", path, "--format", "json", *options)
    assert result.returncode == 0, result.stderr
    return {layer["name"]: layer for layer in json.loads(result.stdout)["layers"]}


def without_wrote(stderr: str) -> str:
    """What the program said beside the line that names what it wrote."""
    return re.sub("^wrote .*\n", "", stderr, count=1, flags=re.MULTILINE)


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """The user can fix it: exit code 2, one line on stderr that holds `words`, no traceback."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr
