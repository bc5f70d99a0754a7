"""Where PyTorch is not installed: what needs it says so in one line, and all else works."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.paths import FIXTURES
from support.program import assert_one_line, run

STNKD = FIXTURES / "pointnet_stnkd.pt"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment in which `import torch` ends as it does where there is none."""
    absent = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    (tmp_path / "torch.py").write_text(absent)
    root = Path(__file__).resolve().parent.parent.parent
    return {"PYTHONPATH": f"{tmp_path}:{root}"}


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
def test_what_runs_layers_says_what_is_missing(env: dict[str, str], words: tuple[object, ...]) -> None:
    result = run(*words, env=env)
    assert_one_line(result, f"error: {words[0]} ", "PyTorch", "pip install torch")
    assert result.stdout == ""


def test_verify_asks_for_it_when_layers_are_to_run(env: dict[str, str], tmp_path: Path) -> None:
    converted = tmp_path / "linear.pt"
    run("convert", STNKD, "--to", "linear", "-o", converted, env=env)
    assert_one_line(run("verify", STNKD, converted, env=env), "verify ", "PyTorch")
    assert run("verify", STNKD, converted, "--bits", env=env).returncode == 0
    assert run("verify", STNKD, STNKD, env=env).returncode == 0


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
def test_what_reads_and_writes_works(env: dict[str, str], words: tuple[object, ...]) -> None:
    result = run(*words, env=env)
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
def test_what_is_written_by_it_asks_for_it(
    env: dict[str, str], tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    folder = tmp_path / "written"
    folder.mkdir()
    result = run("convert", FIXTURES / name, *options, folder=folder, env=env)
    assert_one_line(result, "error: convert needs PyTorch", "pip install torch")
    assert not list(folder.iterdir())


def test_another_missing_module_is_a_bug(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError('no numpy', name='numpy')\n")
    root = Path(__file__).resolve().parent.parent.parent
    result = run("weights", STNKD, "conv1", env={"PYTHONPATH": f"{tmp_path}:{root}"})
    assert result.returncode == 3
