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
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.program import fork_server

STARTED = {
    "bash": ["bash", "--noprofile", "-i"],
    "zsh": ["zsh", "-i"],
    "fish": ["fish", "-i"],
}
"""How each shell is started for a person, who has a home and its settings there."""

_PROGRAM = """#!/bin/sh
[ -n "$_CONVINSPECT_COMPLETE" ] && exec {python} {completes} "$@"
case "$1" in --install-completion|--show-completion) exec {python} -m convinspect "$@" ;; esac
exec {python} -S -c 'import json, sys; print("ARGS" + json.dumps(sys.argv[1:]) + "END")' "$@"
"""
"""Stands in for the program: completes as it does, and prints what else it is given."""

_CLIENT = """
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
with connection.makefile("rw") as stream:
    json.dump([sys.argv[2:], os.getcwd(), dict(os.environ)], stream)
    stream.write("\\n")
    stream.flush()
    code, out, err = json.load(stream)
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


def put_program(folder: Path, completed_by: Path | None = None) -> None:
    """Make `convinspect` in a folder for `PATH`, a program that says what the shell gave it.

    Args:
        folder: For which it is made, as `folder / "convinspect"`.
        completed_by: The socket of `completing`, whose answers to Tab take a tenth of the time; a new Python when None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    completes = "-m convinspect"
    if completed_by is not None:
        completes = f"-S -c {shlex.quote(_CLIENT)} {shlex.quote(str(completed_by))}"
    made = folder / "convinspect.new"
    made.write_text(_PROGRAM.format(python=shlex.quote(sys.executable), completes=completes))
    made.chmod(0o755)
    # A shell reads a script while it runs it.
    made.replace(folder / "convinspect")


@contextmanager
def completing(path: Path) -> Iterator[None]:
    """Answers the programs of `put_program` at this socket, each by a fork of a process that has imported all."""

    def serve() -> None:
        while True:
            connection = listening.accept()[0]
            with connection, connection.makefile("rw") as stream:
                asked = stream.readline()
                if not asked:
                    return
                words, folder, variables = json.loads(asked)
                ended = fork_server(os.getpid(), False).run(words, folder, environment=variables)
                json.dump([ended.returncode, ended.stdout.decode(), ended.stderr.decode()], stream)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            serving.join()


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
