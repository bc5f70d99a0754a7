"""The tree of modules: its sums are PyTorch's, its folds stand for what they name, whatever the names."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.containers import Container
from convinspect.layers.find import find_layers
from convinspect.layers.order import listed, natural_key
from convinspect.layers.tree import DEEPEST, Node, joined, module_tree, walk
from convinspect.records import Contents, Root, Tensor
from convinspect.showing.shapes import totals
from support.paths import FIXTURES
from support.sampling import times


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 1)
        self.norm = nn.BatchNorm1d(width)
        self.mlp = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, width))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(12))
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embed.weight


def nodes(root: Node) -> dict[str, Node]:
    return {node.path: node for _, node in walk(root)}


def checkpoint_of(names: list[str]) -> Checkpoint:
    tensors = tuple(Tensor(name, "float32", (2, 3), (3, 1)) for name in names)
    return Checkpoint(Contents(Path("x"), Container.TORCH_ZIP, (Root("", "model", tensors),), 0))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_sums_are_those_of_pytorchs_modules(tmp_path: Path, suffix: str) -> None:
    model = Tied()
    path = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        save_file({name: value.clone() for name, value in model.state_dict().items()}, path)
    checkpoint = open_checkpoint(path)
    tree = module_tree(checkpoint, fold=False)
    found = nodes(tree)
    for name, module in model.named_modules():
        if not list(module.state_dict()):
            continue
        tied = suffix == ".pt"
        state: list[Any] = (
            [*module.parameters()] if tied else [p for _, p in module.named_parameters(remove_duplicate=False)]
        )
        buffers = [*module.buffers()]
        assert found[name].parameters == sum(p.numel() for p in state), name
        assert found[name].nbytes == sum(t.numel() * t.element_size() for t in [*state, *buffers]), name
        assert found[name].tensors == len(module.state_dict())
    assert tree.parameters == sum(tensor.numel for tensor in checkpoint.parameters())
    assert tree.nbytes == checkpoint.totals().nbytes


def test_folding_keeps_every_sum_and_every_layer(tmp_path: Path) -> None:
    torch.save(Tied().state_dict(), tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    layers = find_layers(checkpoint)
    folded, whole = module_tree(checkpoint, layers), module_tree(checkpoint, layers, fold=False)
    assert folded[4:7] == whole[4:7]
    found = nodes(folded)
    assert [child.path for child in found["blocks"].children] == ["blocks.{0–11}"]
    block, conv = found["blocks.{0–11}"], found["blocks.{0–11}.conv"]
    assert (block.name, block.repeats, conv.name, conv.repeats) == ("{0–11}", 12, "conv", 1)
    assert block.parameters == found["blocks"].parameters == nodes(whole)["blocks"].parameters
    assert [layer.name for layer in conv.layers] == [f"blocks.{i}.conv" for i in range(12)]
    assert sorted(layer.name for node in found.values() for layer in node.layers) == sorted(
        layer.name for layer in layers
    )


def test_blocks_that_differ_anywhere_are_not_folded_together(tmp_path: Path) -> None:
    model = nn.ModuleList([Block(), Block(), Block(16), Block()])
    torch.save(model.state_dict(), tmp_path / "model.pt")
    tree = module_tree(open_checkpoint(tmp_path / "model.pt"))
    assert [child.name for child in tree.children] == ["{0–1,3}", "2"]


def test_repeats_in_repeats(tmp_path: Path) -> None:
    model = nn.ModuleList(nn.ModuleList(nn.Linear(3, 4) for _ in range(3)) for _ in range(2))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    tree = module_tree(open_checkpoint(tmp_path / "model.pt"))
    (outer,) = tree.children
    (inner,) = outer.children
    assert (outer.path, outer.repeats, inner.path, inner.repeats, len(inner.layers)) == (
        "{0–1}",
        2,
        "{0–1}.{0–2}",
        3,
        6,
    )
    assert inner.parameters == outer.parameters == tree.parameters == sum(p.numel() for p in model.parameters())


def test_only_what_is_shown_has_nodes_and_all_is_counted(tmp_path: Path) -> None:
    torch.save(Tied().state_dict(), tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    layers = find_layers(checkpoint)
    pointwise = [layer for layer in layers if layer.pointwise]
    tree, whole = module_tree(checkpoint, layers, pointwise), module_tree(checkpoint, layers)
    assert list(nodes(tree)) == ["", "blocks", "blocks.{0–11}", "blocks.{0–11}.conv"]
    for path, node in nodes(tree).items():
        assert node[4:7] == nodes(whole)[path][4:7]
    assert list(nodes(module_tree(checkpoint, layers, pointwise, depth=1))) == ["", "blocks"]
    assert list(nodes(module_tree(checkpoint, layers, [], depth=1))) == [""]


def test_a_depth_leaves_out_and_counts() -> None:
    checkpoint = checkpoint_of(["a.b.c.weight", "a.weight", "d.weight"])
    cut = nodes(module_tree(checkpoint, depth=1))
    assert list(cut) == ["", "a", "d"]
    assert (cut["a"].parameters, cut[""].parameters) == (12, 18)
    assert list(nodes(module_tree(checkpoint, depth=0))) == [""]


def test_numbers_in_names_compare_as_numbers(tmp_path: Path) -> None:
    names = ["conv.1", "conv.2", "conv.10", "layer2.0", "layer10.0", "a.b", "a-b", "x01", "x1", "", "9" * 5000]
    names.reverse()
    assert sorted(names, key=natural_key) == [
        "", "9" * 5000, "a.b", "a-b", "conv.1", "conv.2", "conv.10", "layer2.0", "layer10.0", "x01", "x1",
    ]  # fmt: skip
    state = {f"blocks.{i}.weight": torch.zeros(2, 3) for i in range(12)}
    save_file(state, tmp_path / "model.safetensors")
    torch.save(dict(reversed(state.items())), tmp_path / "model.pt")
    in_numbers = [f"blocks.{i}" for i in range(12)]
    sorted_one, own = open_checkpoint(tmp_path / "model.safetensors"), open_checkpoint(tmp_path / "model.pt")
    assert [layer.name for layer in listed(sorted_one, find_layers(sorted_one))] == in_numbers
    assert [layer.name for layer in listed(own, find_layers(own))] == in_numbers[::-1]


PARTS = st.sampled_from(["0", "1", "2", "10", "01", "a", "b", "", "é", "a b", "{0–1}", "weight"])


@settings(max_examples=times(40, 100), deadline=None)
@given(st.lists(st.lists(PARTS, min_size=1, max_size=4).map(".".join), unique=True, min_size=1, max_size=12))
def test_every_layer_lies_at_its_name(names: list[str]) -> None:
    checkpoint = checkpoint_of(names)
    layers = find_layers(checkpoint)
    whole = module_tree(checkpoint, layers, fold=False)
    for _, node in walk(whole):
        assert all(layer.name == node.path for layer in node.layers)
        assert node.tensors == sum(len(layer.tensors) for layer in node.layers) + sum(c.tensors for c in node.children)
    sums = totals(checkpoint, layers)
    for tree in (whole, module_tree(checkpoint, layers)):
        assert sum(len(node.layers) for _, node in walk(tree)) == len(layers)
        assert (tree.parameters, tree.nbytes, tree.tensors) == (sums["parameters"], sums["tensor_nbytes"], len(names))
        assert owners(joined(tree)) == owners(tree), "what is joined keeps names, repeats and sums"


def owners(root: Node) -> list[tuple[object, ...]]:
    """Each node that has layers: its names from the root, of how many modules all these stand, and what it holds."""
    found: list[tuple[object, ...]] = []
    waiting = [(root.name, 1, root)]
    while waiting:
        path, repeats, node = waiting.pop()
        if node.layers:
            found.append((path, repeats, node.path, node.kind, list(map(id, node.layers)), node[4:7]))
        waiting += [
            (f"{path}.{child.name}" if node is not root else child.name, repeats * child.repeats, child)
            for child in reversed(node.children)
        ]
    return found


def test_a_module_with_nothing_but_another_is_joined_to_it() -> None:
    names = [f"a.b.layers.{i}.mlp.{leaf}.lora.weight" for i in range(3) for leaf in ("up", "down")]
    tree = module_tree(checkpoint_of([*names, "c.own.weight", "c.weight"]))
    assert [(depth, node.name, node.repeats) for depth, node in walk(joined(tree))] == [
        (0, "", 1),
        (1, "a.b.layers.{0–2}.mlp", 3), (2, "up.lora", 1), (2, "down.lora", 1),
        (1, "c", 1), (2, "own", 1),
    ]  # fmt: skip
    repeats = module_tree(checkpoint_of([f"{i}.{j}.weight" for i in range(2) for j in range(3)]))
    assert joined(repeats) == repeats, "two numbers of repeats are not one"


def test_what_counts_more_than_is_shown_below_it_is_not_joined() -> None:
    checkpoint = checkpoint_of(["a.b.c.weight", "a.b.d.weight"])
    layers = find_layers(checkpoint)
    shorter = joined(module_tree(checkpoint, layers, layers[:1]))
    assert [(node.name, node.tensors) for _, node in walk(shorter)] == [("", 2), ("a.b", 2), ("c", 1)]


def test_a_name_of_many_parts_is_no_deep_tree() -> None:
    name = ".".join("ab" for _ in range(20_000))
    tree = module_tree(checkpoint_of([f"{name}.weight", "ab.weight"]))
    depth, last = list(walk(tree))[-1]
    assert (depth, last.path, len(last.layers)) == (DEEPEST, name, 1)
    assert "Node" in repr(tree)


def test_twenty_thousand_tensors_take_a_moment() -> None:
    names = [
        f"{part}.layers.{i}.experts.{j}.{leaf}.weight"
        for part in "ab"
        for i in range(10)
        for j in range(500)
        for leaf in ("up", "down")
    ]
    checkpoint = checkpoint_of(names)
    layers = find_layers(checkpoint)
    begun = time.process_time()
    tree = module_tree(checkpoint, layers)
    assert time.process_time() - begun < 2
    assert [node.path for _, node in walk(tree)][-2:] == [
        "b.layers.{0–9}.experts.{0–499}.up",
        "b.layers.{0–9}.experts.{0–499}.down",
    ]


def test_fixtures_have_the_totals_of_their_listing() -> None:
    seen = 0
    for path in sorted(FIXTURES.glob("*.*")):
        if path.suffix not in (".pt", ".safetensors", ".pth", ".npz"):
            continue
        try:
            checkpoint = open_checkpoint(path)
        except Exception:
            continue
        layers = find_layers(checkpoint)
        tree, sums = module_tree(checkpoint, layers), totals(checkpoint, layers)
        numbers = sums["parameters"] if checkpoint.root.role != "optimizer" else checkpoint.totals().numel
        assert (tree.parameters, tree.nbytes, tree.tensors) == (numbers, sums["tensor_nbytes"], sums["tensors"]), path
        seen += 1
    assert seen > 20
