"""`convinspect browse` as a process: where it starts, what it loads, how it ends."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.paths import FIXTURES, ROOT
from support.program import assert_one_line, run

pytest.importorskip("textual")
pty = pytest.importorskip("pty")

STNKD = FIXTURES / "pointnet_stnkd.pt"
LOADED = """
import atexit, sys
from convinspect.browsing.app import Browser
mounted = Browser.on_mount
def look(self):
    mounted(self)
    self.exit(message="LOADED " + " ".join(sorted(sys.modules)))
Browser.on_mount = look
sys.argv = ["convinspect", *sys.argv[1:]]
from convinspect.cli.main import main
main()
"""


class Terminal:
    """A process in a terminal of 100 × 30 cells."""

    def __init__(self, words: list[object], env: dict[str, str] | None = None) -> None:
        import fcntl
        import struct
        import termios

        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        variables = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **(env or {})}
        self.process = subprocess.Popen(
            list(map(str, words)), stdin=theirs, stdout=theirs, stderr=theirs, env=variables, start_new_session=True
        )
        os.close(theirs)
        self.seen = b""

    def wait_for(self, text: bytes, seconds: float = 30) -> None:
        """Read until a text is there, or the process has ended."""
        end = time.monotonic() + seconds
        while text not in self.seen and time.monotonic() < end and self._read():
            pass
        assert text in self.seen, self.seen[-2000:]

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def end(self, seconds: float = 30) -> int:
        """Its exit code, with all that it wrote read."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._read():
            pass
        return self.process.wait(5)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], 0.2)[0]:
            return self.process.poll() is None
        try:
            more = os.read(self._ours, 1 << 16)
        except OSError:
            return False
        self.seen += more
        return bool(more)


Starting = Callable[..., Terminal]


@pytest.fixture
def start() -> Iterator[Starting]:
    """Starts `convinspect browse` in a terminal."""
    started: list[Terminal] = []

    def begin(*words: object, env: dict[str, str] | None = None, code: str = "") -> Terminal:
        first = ["-c", code] if code else ["-m", "convinspect"]
        started.append(Terminal([sys.executable, *first, "browse", *words], env))
        return started[-1]

    yield begin
    for terminal in started:
        terminal.close()


def test_it_shows_the_model_and_gives_the_terminal_back(start: Starting) -> None:
    terminal = start(STNKD)
    terminal.wait_for(b"conv1")
    terminal.press(b"q")
    assert terminal.end() == 0
    # The other screen is left, and the cursor is back.
    assert terminal.seen.rindex(b"\x1b[?1049l") > terminal.seen.rindex(b"conv1")
    assert b"\x1b[?25h" in terminal.seen


def test_it_starts_without_torch_numpy_and_what_plans_conversions(start: Starting) -> None:
    terminal = start(STNKD, code=LOADED)
    assert terminal.end() == 0
    names = set(terminal.seen.rpartition(b"LOADED ")[2].decode().split())
    assert "textual.app" in names
    packages = {name.partition(".")[0] for name in names}
    assert not packages & {"torch", "numpy", "pydantic", "safetensors"}
    assert not {"convinspect.converting.plan", "convinspect.arrays.read", "convinspect.cli.shapes"} & names


@pytest.mark.parametrize("env", [{}, {"TERM": "dumb"}])
def test_without_a_terminal_it_says_so(env: dict[str, str]) -> None:
    assert_one_line(run("browse", STNKD, env=env, fresh=True), "browse needs a terminal; convinspect shapes")


def test_a_terminal_without_abilities_is_none(start: Starting) -> None:
    terminal = start(STNKD, env={"TERM": "dumb"})
    assert terminal.end() == 2
    assert b"browse needs a terminal" in terminal.seen


def test_without_textual_it_names_the_command_that_installs_it(start: Starting, tmp_path: Path) -> None:
    (tmp_path / "textual.py").write_text("raise ModuleNotFoundError(\"No module named 'textual'\", name='textual')\n")
    terminal = start(STNKD, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert terminal.end() == 2
    line = b"error: browse needs textual, which is not installed; python -m pip install textual"
    plain = terminal.seen.replace(b"\x1b[1;31m", b"").replace(b"\x1b[0m", b"")
    assert plain == line + b"\r\n"


@pytest.mark.parametrize(
    ("words", "error"),
    [(("nowhere.pt",), b"nowhere.pt"), ((STNKD, "--root", "ema"), b"ema"), ((Path(__file__),), b"test_browse.py")],
)
def test_what_cannot_be_opened_is_one_line_as_for_every_command(
    start: Starting, words: tuple[object, ...], error: bytes
) -> None:
    terminal = start(*words)
    assert terminal.end() == 2
    assert error in terminal.seen
    assert b"Traceback" not in terminal.seen
    assert b"\x1b[?1049h" not in terminal.seen


def test_an_error_of_ours_is_reported_where_the_terminal_is_whole(start: Starting) -> None:
    code = (
        "import sys\nfrom convinspect.browsing.app import Browser\n"
        "def wrong(self):\n    raise ZeroDivisionError('ours')\n"
        "Browser.action_help = wrong\nsys.argv = ['convinspect', *sys.argv[1:]]\n"
        "from convinspect.cli.main import main\nmain()\n"
    )
    terminal = start(STNKD, code=code)
    terminal.wait_for(b"conv1")
    terminal.press(b"?")
    assert terminal.end() == 3
    after = terminal.seen.rpartition(b"\x1b[?1049l")[2]
    assert b"ZeroDivisionError: ours" in after
    assert b"please report it" in after
