"""The benchmarks run, say what is not there to compare with, and tell growth rightly."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
OnceIn: TypeAlias = Callable[[ModuleType], None]


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("measuring")


@pytest.fixture
def each_once(measuring: ModuleType, monkeypatch: pytest.MonkeyPatch) -> OnceIn:
    """Lets a module run each command once: where it runs it again on the same files, it is told the same figures."""
    told: dict[object, object] = {}

    def run(route: Any, *rest: Any, **more: Any) -> object:
        files = [Path(word) for word in route.command if word != str(route.writes) and Path(word).is_file()]
        states = [(file.stat().st_ino, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        what = (*route.command, *states)
        if what not in told:
            told[what] = measuring.run(route, *rest, **more)
        return told[what]

    return lambda module: monkeypatch.setattr(module, "run", run)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_growth_is_the_power_that_the_costs_follow(measuring: ModuleType, power: float) -> None:
    points = [(size, 1.5 + (size / 1000) ** power) for size in (1000, 10_000, 100_000)]
    found = measuring.growth(1.5, points, least=0.02)
    assert found.exponent == pytest.approx(power)
    assert found.last == pytest.approx(power)


def test_growth_that_does_not_stand_out_from_start_up_is_flat(measuring: ModuleType) -> None:
    points = [(size, 1.5 + noise) for size, noise in ((10, -0.1), (100, 0.05), (1000, 0.1))]
    assert measuring.growth(1.5, points, least=0.02) == measuring.Growth(None, None, flat=True)


def test_growth_is_not_told_from_one_point(measuring: ModuleType) -> None:
    assert measuring.growth(1.5, [(10, 1.51), (100, 9.0)], least=0.02) == measuring.Growth(None, None, flat=False)


def test_a_pair_that_was_disturbed_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    starting = importlib.import_module("starting")
    assert starting.paired_ratio([(0.11, 0.10), (0.22, 0.20), (0.9, 0.1)]) == pytest.approx(1.1)


def test_starting_is_told_in_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, each_once: OnceIn) -> None:
    starting = importlib.import_module("starting")
    each_once(starting)
    monkeypatch.setattr(starting, "PAIRS", 1)
    (table,) = starting.starts_compared(tmp_path)
    assert [row[0] for row in table.rows] == ["`convinspect shapes FILE`", "`convinspect --help`"]
    assert all(0.1 < float(row[1]) < 50 for row in table.rows)


def test_verify_is_told_in_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    verified = importlib.import_module("verified")
    making, measuring = importlib.import_module("making"), importlib.import_module("measuring")
    # The first round of three, before modules are compiled, does not count.
    rounds = [[measuring.Cost(n, 100 * n * k, "", 2 * n * n) for n in (1, 2, 4)] for k in (1, 3)]
    costs = iter([cost for each in rounds for cost in ([measuring.Cost(9, 9, "", 9)] * 3 + each)])
    monkeypatch.setattr(verified, "run", lambda route: next(costs))
    monkeypatch.setattr(making.Files, "_made", lambda self, name: tmp_path / name)
    monkeypatch.setattr(making.Files, "converted", tmp_path / "converted.pt")
    monkeypatch.setattr(making.Files, "converted_safetensors", tmp_path / "converted.safetensors")
    (table,) = verified.verified_in_pairs(tmp_path, 1, [making.Point("tensors", "8 tensors", 8, 4)])
    rows = {row[0]: (row[1], row[2], row[-1]) for row in table.rows}
    assert rows == {
        "8 tensors": ("0.50", "0.25", "100 MB"),
        "8 tensors, loop on one thread": ("0.25", "0.06", "100 MB"),
        "8 tensors, safetensors": ("0.50", "0.25", "300 MB"),
        "8 tensors, safetensors, loop on one thread": ("0.25", "0.06", "300 MB"),
    }


def test_patches_are_told_in_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, each_once: OnceIn) -> None:
    patches = importlib.import_module("patches")
    each_once(patches)
    for name, value in {"ROUNDS": 2, "PAIRS": 2, "BYTES": 10**7, "PATCHES": 8, "THREADS": (1,)}.items():
        monkeypatch.setattr(patches, name, value)
    converting, running = patches.patches_compared(tmp_path)
    assert [row[0] for row in converting.rows] == ["`.safetensors`, 0.0 GB", "`.pt`, 0.0 GB"]
    assert len(running.rows) == 2
    assert all(float(row[1]) > 0 for row in [*converting.rows, *running.rows])
    assert not list(tmp_path.iterdir())


def test_files_of_any_size_are_told_in_pairs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, each_once: OnceIn
) -> None:
    sizes = importlib.import_module("any_size")
    each_once(sizes)
    for name, value in {"ROUNDS": 2, "BYTES": 10**6, "SPARSE": 10**8}.items():
        monkeypatch.setattr(sizes, name, value)
    # Starting PyTorch's processes takes long.
    monkeypatch.setattr(sizes, "_pieces", lambda folder, size: [])
    (table,) = sizes.sizes_compared(tmp_path)
    assert len(table.rows) in (4, 5)
    assert all(len(row) == len(table.head) for row in table.rows)
    assert "failed" not in str(table.rows)
    assert not list(tmp_path.iterdir())


def test_archives_are_listed_in_pairs(tmp_path: Path, each_once: OnceIn) -> None:
    archives, making = importlib.import_module("archives"), importlib.import_module("making")
    each_once(archives)
    (table,) = archives.archives_in_pairs(tmp_path, 1, making.Point("size", "small", 4, 8))
    assert [row[0] for row in table.rows] == [".nemo", ".zip"]
    assert all(len(row) == len(table.head) for row in table.rows)
    assert "failed" not in str(table.rows)
    assert not list(tmp_path.iterdir())


def test_a_process_that_takes_too_long_is_ended_and_one_that_fails_says_why(measuring: ModuleType) -> None:
    slow = measuring.Route("slow", measuring.python("import time; time.sleep(60)"))
    wrong = measuring.Route("wrong", measuring.python("raise ValueError('no such thing')"))
    assert measuring.run(slow, limit=0.5) == measuring.Missing("> 0.5 s", more=True)
    assert measuring.run(wrong) == measuring.Missing("failed (1): ValueError: no such thing")


def test_all_of_it_runs_where_nothing_is_installed_to_compare_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], measuring: ModuleType, tmp_path: Path
) -> None:
    hard_cases, run = importlib.import_module("hard_cases"), importlib.import_module("run")
    monkeypatch.setattr(hard_cases, "_ORDINARY", {"zip": hard_cases._ORDINARY["zip"]})
    words = ["--folder", str(tmp_path / "files"), "--quick", "--markdown"]
    words += ["--only", "checking,converting", "--tensors", "10"]
    # Packages that are there but do not start, whatever is installed besides.
    for package in ("picklescan", "modelscan"):
        (tmp_path / "broken" / package).mkdir(parents=True)
        (tmp_path / "broken" / package / "__init__.py").write_text("import a_module_that_is_not_there")
    path = os.pathsep.join([str(tmp_path / "broken"), str(BENCHMARKS.parent)])
    monkeypatch.setitem(measuring._ENVIRONMENT, "PYTHONPATH", path)
    monkeypatch.syspath_prepend(tmp_path / "broken")
    code, told = run.main(words), capsys.readouterr()
    assert code == 0, told
    assert "Left out: picklescan does not start: failed (1): ModuleNotFoundError" in told.out
    tables = [line for line in told.out.splitlines() if line.startswith("###")]
    assert tables == [
        "### Converting half of the weights to Linear: by tensors",
        "### Converting there and back",
        "### Checking a file: by tensors",
        "### What checking says of small files",
    ]
    assert "| 256 tensors | yes |" in told.out
    assert not (tmp_path / "files").exists()


def test_this_build_is_measured_against_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], each_once: OnceIn
) -> None:
    before = importlib.import_module("before")
    each_once(before)
    options = ["--tensors", "40", "--lines", "20", "--pairs", "1", "--folder", str(tmp_path)]
    assert before.main([str(BENCHMARKS.parent), *options]) == 0
    said = capsys.readouterr().out
    assert "safetensors, a prefix" in said
    assert "in a frame" in said
