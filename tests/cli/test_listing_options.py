"""`--sort`, `--limit`, `--tree` and `--depth` of the commands that list layers, and the same from Python."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import convinspect
from convinspect.errors import CannotShow
from support.paths import FIXTURES, STNKD
from support.program import assert_one_line, run


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.conv = nn.Conv1d(8, 16, 1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 8).half()
        self.blocks = nn.ModuleList(Block() for _ in range(12))
        self.head = nn.Linear(16, 200)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("listed")
    state = Model().state_dict()
    torch.save(state, folder / "m.pt")
    save_file(state, folder / "m.safetensors")
    return {"pt": folder / "m.pt", "safetensors": folder / "m.safetensors"}


def listed(path: Path, *words: object) -> list[str]:
    payload = json.loads(run("shapes", path, "--format", "json", *words).stdout)
    return [layer["name"] for layer in payload["layers"]]


BLOCKS = [f"blocks.{i}.conv" for i in range(12)]


def test_a_pickle_keeps_its_order_and_safetensors_is_read_by_name(saved: dict[str, Path]) -> None:
    assert listed(saved["pt"]) == ["stem", *BLOCKS, "head"]
    assert listed(saved["safetensors"]) == [*BLOCKS, "head", "stem"]
    assert listed(saved["pt"], "--sort", "name") == [*BLOCKS, "head", "stem"]
    with open(saved["safetensors"], "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    stored = list(dict.fromkeys(key.rpartition(".")[0] for key in header if key.endswith(".weight")))
    assert listed(saved["safetensors"], "--sort", "file", "--all") == stored


@pytest.mark.parametrize("by", ["params", "size"])
def test_the_largest_come_first(saved: dict[str, Path], by: str) -> None:
    expected = ["head", *BLOCKS, "stem"]
    assert listed(saved["pt"], "--sort", by) == expected
    rows = run("shapes", saved["pt"], "--sort", by, "--fold").stdout.splitlines()[4:7]
    assert [row.split()[0] for row in rows] == ["head", "blocks.{0–11}.conv", "stem"]
    shown = json.loads(run("weights", saved["pt"], "--stats", "--sort", by, "--format", "json", "*").stdout)
    named = [layer["name"] for layer in shown["layers"]]
    assert [name for name in named if "norm" not in name] == expected


def test_a_fold_counts_all_that_it_stands_for(tmp_path: Path) -> None:
    state = {f"b.{i}.weight": torch.zeros(4, 4) for i in range(3)} | {"one.weight": torch.zeros(5, 5)}
    torch.save(state, tmp_path / "m.pt")
    assert listed(tmp_path / "m.pt", "--sort", "params")[0] == "one"
    assert run("shapes", tmp_path / "m.pt", "--sort", "params", "--fold").stdout.splitlines()[4].startswith("b.{0–2}")


def test_a_limit_says_what_it_leaves_out_in_every_form(saved: dict[str, Path], tmp_path: Path) -> None:
    path = saved["pt"]
    text = run("shapes", path, "--limit", 3).stdout
    assert "11 more rows not shown; --limit 3 leaves them out" in text
    assert "not shown: Norm ×12; --all" in text
    payload = json.loads(run("shapes", path, "--limit", 3, "--format", "json").stdout)
    assert (len(payload["layers"]), payload["not_shown"], payload["totals"]["layers"]) == (3, 11, 14)
    assert json.loads(run("shapes", path, "--limit", 99, "--format", "json").stdout)["not_shown"] == 0
    table = run("shapes", path, "--limit", 3, "--format", "csv")
    assert len(table.stdout.splitlines()) == 4
    assert table.stderr == "note: 11 more rows not shown; --limit 3 leaves them out\n"
    assert "11 more rows" in run("shapes", path, "--limit", 3, "--format", "md").stdout
    assert "11 more rows" in run("shapes", path, "--limit", 3, "-o", tmp_path / "a.csv").stderr
    assert "1 more row not shown; --limit 13 leaves it out" in run("shapes", path, "--limit", 13).stdout
    assert "more row" not in run("shapes", path, "--limit", 14).stdout
    assert run("shapes", path, "--limit", 0).returncode == 2


@pytest.mark.parametrize("mode", [["--stats"], []])
def test_weights_have_the_same_limit(saved: dict[str, Path], mode: list[str]) -> None:
    words = ["weights", saved["pt"], "*.conv", *mode, "--limit", 2]
    assert "10 more rows not shown" in run(*words).stdout
    payload = json.loads(run(*words, "--format", "json").stdout)
    assert [layer["name"] for layer in payload["layers"]] == BLOCKS[:2]
    assert payload["not_shown"] == 10
    assert "10 more rows not shown" in run(*words, "--format", "csv").stderr


def test_a_tree_shows_modules_with_their_sums(saved: dict[str, Path]) -> None:
    model = Model()
    text = run("shapes", saved["pt"], "--tree").stdout
    lines = {line.split()[-1]: line for line in ("├─ stem", "├─ blocks.{0–11}", "│  └─ conv", "└─ head")}
    assert all(any(row.startswith(line) for row in text.splitlines()) for line in lines.values())
    rows = list(csv.DictReader(io.StringIO(run("shapes", saved["pt"], "--tree", "--format", "csv").stdout)))
    assert [(row["path"], int(row["depth"])) for row in rows] == [
        ("", 0), ("stem", 1), ("blocks", 1), ("blocks.{0–11}", 2), ("blocks.{0–11}.conv", 3), ("head", 1),
    ]  # fmt: skip
    sums = {row["path"]: int(row["parameters"]) for row in rows}
    assert sums[""] == sum(p.numel() for p in model.parameters())
    assert sums["blocks"] == sums["blocks.{0–11}"] == sum(p.numel() for p in model.blocks.parameters())
    assert float(rows[-1]["share"]) == pytest.approx(sums["head"] / sums[""])
    assert rows[4]["weight_shape"] == "16×8×1"
    assert rows[4]["pointwise"] == "true"
    assert "pointwise" in next(line for line in text.splitlines() if "conv" in line and "Conv1d" in line)
    assert "| blocks.{0–11}.conv |" in run("shapes", saved["pt"], "--tree", "--format", "md").stdout


def test_a_tree_in_json_stands_beside_the_layers(saved: dict[str, Path]) -> None:
    plain = json.loads(run("shapes", saved["pt"], "--format", "json").stdout)
    payload = json.loads(run("shapes", saved["pt"], "--format", "json", "--tree").stdout)
    tree = payload.pop("tree")
    assert {layer["name"] for layer in payload["layers"]} == {layer["name"] for layer in plain["layers"]}
    assert {key: value for key, value in payload.items() if key != "layers"} == {
        key: value for key, value in plain.items() if key != "layers"
    }
    (block,) = tree["children"][1]["children"]
    assert (block["name"], block["repeats"], block["layers"]) == ("{0–11}", 12, [])
    assert block["children"][0]["layers"] == BLOCKS
    assert block["children"][0]["weight"] == {"shape": [16, 8, 1], "dtype": "float32"}
    assert tree["share"] == 1


def test_depth_and_limit_and_order_of_a_tree(saved: dict[str, Path]) -> None:
    def names(*words: object) -> list[str]:
        text = run("shapes", saved["pt"], "--format", "csv", *words).stdout
        return [row["path"] for row in csv.DictReader(io.StringIO(text))]

    assert names("--depth", 1) == ["", "stem", "blocks", "head"]
    assert names("--tree", "--depth", 2)[-2:] == ["blocks.{0–11}", "head"]
    assert names("--tree", "--depth", 1, "--sort", "params") == ["", "head", "blocks", "stem"]
    assert names("--tree", "--limit", 3) == ["", "stem", "blocks"]
    assert "2 more rows not shown" in run("shapes", saved["pt"], "--tree", "--limit", 3).stdout, "of the rows drawn"
    assert "no layer" not in run("shapes", saved["pt"], "--tree", "--depth", 1, "--pointwise").stdout, "it lies deeper"
    assert names("--tree", "--pointwise")[-1] == "blocks.{0–11}.conv"
    assert "blocks.{0–11}.norm" in names("--tree", "--all")


def test_the_tree_of_an_optimizer_counts_numbers(tmp_path: Path) -> None:
    model = nn.Linear(3, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "m.pt")
    rows = run("shapes", tmp_path / "m.pt", "--root", "optimizer", "--tree", "--all", "--format", "csv").stdout
    assert "numel" in rows.splitlines()[0]
    expected = sum(v.numel() for state in optimizer.state_dict()["state"].values() for v in state.values())
    assert next(csv.DictReader(io.StringIO(rows)))["numel"] == str(expected)


def test_no_name_in_a_tree_is_obeyed(tmp_path: Path) -> None:
    torch.save({"a\x1b[31m.b\u202e.weight": torch.zeros(2, 3), "[red].weight": torch.zeros(2, 3)}, tmp_path / "m.pt")
    for form in ("table", "csv", "md", "json"):
        text = run("shapes", tmp_path / "m.pt", "--tree", "--all", "--format", form).stdout
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "[red]" in run("shapes", tmp_path / "m.pt", "--tree", "--all").stdout


def test_python_has_the_same_orders_and_the_same_tree(saved: dict[str, Path]) -> None:
    for path in saved.values():
        checkpoint = convinspect.open(path)
        layers = convinspect.select(convinspect.find_layers(checkpoint))
        orders: list[Any] = [None, "name", "params", "size", "file"]
        for order in orders:
            words = ["--sort", order] if order else []
            assert [layer.name for layer in convinspect.sort_layers(checkpoint, layers, order)] == listed(path, *words)
        tree = convinspect.module_tree(checkpoint)
        payload = json.loads(run("shapes", path, "--tree", "--all", "--format", "json").stdout)["tree"]
        assert [child["path"] for child in payload["children"]] == [child.path for child in tree.children]
        assert payload["parameters"] == tree.parameters
        wrong: Any = "weight"
        with pytest.raises(CannotShow, match="sort='weight' is no order; choose one of name, params, size, file"):
            convinspect.sort_layers(checkpoint, layers, wrong)


def test_an_order_that_is_none_is_one_line() -> None:
    done = run("shapes", STNKD, "--sort", "weight")
    assert done.returncode == 2
    assert_one_line(done)


def test_a_folder_is_titled_as_the_folder(tmp_path: Path) -> None:
    sharded = FIXTURES / "sharded"
    assert run("shapes", sharded).stdout.startswith("sharded · safetensors, 2 shards\n")
    assert run("shapes", ".", folder=sharded).stdout.startswith("sharded · safetensors, 2 shards\n")
    assert run("weights", sharded, "--stats").stdout.startswith("sharded · weights of ")
    assert run("diff", sharded, FIXTURES / "sharded_bin").stdout.startswith("A: sharded · B: sharded_bin\n")
    index = sharded / "model.safetensors.index.json"
    assert run("shapes", index).stdout.startswith("model.safetensors.index.json · safetensors, 2 shards\n")
    (tmp_path / "one").mkdir()
    save_file({"a.weight": torch.zeros(2, 3, 1)}, tmp_path / "one" / "model.safetensors")
    assert run("shapes", tmp_path / "one").stdout.startswith("one · safetensors\n")


@pytest.mark.parametrize(
    "words", [["shapes"], ["weights"], ["verify", "--bits"], ["convert", "--to", "linear", "-n"], ["compare"]]
)
def test_part_of_a_name_is_answered_with_the_glob_that_matches(words: list[str]) -> None:
    done = run(words[0], STNKD, *words[1:], "--layer", "onv")
    assert_one_line(done, "no layer matches 'onv'; --layer '*onv*' matches 3 layers: conv1, conv2, conv3")
    assert_one_line(run(words[0], STNKD, *words[1:], "--layer", "cnv1"), "the closest are: conv1")
