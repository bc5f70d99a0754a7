"""Tests see the program through forked processes: these are no different from processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import STNKD
from support.program import fork_server, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each run is a process of its own anyway")

LINE = f"convinspect weights {STNKD}"
ERROR = (
    "size mismatch for conv1.weight: copying a param with shape torch.Size([16, 8, 1]) from checkpoint, "
    "the shape in current model is torch.Size([16, 8])."
)


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (("shapes", STNKD, "--all"), None),
        (("shapes", "absent.pt"), None),
        (("shapes", STNKD, "--no-such-option"), None),
        (("diff", STNKD, "--error", "-"), ERROR),
        (("diff", STNKD, "--error", "-"), None),
        (("convert", STNKD, "--to", "linear", "-o", "b.safetensors"), None),
        (("verify", STNKD, "--model", "leaves:make"), None),
        (("--help",), None),
    ],
    ids=lambda value: " ".join(map(str, value[:1])) if isinstance(value, tuple) else "",
)
def test_output_and_exit_code_are_those_of_a_new_process(
    tmp_path: Path, words: tuple[str, ...], stdin: str | None
) -> None:
    ends = []
    for fresh in (False, True):
        folder = tmp_path / str(fresh)
        folder.mkdir()
        (folder / "leaves.py").write_text("import os\nprint('there', flush=True)\nos._exit(77)\n")
        ended = run(*words, folder=folder, stdin=stdin if stdin else "", fresh=fresh)
        written = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        ends.append((ended.returncode, ended.stdout, ended.stderr, written))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (("shapes", "--help"), {"COLUMNS": "72"}),
        (("shapes", STNKD), {"FORCE_COLOR": "1", "NO_COLOR": ""}),
        (("weights", STNKD, "conv1", "--heatmap"), {"FORCE_COLOR": "1", "TERM": "xterm-256color"}),
        (("shapes", "absent.pt"), {"FORCE_COLOR": "1"}),
        ((), {"_CONVINSPECT_COMPLETE": "complete_bash", "COMP_WORDS": f"{LINE} fc", "COMP_CWORD": "3"}),
        ((), {"_CONVINSPECT_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"{LINE} fc"}),
    ],
)  # fmt: skip
def test_variables_count_as_in_a_new_process(words: tuple[str, ...], env: dict[str, str]) -> None:
    ends = [run(*words, env=env, fresh=fresh) for fresh in (False, True)]
    assert (ends[0].returncode, ends[0].stdout, ends[0].stderr) == (
        ends[1].returncode,
        ends[1].stdout,
        ends[1].stderr,
    )
    assert ends[0].stdout != run(*words).stdout or ends[0].stderr != run(*words).stderr, "they change something"


def test_one_that_takes_too_long_is_killed_and_the_next_one_runs(tmp_path: Path) -> None:
    server = fork_server(os.getpid(), with_torch=False)
    os.mkfifo(tmp_path / "text")
    words = ["diff", str(STNKD), "--error", "text"]
    with pytest.raises(subprocess.TimeoutExpired):
        server.run(words, str(tmp_path), timeout=0.5)
    assert server.run(["--version"], str(tmp_path)).stdout.startswith(b"convinspect ")
