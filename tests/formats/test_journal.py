"""Where a journal would lie, for every name that a user or an index may give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convinspect.formats.journal import check_no_journal, journal_of, journals_of
from support.in_process import run
from support.program import assert_one_line

NAMES = ("\ud800.safetensors", "\udcff.safetensors", "a\0b.safetensors", "é" * 300, "\ud800" * 300, "..", "a/..", "a/b")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_has_a_place_for_a_journal(tmp_path: Path, name: str) -> None:
    """Also one that no file can have; and nobody's edit was interrupted there."""
    for place in journals_of(tmp_path / name):
        assert len(place.name.encode("utf-8", "surrogatepass")) <= 255
    check_no_journal(tmp_path / name)


def test_long_names_that_differ_at_the_end_have_journals_of_their_own(tmp_path: Path) -> None:
    assert journal_of(tmp_path / ("x" * 240 + "1")) != journal_of(tmp_path / ("x" * 240 + "2"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "words",
    [
        ("shapes",),
        ("check", "--format", "sarif"),
        ("convert", "-o", "new", "--to", "linear"),
        ("convert", "--in-place"),
    ],
    ids=" ".join,
)
def test_a_shard_of_any_name_is_one_line(tmp_path: Path, name: str, words: tuple[str, ...]) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": name}}))
    done = run(words[0], index, *words[1:], *(("--to", "linear") if "--in-place" in words else ()), folder=tmp_path)
    if words[0] == "check":
        # Its problem is told in the report.
        assert done.returncode in (1, 2)
        assert json.loads(done.stdout)["version"] == "2.1.0"
        assert "Traceback" not in done.stderr
    else:
        assert_one_line(done)
    assert [entry.name for entry in tmp_path.iterdir()] == [index.name]
