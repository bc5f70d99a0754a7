"""`check` of what lies elsewhere: without numbers, unless all is asked for; and what it does on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch

import convinspect
from support.hostile import HOSTILE, LARGE
from support.in_process import build_commands_once, call_main
from support.paths import FIXTURES, TESTS
from support.sampling import some
from support.servers import Server, serving

pytest.importorskip("aiohttp")

FILES = (
    "pointnet_stnkd.pt", "pointnet_stnkd.safetensors", "pointnet_stnkd_legacy.pt", "pointnet_stnkd_script.pt",
    "pointnet_stnkd_module.pt", "pointnet_stnkd.pt2", "dtypes.pt", "net_gone.pt", "legacy_views.pt",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_it_finds_the_same_elsewhere(server: Server, name: str) -> None:
    here = convinspect.check(FIXTURES / name)
    for full in (False, True):
        there = convinspect.check(f"{server.address}/{name}", full=full)
        assert [(one.code, one.message) for one in there.findings] == [(one.code, one.message) for one in here.findings]
        assert there.exit_code == here.exit_code
        assert there.looked["records"] == here.looked["records"]
        assert full <= (there.looked == here.looked)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A checkpoint of 20 MB whose last numbers are damaged."""
    torch.save({f"a.{i}.weight": torch.randn(256, 256, 1) for i in range(80)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        at = archive.getinfo("x/data/79").header_offset + 1000
    data = bytearray((tmp_path / "x.pt").read_bytes())
    data[at] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    return tmp_path


def test_numbers_are_fetched_where_all_is_asked_for(large: Path) -> None:
    with serving(large) as server:
        address = f"{server.address}/x.pt"
        ended = call_main("check", address)
        assert ended.code == 0
        assert "20,971,520 bytes of numbers were not fetched" in ended.out
        assert "--full fetches all" in ended.out
        assert server.sent < 300_000
        assert len(server.asked) <= 6
        report = convinspect.check(address)
        assert "full=True fetches all" in " ".join(report.notes)
        server.forget()
        ended = call_main("check", address, "--full")
        assert ended.code == 1
        assert "wrong-crc" in ended.out
        assert len(server.asked) < 20
        assert server.sent < 22_000_000
        assert call_main("check", address, "--values").code == 1
    payload = json.loads(call_main("check", large / "x.pt", "--format", "json").out)
    assert "spared" not in payload["files"][0]["looked_at"]


def test_an_archive_of_arrays_is_asked_for_its_headers(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", *(np.zeros((1024, 1024), np.float32) for _ in range(4)))
    with serving(tmp_path) as server:
        report = convinspect.check(f"{server.address}/x.npz")
        assert not report.findings
        assert server.sent < 1_000_000
    np.savez(tmp_path / "y.npz", w=np.array([print] * 3, object))
    with serving(tmp_path) as server:
        assert convinspect.check(f"{server.address}/y.npz").findings


def test_a_server_that_fails_is_a_finding(server: Server) -> None:
    ended = call_main("check", f"{server.address}/none.pt", FIXTURES / "pointnet_stnkd.pt")
    assert ended.code == 2
    assert ended.err.startswith(f"error: {server.address}/none.pt: there is no such file (404)")
    assert "nothing found" in ended.out


def test_hostile_files_elsewhere_end_as_they_do_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of them: readers see the same bytes as of files here."""
    build_commands_once(monkeypatch)
    with serving(tmp_path) as server:
        for name in some(sorted(HOSTILE.keys() - LARGE.keys()), 100):
            folder = tmp_path / name
            folder.mkdir()
            if not (path := HOSTILE[name](folder, tmp_path / "marker")).is_file():
                continue
            address = f"{server.address}/{quote(path.relative_to(tmp_path).as_posix())}"
            for words in (["shapes"], ["check", "--full"]):
                here, there = call_main(words[0], path), call_main(words[0], address, *words[1:])
                assert there.code in (0, 1, 2), (name, words, there.err)
                # What stands before each storage is not fetched without need.
                if "--full" in words or (words == ["shapes"] and not name.startswith("legacy_")):
                    assert there.code == here.code, (name, words, there.err, here.err)
    assert not (tmp_path / "marker").exists()


WATCHED = f"""
import os, sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
from support.in_process import build_commands_once, call_main
from support.imports import import_all_modules
from convinspect.remote import http
build_commands_once()
import_all_modules()
address, bad = sys.argv[1:]
commands = (("shapes", address), ("check", address), ("check", address, "--full"), ("weights", address),
            ("diff", address, address), ("convert", address, "--to", "linear", "-n"), ("shapes", bad))
for words in commands:
    call_main(*words)
seen, now = set(), [False]
def hook(event, arguments):
    if not now[0]:
        return
    if event == "socket.connect":
        seen.add(f"{{event}} {{arguments[1][:2]}}")
    elif event == "open":
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.add(f"{{event}} {{arguments[0]}}")
    elif event.split(".")[0] in ("exec", "subprocess", "shutil", "pickle", "ctypes", "import") or event in (
            "os.system", "os.remove", "os.rename", "os.exec", "os.fork", "os.posix_spawn", "socket.bind"):
        seen.add(f"{{event}} {{arguments[:1]}}")
sys.addaudithook(hook)
now[0] = True
for words in commands:
    call_main(*words)
now[0] = False
print(*sorted(seen), sep="\\n")
"""


def test_nobody_but_the_server_is_asked(server: Server, unmeasured: dict[str, str]) -> None:
    """No code, no process, no file written, no other host: in a process of its own, under Python's audit events."""
    server.fault = None
    address = f"{server.address}/pointnet_stnkd_module.pt"
    script = [sys.executable, "-c", WATCHED, address, f"{server.address}/none.pt"]
    environment = {**unmeasured, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    port = int(server.address.rpartition(":")[2])
    assert server.asked
    assert set(filter(None, done.stdout.splitlines())) <= {f"socket.connect ('127.0.0.1', {port})"}, done.stdout
    assert os.path.exists(FIXTURES)
