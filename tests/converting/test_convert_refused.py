"""What `convert` does when layers that were asked for cannot be converted: no copy that looks like a success."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support.conversions import load
from support.in_process import run
from support.program import assert_one_line, without_wrote


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
    # The other format is no reason to leave what was named.
    for wish in (["--to", "linear"], ["--like", tmp_path / "b.pt"]):
        assert_one_line(run(*words, *wish), f"layer s cannot be converted: it has {said}")
        assert not (tmp_path / "c.safetensors").exists()


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
def test_another_reason_to_write_is_heeded_where_no_layer_was_named(
    mixed: Path, words: list[str], target: str, keys: set[str]
) -> None:
    convert = ["convert", mixed, "-o", mixed.parent / target, "--to", "linear", *words]
    refused = run(*convert, "--layer", "k")
    assert_one_line(refused, "layer k cannot be converted: its kernel size is 3, not 1")
    assert not (mixed.parent / target).exists()
    assert "take away --layer k and what it should become, and the rest is done" in refused.stderr
    # A glob names no layer.
    done = run(*convert, "--layer", "k*")
    assert done.returncode == 0, done.stderr
    assert "warning: no layer is converted: layer k: its kernel size is 3, not 1" in done.stderr
    assert keys <= set(load(mixed.parent / target))


@pytest.mark.parametrize("choice", [["--layer", "p"], ["--exclude", "p"], ["--from", "conv1d"]])
@pytest.mark.parametrize("words", [["--state-dict"], ["--rename", "k=kk"], [], ["--drop-optimizer"]])
def test_a_choice_of_layers_to_which_nothing_is_done_is_refused(
    mixed: Path, choice: list[str], words: list[str]
) -> None:
    target = mixed.parent / ("b.pt" if words else "b.safetensors")
    refused = run("convert", mixed, "-o", target, *choice, *words)
    assert_one_line(refused, f"{' '.join(choice)} chooses what is converted, and nothing says what that becomes")
    assert not target.exists()


def test_what_is_fused_is_a_reason_to_write(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv1d(6, 4, 3)).state_dict(), tmp_path / "plain.pt")
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 4, 3)))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    words = ["-o", tmp_path / "b.pt", "--to", "linear", "--fuse"]
    assert_one_line(run("convert", tmp_path / "a.pt", *words, "--layer", "0"), "its kernel size is 3, not 1")
    assert run("convert", tmp_path / "a.pt", *words, "--layer", "0*").returncode == 0
    assert "0.weight" in load(tmp_path / "b.pt")
    assert_one_line(run("convert", tmp_path / "plain.pt", *words, "--force"), "nothing can be converted")


def test_nothing_is_written_where_one_of_the_named_layers_stays(mixed: Path) -> None:
    named = ["--layer", "p", "--layer", "d*", "--layer", "f"]
    refused = run(*refused_words(mixed, *named, "--layer", "k"))
    assert_one_line(
        refused, "layer k cannot be converted: its kernel size is 3, not 1; take away --layer k, and the rest"
    )
    assert not (mixed.parent / "b.pt").exists()
    plan = run("convert", mixed, "--to", "linear", *named, "--layer", "k", "--dry-run")
    said = "warning: layer k cannot be converted: its kernel size is 3, not 1; nothing would be written\n"
    assert (plan.returncode, plan.stderr) == (0, said)
    # What a glob caught, and what is a Linear already, is listed.
    done = run(*refused_words(mixed, *named))
    assert (done.returncode, without_wrote(done.stderr)) == (0, "")
    assert load(mixed.parent / "b.pt")["p.weight"].shape == (5, 2)


def test_a_named_layer_of_a_kind_without_a_conversion_is_refused(tmp_path: Path) -> None:
    torch.save(nn.ModuleDict({"p": nn.Conv1d(6, 4, 1), "n": nn.LayerNorm(4)}).state_dict(), tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--layer", "p", "--layer", "n"]
    assert_one_line(run(*words), "layer n cannot be converted")
    assert not (tmp_path / "b.pt").exists()


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
