"""Proof that files from anywhere are read and nothing else: Python's audit events of every command on every one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import TESTS

PARTS = 2

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="builds pipes and links, which are POSIX")

CONTROL = f"""
import pickle, sys
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from support import auditing, hostile
folder = Path(sys.argv[1])
stream = hostile.pickled(hostile.bomb(folder.parent / "marker"))
watch = auditing.Watch()
sys.addaudithook(watch)
watch.folder = folder
try:
    pickle.loads(stream)
    open(folder / "written", "w").close()
    exec("1")
    __import__("this_is_not_there")
except ImportError:
    watch.folder = None
print(*sorted(line.split()[0] for line in watch.seen))
"""


def test_loading_one_would_be_seen(tmp_path: Path) -> None:
    """The watch sees what an unpickler does, and the file does what it is taken for."""
    (tmp_path / "file").mkdir()
    done = subprocess.run([sys.executable, "-c", CONTROL, tmp_path / "file"], capture_output=True, text=True)
    assert (tmp_path / "marker").exists(), done.stderr
    assert {"pickle.find_class", "os.system", "open", "exec", "import"} <= set(done.stdout.split())


@pytest.mark.parametrize("part", range(PARTS))
def test_every_command_does_nothing_but_read_the_file(tmp_path: Path, unmeasured: dict[str, str], part: int) -> None:
    """No import, no code, no process, no socket, no other file opened, nothing written: in a process of its own."""
    script = [sys.executable, str(TESTS / "support" / "auditing.py"), str(tmp_path), str(part), str(PARTS)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=600, env=unmeasured)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stderr.endswith(" files\n"), done.stderr[-2000:]


def test_every_command_asks_the_given_server_and_nothing_else(tmp_path: Path, unmeasured: dict[str, str]) -> None:
    """Files at an address, too: no other connection, no name looked up, and no file of this machine opened."""
    pytest.importorskip("aiohttp")
    script = [sys.executable, str(TESTS / "support" / "auditing.py"), str(tmp_path), "0", "30", "served"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=600, env=unmeasured)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stderr.endswith(" files\n"), done.stderr[-2000:]


SERVED = f"""
import socket, sys, threading
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from support import auditing
socket.getaddrinfo("127.0.0.1", 7)
watch = auditing.Watch()
sys.addaudithook(watch)
watch.folder, watch.port = Path(sys.argv[1]), 7
open(Path(sys.argv[1]) / "own").close()
for place in (("127.0.0.1", 7), ("127.0.0.1", 8), ("127.0.0.2", 7)):
    with socket.socket() as one:
        one.settimeout(0.2)
        try:
            one.connect(place)
        except OSError:
            pass
socket.getaddrinfo("127.0.0.1", 7)
watch.folder = None
print(*sorted(watch.seen), sep="\\n")
"""


def test_other_servers_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "own").touch()
    done = subprocess.run([sys.executable, "-c", SERVED, tmp_path], capture_output=True, text=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["open", "socket.connect", "socket.connect"]
    assert "('127.0.0.1', 7)" not in done.stdout, done.stderr
