"""A bounded run of every driver: the same seeds each time, so that a red build is the change's own doing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from drivers import DRIVERS

SECONDS = int(os.environ.get("FUZZ_SECONDS", "24"))
"""Of all drivers together; the long run is `run.py`."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits time and memory by means of POSIX")


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_changed_files_end_as_a_listing_or_an_error(tmp_path: Path, driver: str) -> None:
    """In a process of its own, whose memory is limited; what failed lies in `tmp_path`, its seed in the output."""
    minutes = SECONDS / 60 / len(DRIVERS)
    run = Path(__file__).with_name("run.py")
    options = ["--minutes", f"{minutes:.3f}", "--seed", "20261125", "--driver", driver, "--failures", str(tmp_path)]
    done = subprocess.run([sys.executable, run, *options], capture_output=True, text=True, timeout=2 * SECONDS + 60)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " 0 kinds of fault" in done.stdout


def test_an_input_can_be_made_again(tmp_path: Path) -> None:
    from fuzzing import made
    from outcomes import size_of

    for driver in DRIVERS:
        (one, _), (other, _) = (made(driver, 7, 3, tmp_path / f"{driver} {again}") for again in range(2))
        assert size_of(one) == size_of(other)
        files = [path for path in (tmp_path / f"{driver} 0").rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert (
                path.read_bytes()
                == (tmp_path / f"{driver} 1" / path.relative_to(tmp_path / f"{driver} 0")).read_bytes()
            )
