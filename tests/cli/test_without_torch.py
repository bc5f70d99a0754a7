"""Where PyTorch is not installed: what needs it says so in one line, and all else works."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.paths import FIXTURES
from support.program import assert_one_line, run

STNKD = FIXTURES / "pointnet_stnkd.pt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which `import torch` ends as it does where there is none: Python looks there first."""
    absent = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    (tmp_path / "torch.py").write_text(absent)
    return tmp_path


def run_without(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return run(*words, folder=folder, with_torch=False)


def test_a_new_process_says_the_same(folder: Path) -> None:
    """The other tests fork one that has imported everything else."""
    result = run("verify", STNKD, folder=folder, fresh=True)
    assert (result.returncode, result.stderr) == (2, run_without(folder, "verify", STNKD).stderr)
    assert run("shapes", STNKD, folder=folder, fresh=True).stdout == run_without(folder, "shapes", STNKD).stdout


@pytest.mark.parametrize(
    "words",
    [
        ("verify", STNKD),
        ("compare",),
        ("compare", STNKD),
        ("explain",),
        ("explain", STNKD, "conv1"),
    ],
)
def test_what_runs_layers_says_what_is_missing(folder: Path, words: tuple[object, ...]) -> None:
    result = run_without(folder, *words)
    assert_one_line(result, f"error: {words[0]} ", "PyTorch", "pip install torch")
    assert result.stdout == ""


def test_verify_asks_for_it_when_layers_are_to_run(folder: Path) -> None:
    converted = folder / "linear.pt"
    run_without(folder, "convert", STNKD, "--to", "linear", "-o", converted)
    assert_one_line(run_without(folder, "verify", STNKD, converted), "verify ", "PyTorch")
    assert run_without(folder, "verify", STNKD, converted, "--bits").returncode == 0
    assert run_without(folder, "verify", STNKD, STNKD).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ("shapes", STNKD),
        ("weights", STNKD, "conv1"),
        ("diff", STNKD, STNKD),
        ("convert", STNKD, "--to", "linear", "--dry-run"),
        ("verify", STNKD, STNKD, "--bits"),
        ("verify", STNKD, STNKD),  # no layer differs, so none is run
        ("check", STNKD),
        ("--help",),
    ],
)
def test_what_reads_and_writes_works(folder: Path, words: tuple[object, ...]) -> None:
    result = run_without(folder, *words)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pointnet_stnkd.pt", ("--to", "linear", "-o", "new.safetensors")),
        ("pointnet_stnkd.safetensors", ("--to", "linear", "-o", "new.pt")),
        ("pointnet_stnkd_module.pt", ("--state-dict", "-o", "new.pt")),
        ("weight_norm_old.pt", ("--fuse", "-o", "new.pt")),
    ],
)
def test_what_is_written_by_it_asks_for_it(folder: Path, name: str, options: tuple[str, ...]) -> None:
    result = run_without(folder, "convert", FIXTURES / name, *options)
    assert_one_line(result, "error: convert needs PyTorch", "pip install torch")
    assert {path.name for path in folder.iterdir()} <= {"torch.py", "__pycache__"}


def test_another_missing_module_is_a_bug(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError('no numpy', name='numpy')\n")
    root = Path(__file__).resolve().parent.parent.parent
    result = run("weights", STNKD, "conv1", env={"PYTHONPATH": f"{tmp_path}:{root}"})
    assert result.returncode == 3
