"""The program as a user runs it: whole processes, their output, and how they end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.fork_server import ForkServer


def run(
    *arguments: object,
    folder: Path | None = None,
    stdin: str | None = None,
    env: dict[str, str] | None = None,
    fresh: bool = False,
    with_torch: bool | None = None,
) -> subprocess.CompletedProcess[str]:
    """One call of the program; its output as text.

    Args:
        arguments: As on the command line.
        folder: Where it is called; the current one when None.
        stdin: What it can read; nothing when None.
        env: Variables to set beside those of this process.
        fresh: Start Python anew, for tests about that. Else the process is forked from one that has imported
            everything, which is faster by seconds, unless `env` has variables that may be read at import.
        with_torch: Whether that process has imported PyTorch; None leaves it to the command.
    """
    words = [os.fsdecode(word) if isinstance(word, Path) else str(word) for word in arguments]
    where = os.path.abspath(folder or Path.cwd())
    data = None if stdin is None else stdin.encode()
    if fresh or (env and not env.keys() <= _READ_AT_EACH_USE) or sys.platform != "linux":
        started = [sys.executable, "-m", "convinspect", *words]
        variables = {**os.environ, "PYTHONIOENCODING": "utf-8", **(env or {})}
        ended = subprocess.run(started, cwd=where, capture_output=True, input=data, env=variables, timeout=120)
    else:
        ended = _forked(words, where, data, {**os.environ, **(env or {})}, with_torch)
    return subprocess.CompletedProcess(ended.args, ended.returncode, _text(ended.stdout), _text(ended.stderr))


def _forked(
    words: Sequence[str], folder: str, stdin: bytes | None, env: Mapping[str, str], with_torch: bool | None
) -> subprocess.CompletedProcess[bytes]:
    # What one test module asks of a command is much the same each time.
    kind = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0], words[0] if words else ""
    if with_torch is None:
        with_torch = kind in _importing or needs_torch(words)
    server = fork_server(os.getpid(), with_torch)
    ended = server.run(words, folder, stdin, environment=env)
    if server.imported_torch:
        _importing.add(kind)
    return ended


def needs_torch(words: Sequence[str]) -> bool:
    """Whether a command is known to load PyTorch: others may do so, too."""
    if "--bits" in words:
        return False
    return not _WITH_TORCH.isdisjoint(words) or ("convert" in words and _saves_anew(words))


def _saves_anew(words: Sequence[str]) -> bool:
    """Whether `convert` has PyTorch write the file: tensors that it calculates, or that were in another format."""
    if not _ANEW.isdisjoint(words):
        return True
    ends = [words[at + 1] for at, word in enumerate(words[:-1]) if word in ("convert", "-o", "--output")]
    return len({end.endswith(".safetensors") for end in ends}) == 2


_ANEW = frozenset(("--state-dict", "--fuse"))
_WITH_TORCH = frozenset(("verify", "compare", "explain", "--model"))
_importing: set[tuple[str, str]] = set()
"""Test modules, and commands that imported PyTorch there; a server that has it spares them a second or two."""
_READ_AT_EACH_USE = frozenset((
    "COLUMNS", "TERM", "FORCE_COLOR", "NO_COLOR", "COMP_WORDS", "COMP_CWORD", "_CONVINSPECT_COMPLETE",
    "_TYPER_COMPLETE_ARGS", "_TYPER_COMPLETE_FISH_ACTION",
))  # fmt: skip
"""Variables that change what a process does that has imported everything."""
_servers: dict[tuple[int, bool], ForkServer] = {}


def fork_server(process: int, with_torch: bool) -> ForkServer:
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
