"""What `convert` does when layers that were asked for cannot be converted: no copy that looks like a success."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support.conversions import load
from support.program import assert_one_line, run


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A state_dict of a layer that converts, some that do not, and one that is so already."""
    state = {
        "p.weight": torch.randn(5, 2, 1),
        "k.weight": torch.randn(5, 2, 3),
        "k2.weight": torch.randn(5, 2, 5),
        "dw.weight": torch.randn(5, 1, 1),
        "f.weight": torch.randn(5, 2),
        "f.bias": torch.randn(5),
    }
    torch.save(state, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def refused_words(source: Path, *words: object) -> list[object]:
    return ["convert", source, "-o", source.parent / "b.pt", "--to", "linear", *words]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layer", "k"], ["layer k: its kernel size is 3, not 1"]),
        (["--layer", "k*"], ["layer k: its kernel size is 3, not 1", "1 more layer"]),
        (["--layer", "d*"], ["layer dw: ", "name it with --layer dw"]),
        (["--layer", "k", "--layer", "f"], ["layer k: "]),
        (["--layer", "k", "--rename", "p=p"], ["layer k: "]),
        (["--layer", "k", "--fuse"], ["layer k: "]),
    ],
)
def test_nothing_is_written_where_all_that_was_named_is_refused(mixed: Path, words: list[str], said: list[str]) -> None:
    before = sorted(mixed.parent.iterdir())
    assert_one_line(run(*refused_words(mixed, *words)), "nothing can be converted", *said)
    assert sorted(mixed.parent.iterdir()) == before
    in_place = ["convert", mixed, "--in-place", "--to", "linear", *words]
    bytes_before = mixed.read_bytes()
    assert_one_line(run(*in_place), *said)
    assert mixed.read_bytes() == bytes_before


@pytest.mark.parametrize(
    ("options", "said"),
    [({"stride": 2}, "stride=2"), ({"padding": 1}, "padding=1"), ({"groups": 2}, "groups=2")],
)
def test_known_settings_are_given_as_the_reason(tmp_path: Path, options: Any, said: str) -> None:
    torch.save(nn.ModuleDict({"s": nn.Conv1d(6, 4, 1, **options), "p": nn.Conv1d(6, 4, 1)}), tmp_path / "a.pt")
    torch.save({"s.weight": torch.randn(4, 6 // options.get("groups", 1)), "s.bias": torch.ones(4)}, tmp_path / "b.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "c.safetensors", "--layer", "s"]
    # The other format is reason enough to write, and what was refused is said.
    for wish in (["--to", "linear"], ["--like", tmp_path / "b.pt"]):
        done = run(*words, *wish, "--force")
        assert done.returncode == 0, done.stderr
        assert f"warning: layer s stays unchanged: it has {said}" in done.stderr
        assert load(tmp_path / "c.safetensors")["s.weight"].dim() == 3


def test_like_writes_nothing_where_nothing_can_be_as_it_is_there(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.randn(5, 2, 3), "n.weight": torch.ones(3)}, tmp_path / "a.pt")
    torch.save({"a.weight": torch.randn(5, 2), "n.weight": torch.ones(3)}, tmp_path / "b.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--like", tmp_path / "b.pt"]
    assert_one_line(run(*words), "nothing can be converted", "layer a: a.weight is (5, 2, 3) here and (5, 2) there")
    assert not (tmp_path / "c.pt").exists()
    # What was not chosen is no wish; nothing that was differs.
    said = "what is in both has the shapes of b.pt already", "1 layer that differs was not chosen"
    assert_one_line(run(*words, "--layer", "n"), *said)


@pytest.mark.parametrize(
    ("words", "target", "keys"),
    [
        (["--rename", "k=kk"], "b.pt", {"kk.weight"}),
        ([], "b.safetensors", {"k.weight"}),
        (["--state-dict"], "b.pt", {"k.weight"}),
    ],
)
def test_another_reason_to_write_is_heeded(mixed: Path, words: list[str], target: str, keys: set[str]) -> None:
    done = run("convert", mixed, "-o", mixed.parent / target, "--to", "linear", "--layer", "k", *words)
    assert done.returncode == 0, done.stderr
    assert "warning: layer k stays unchanged: its kernel size is 3, not 1" in done.stderr
    assert keys <= set(load(mixed.parent / target))


def test_what_is_fused_is_a_reason_to_write(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv1d(6, 4, 3)).state_dict(), tmp_path / "plain.pt")
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 4, 3)))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    words = ["-o", tmp_path / "b.pt", "--to", "linear", "--layer", "0", "--fuse"]
    assert run("convert", tmp_path / "a.pt", *words).returncode == 0
    assert "0.weight" in load(tmp_path / "b.pt")
    assert_one_line(run("convert", tmp_path / "plain.pt", *words, "--force"), "nothing can be converted")


def test_what_is_converted_is_written_and_what_was_named_and_is_not_is_warned_of(mixed: Path) -> None:
    done = run(*refused_words(mixed, "--layer", "p", "--layer", "k", "--layer", "d*", "--layer", "f"))
    assert done.returncode == 0, done.stderr
    # What a glob caught is listed; a name that was given deserves a line where pipes do not swallow it.
    assert done.stderr == "warning: layer k stays unchanged: its kernel size is 3, not 1\n"
    assert "2 left" in done.stdout
    assert load(mixed.parent / "b.pt")["p.weight"].shape == (5, 2)


def test_a_plan_shows_the_reasons_and_what_would_come_of_it(mixed: Path) -> None:
    done = run("convert", mixed, "--to", "linear", "--layer", "k*", "--dry-run", "--format", "json")
    assert done.returncode == 0
    assert [one["name"] for one in json.loads(done.stdout)["refused"]] == ["k", "k2"]
    said = "warning: nothing can be converted: layer k: its kernel size is 3, not 1; so nothing would be written"
    assert done.stderr == f"{said}; --dry-run gives the reasons for 1 more layer\n"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("weight", "(root)"),
        ("weight", "."),
        ("module.q.weight", "module.q"),
        ("q.weight", "q.weight"),
        ("q.weight", "q"),
    ],
)
def test_a_name_is_exact_however_it_is_written(tmp_path: Path, key: str, name: str) -> None:
    torch.save({key: torch.randn(5, 4)}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "conv1d", "--layer", name)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "b.pt")[key].shape == (5, 4, 1)


# ------------------------------------------------------------------------------------------------- grouped layers


def grouped(path: Path, **options: Any) -> Path:
    torch.save(nn.ModuleDict({"g": nn.Conv1d(6, 4, 1, groups=2, **options), "p": nn.Conv1d(6, 4, 1)}), path)
    return path


@pytest.mark.parametrize(
    ("to", "options", "way"),
    [
        ("linear", {}, "; --groups expand makes it one"),
        ("conv2d", {}, "; --to linear --groups expand makes it one"),
        ("linear", {"stride": 2}, ""),
        ("conv2d", {"padding": 1}, ""),
    ],
)
def test_the_way_round_groups_is_given_where_there_is_one(tmp_path: Path, to: str, options: Any, way: str) -> None:
    source = grouped(tmp_path / "a.pt", **options)
    words = ["convert", source, "--to", to, "--from", "conv1d", "--state-dict", "--format", "json", "--dry-run"]
    (refused,) = json.loads(run(*words).stdout)["refused"]
    assert refused == {"name": "g", "reason": f"it has groups=2, so its kernel is not a full matrix{way}"}
    if way:
        # The last of an option that is given twice counts.
        done = run(*words, *way.removeprefix("; ").removesuffix(" makes it one").split())
        assert json.loads(done.stdout)["refused"] == [], done.stderr


def test_no_other_checkpoint_wants_expanded_groups(tmp_path: Path) -> None:
    torch.save({"g.weight": torch.randn(4, 3), "g.bias": torch.randn(4)}, tmp_path / "b.pt")
    words = ["convert", grouped(tmp_path / "a.pt"), "-o", tmp_path / "c.pt", "--like", tmp_path / "b.pt"]
    (refused,) = json.loads(run(*words, "--dry-run", "--state-dict", "--format", "json").stdout)["refused"]
    assert refused["reason"] == "it has groups=2, so its kernel is not a full matrix"
    assert_one_line(run(*words, "--groups", "expand"), "--groups expand", "give --to linear")


@pytest.mark.parametrize("wish", [["--to", "conv2d", "--from", "conv1d"], []])
def test_groups_are_expanded_into_linears_alone(tmp_path: Path, wish: list[str]) -> None:
    words = ["convert", grouped(tmp_path / "a.pt"), "-o", tmp_path / "c.pt", *wish, "--groups", "expand"]
    assert_one_line(run(*words), "--groups expand", "give --to linear")
    assert not (tmp_path / "c.pt").exists()
