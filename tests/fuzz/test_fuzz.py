"""A bounded run of every driver: the same seeds each time, so that a red build is the change's own doing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from drivers import DRIVERS

from convinspect.checkpoint import open_checkpoint
from convinspect.remote.addresses import path_of
from support.paths import FIXTURES

SECONDS = int(os.environ.get("FUZZ_SECONDS", "8"))
"""Of all drivers together; the long run is `run.py`."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits time and memory by means of POSIX")


def test_changed_files_end_as_a_listing_or_an_error(tmp_path: Path) -> None:
    """In a process of its own, whose memory is limited; what failed lies in `tmp_path`, its seed in the output."""
    run = Path(__file__).with_name("run.py")
    options = ["--minutes", f"{SECONDS / 60:.3f}", "--seed", "20261125", "--failures", str(tmp_path)]
    done = subprocess.run([sys.executable, run, *options], capture_output=True, text=True, timeout=2 * SECONDS + 60)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " 0 kinds of fault" in done.stdout


def test_several_processes_are_counted_together(tmp_path: Path) -> None:
    run = Path(__file__).with_name("run.py")
    options = ["--number", "1", "--seed", "3", "--driver", "stranger", "--driver", "plain", "--jobs", "2"]
    done = subprocess.run([sys.executable, run, *options], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[0] == "seeds 3 to 4"
    assert "stranger: 2 inputs" in done.stdout, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("4 inputs, 0 kinds of fault")


def test_a_wrong_listing_and_a_step_aside_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge of servers that can find nothing would be worth nothing."""
    from random import Random

    import lying_server
    import server_driver

    site = "pointnet_stnkd.safetensors"
    server_driver.truth_of(site)

    def judged(lies: tuple[lying_server.Lie, ...], open_it: Callable[[Path], object]) -> str:
        monkeypatch.setattr(server_driver, "open_checkpoint", open_it)
        begin = lying_server.served(server_driver.sites()[site].files, lying_server.Plan(site, lies))
        return server_driver.fault_of_server(path_of(begin + site), Random(0))[1]

    def elsewhere(path: Path) -> object:
        (tmp_path / "x").write_text("x")
        return open_checkpoint(path)

    lie = (lying_server.Lie("cut", 5, 0),)
    assert judged((), open_checkpoint) == ""
    assert "another listing" in judged(lie, lambda path: open_checkpoint(FIXTURES / "dtypes.safetensors"))
    assert "it did more than ask the server" in judged(lie, elsewhere)
    all_gone = (lying_server.Lie("garbage", -1, 0),)
    monkeypatch.setitem(lying_server.ODD, "garbage", lying_server.LIES["garbage"])
    monkeypatch.delitem(lying_server.LIES, "garbage")
    assert "a server that tells the truth ended as" in judged(all_gone, open_checkpoint)


def test_an_input_can_be_made_again(tmp_path: Path) -> None:
    from fuzzing import made

    for driver in DRIVERS:
        for again in range(2):
            made(driver, 7, 3, tmp_path / f"{driver} {again}")
        files = [path for path in (tmp_path / f"{driver} 0").rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert (
                path.read_bytes()
                == (tmp_path / f"{driver} 1" / path.relative_to(tmp_path / f"{driver} 0")).read_bytes()
            )
