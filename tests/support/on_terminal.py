"""Programs on a terminal of their own, by the standard library alone (not on Windows)."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios


def on_terminal(
    *words: object,
    columns: int = 80,
    env: dict[str, str] | None = None,
    piped: str = "",
    program: str = sys.executable,
) -> str:
    """What a program writes on a terminal of 256 colours until it ends.

    Args:
        words: Its arguments.
        columns: Width of the terminal.
        env: Variables to set beside those of this process.
        piped: "stdout" or "stderr" if that one does not go to the terminal; it is not returned then.
        program: What is run; Python by default.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name not in _ABOUT_COLOUR}
    variables = {**plain, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **(env or {})}
    out, err = (subprocess.DEVNULL if piped == name else theirs for name in ("stdout", "stderr"))
    with subprocess.Popen(
        [program, *map(str, words)], env=variables, start_new_session=True, stdin=theirs, stdout=out, stderr=err
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                # How Linux says that the other side is closed.
                break
            if not part:
                break
            written += part
        process.wait(timeout=60)
    os.close(ours)
    return written.decode("utf-8")


_ABOUT_COLOUR = ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "LINES")
