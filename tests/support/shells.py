"""Real shells on terminals of their own: what the Tab key makes of a line, by the standard library alone."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path

STARTED = {
    "bash": ["bash", "--noprofile", "-i"],
    "zsh": ["zsh", "-i"],
    "fish": ["fish", "-i"],
}
"""How each shell is started for a person, who has a home and its settings there."""

_PROGRAM = """#!/bin/sh
[ -n "$_CONVINSPECT_COMPLETE" ] && exec {python} -m convinspect "$@"
case "$1" in --install-completion|--show-completion) exec {python} -m convinspect "$@" ;; esac
exec {python} -S -c 'import json, sys; print("ARGS" + json.dumps(sys.argv[1:]) + "END")' "$@"
"""
"""Stands in for the program: completes as it does, and prints what else it is given."""


def put_program(folder: Path) -> None:
    """Make `convinspect` in a folder for `PATH`, a program that says what the shell gave it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "convinspect").write_text(_PROGRAM.format(python=shlex.quote(sys.executable)))
    (folder / "convinspect").chmod(0o755)


class Shell:
    """A shell that a person types into.

    Args:
        name: Which: "bash", "zsh" or "fish".
        folder: Where it is.
        env: Its variables, `HOME` and `PATH` among them.
    """

    def __init__(self, name: str, folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.written = ""
        # At a person's first start, fish reads all manual pages of the machine in the background, for half a minute.
        data = env.get("XDG_DATA_HOME", f"{env['HOME']}/.local/share")
        (Path(data) / "fish" / "generated_completions").mkdir(parents=True, exist_ok=True)
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.chdir(folder)
            os.execvpe(STARTED[name][0], STARTED[name], dict(env))
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 250, 0, 0))

    def type(self, keys: str) -> None:
        """Press keys: "\\t" is Tab, "\\n" is Enter."""
        data = keys.replace("\n", "\r").encode()
        while data:
            data = data[os.write(self._terminal, data) :]

    def wait_for(self, pattern: str, seconds: float = 20) -> re.Match[str]:
        """Read what is written until it matches; what comes after the match is kept for the next call."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.written, re.DOTALL)) is None:
            ready = select.select([self._terminal], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, f"waited for {pattern!r} in {self.written!r}"
            self.written += os.read(self._terminal, 65536).decode("utf-8", "replace")
        self.written = self.written[found.end() :]
        return found

    def given(self, keys: str) -> list[str]:
        """The arguments that the program gets when these keys are pressed, and Enter."""
        self.type(f"{keys}\n")
        given: list[str] = json.loads(self.wait_for(r"ARGS(\[[^\n]*?\])END")[1])
        return given

    def close(self) -> None:
        """End it."""
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._terminal)
