"""`-o` of every command: it says what it wrote, overwrites nothing without `--force`, and hides no verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from convinspect.cli.commands import SUMMARIES, load
from support.in_process import call_main
from support.paths import FIXTURES, STNKD
from support.program import assert_one_line, run

OTHER = FIXTURES / "prefixes_module.pt"

CALLS: dict[str, list[object]] = {
    "shapes": [STNKD],
    "weights": [STNKD, "--stats"],
    "diff": [STNKD, OTHER],
    "check": [STNKD],
    "verify": [STNKD, "--bits"],
    "compare": [STNKD, "--layer", "conv1", "--lengths", "1", "--batch", "1", "--repeats", "3"],
    "explain": [STNKD, "conv1"],
    "convert": [STNKD, "--to", "linear"],
    "report": [STNKD],
}


def suffix(command: str) -> str:
    return {"convert": ".pt", "report": ".html"}.get(command, ".json")


def test_every_command_that_writes_a_file_has_the_option_to_overwrite_it() -> None:
    flags = {name: {flag for option in load(name).params for flag in option.opts} for name in SUMMARIES}
    writing = {name for name, has in flags.items() if "--output" in has}
    assert writing >= set(CALLS)
    assert writing == {name for name, has in flags.items() if "--force" in has}


@pytest.mark.parametrize("command", CALLS)
def test_it_says_what_it_wrote_and_overwrites_only_by_force(command: str, tmp_path: Path) -> None:
    target = tmp_path / f"new{suffix(command)}"
    first = call_main(command, *CALLS[command], "-o", target)
    assert f"wrote {target}" in first.err.splitlines()
    assert target.stat().st_size
    target.write_text("mine")
    again = call_main(command, *CALLS[command], "-o", target)
    assert (again.code, again.out) == (2, "")
    assert again.err.startswith(f"error: {target}: ")
    assert "exists; use --force to overwrite it" in again.err
    assert again.err.count("\n") == 1
    assert target.read_text() == "mine"
    forced = call_main(command, *CALLS[command], "-o", target, "--force")
    assert (forced.code, forced.err) == (first.code, first.err)
    assert target.read_bytes() != b"mine"


def test_a_dry_run_wrote_nothing(tmp_path: Path) -> None:
    ended = call_main("convert", STNKD, "--to", "linear", "-n", "-o", tmp_path / "a.pt")
    assert "wrote" not in ended.err
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("form", ["json", "csv", "md", "txt", "svg", "html"])
@pytest.mark.parametrize("command", ["diff", "verify"])
def test_the_verdict_is_printed_as_well(command: str, form: str, tmp_path: Path) -> None:
    call_main("convert", STNKD, "--to", "linear", "-o", tmp_path / "linear.pt")
    words = [command, STNKD, tmp_path / "linear.pt", *(["--bits"] if command == "verify" else [])]
    kept = call_main(*words, "-o", tmp_path / f"a.{form}")
    plain = call_main(*words)
    verdict = kept.out.splitlines()
    assert kept.code == plain.code
    assert verdict
    assert all(line in plain.out.splitlines() for line in verdict)
    said = "A will load after converting 3 layers, wherever B loads" if command == "diff" else "equal · strength: bits"
    assert verdict[0] == said


def test_a_verdict_that_something_differs_is_printed_too(tmp_path: Path) -> None:
    state = torch.load(STNKD, weights_only=True)
    state["fc1.weight"] += 1
    torch.save(state, tmp_path / "changed.pt")
    ended = call_main("verify", STNKD, tmp_path / "changed.pt", "--bits", "-o", tmp_path / "a.json")
    assert ended.code == 1
    assert ended.out.startswith("different · ")
    assert json.loads((tmp_path / "a.json").read_text())["verdict"] == "different"
    answered = call_main("diff", STNKD, "--error", FIXTURES / "pointnet_stnkd_load_error.txt", "-o", tmp_path / "b.md")
    assert (answered.code, answered.out.count("\n")) == (1, 1)
    assert answered.out.startswith("A will still not load: ")


def test_check_prints_what_it_found(tmp_path: Path) -> None:
    clean = call_main("check", STNKD, "-o", tmp_path / "a.sarif")
    assert (clean.code, clean.out) == (0, "pointnet_stnkd.pt: nothing found\n")
    found = call_main("check", FIXTURES / "stray_objects.pt", "-o", tmp_path / "a.json")
    assert (found.code, found.out) == (1, "stray_objects.pt: 9 warnings\n")
    both = call_main("check", STNKD, FIXTURES / "stray_objects.pt", "-o", tmp_path / "b.txt")
    assert (both.code, both.out) == (1, "2 paths: 1 with nothing found, 1 with findings, 0 could not be read\n")


def test_what_was_opened_and_folders_are_not_overwritten_even_by_force(tmp_path: Path) -> None:
    json_file = tmp_path / "model.json"
    json_file.write_bytes(STNKD.read_bytes())
    (tmp_path / "folder.json").mkdir()
    for target, says in ((json_file, "it is the file that was opened"), (tmp_path / "folder.json", "it is a folder")):
        done = run("shapes", json_file, "-o", target, "--force")
        assert done.returncode == 2
        assert_one_line(done, says)
    assert json_file.read_bytes() == STNKD.read_bytes()
    linked = tmp_path / "linked.txt"
    linked.symlink_to(json_file)
    assert "it is the file that was opened" in run("weights", json_file, "-o", linked, "--force").stderr


def test_a_name_is_shown_without_what_a_terminal_obeys(tmp_path: Path) -> None:
    done = run("shapes", STNKD, "-o", tmp_path / "a\x1b[31m.txt")
    assert "\x1b" not in done.stderr
    assert "wrote" in done.stderr


def test_all_that_must_not_be_hidden_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("mine")
    done = run("verify", tmp_path / "nothing.pt", tmp_path / "there.pt", "-o", tmp_path / "a.json")
    assert_one_line(done, "the file exists")
