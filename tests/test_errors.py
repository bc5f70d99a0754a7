"""What an error tells to do is what works where the program is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

from convinspect.errors import NotInstalled, installing
from support.paths import ROOT


def test_a_package_is_installed_by_what_made_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert installing("textual") == "python -m pip install textual"
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.12.1\n", encoding="utf-8")
    assert installing("textual") == "python -m pip install textual"
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.9.1\nversion_info = 3.12.1\n", encoding="utf-8")
    assert installing("textual") == f"uv pip install --python {tmp_path} textual"
    (tmp_path / "pipx_metadata.json").write_text("{}", encoding="utf-8")
    assert str(NotInstalled("textual", "browse")) == (
        "browse needs textual, which is not installed; pipx inject convinspect textual"
    )
    (tmp_path / "pyvenv.cfg").write_bytes(b"\xff")
    (tmp_path / "pipx_metadata.json").unlink()
    assert installing("textual") == "python -m pip install textual"


@pytest.mark.skipif(which("uv") is None, reason="uv is not installed")
def test_environments_of_uv_are_known(tmp_path: Path) -> None:
    made = subprocess.run(["uv", "venv", "-q", tmp_path / "a b"], capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from convinspect.errors import installing; print(installing('x'))"
    )
    scripts = tmp_path / "a b" / ("Scripts" if os.name == "nt" else "bin")
    done = subprocess.run([scripts / "python", "-c", code, ROOT], capture_output=True, text=True, check=True)
    assert done.stdout == f"uv pip install --python '{tmp_path / 'a b'}' x\n"
