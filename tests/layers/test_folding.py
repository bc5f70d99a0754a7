"""Folded names, expanded again by a reader of the notation, are exactly the names that were folded."""

from __future__ import annotations

import itertools
import math
import re
import time

from hypothesis import example, given, settings
from hypothesis import strategies as st

from convinspect.layers.folding import fold, unfolded
from convinspect.records import Layer, Tensor
from support.sampling import times


def layer(name: str, shape: tuple[int, ...] = (4, 6, 1), kind: str = "Conv1d", tags: tuple[str, ...] = ()) -> Layer:
    weight = Tensor(f"{name}.weight", "float32", shape, (0,) * len(shape))
    return Layer(name, kind, "shape", {"weight": weight}, weight, tags=tags)


def expanded(name: str) -> list[str]:
    """All names that `a.{0–2,5}.b` stands for."""
    choices: list[list[str]] = []
    for part in name.split("."):
        inside = re.fullmatch(r"\{(.*)\}", part)
        if inside is None:
            choices.append([part])
            continue
        numbers: list[str] = []
        for run in inside[1].split(","):
            first, _, last = run.partition("–")
            numbers += map(str, range(int(first), int(last or first) + 1))
        choices.append(numbers)
    return [".".join(parts) for parts in itertools.product(*choices)]


PARTS = st.sampled_from(["0", "1", "2", "3", "7", "10", "00", "01", "٣", "²", "a", "b", "x1", "", "-1"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map(".".join)
SHAPES = st.sampled_from([(4, 6, 1), (4, 6, 1), (8, 6, 1)])


@settings(max_examples=times(40, 100), deadline=None)
@given(st.lists(st.tuples(NAMES, SHAPES), unique_by=lambda pair: pair[0], max_size=16))
@example([(f"{i}.a.{j}", (4, 6, 1)) for i in range(3) for j in range(2)])
@example([("a.0", (4, 6, 1)), ("a.00", (4, 6, 1)), ("a.1", (4, 6, 1))])
def test_folds_expand_to_the_names_that_were_folded(named: list[tuple[str, tuple[int, ...]]]) -> None:
    layers = [layer(name, shape) for name, shape in named]
    folds = fold(layers)
    for each in folds:
        assert sorted(expanded(each.name)) == sorted(member.name for member in each.layers)
        assert len({member.weight.shape for member in each.layers}) == 1
        assert list(each.layers) == [one for one in layers if one in each.layers]
    assert sorted(member.name for each in folds for member in each.layers) == sorted(name for name, _ in named)
    firsts = [layers.index(each.layers[0]) for each in folds]
    assert firsts == sorted(firsts)
    numel = sum(member.numel for each in folds for member in each.layers)
    assert numel == sum(math.prod(shape) for _, shape in named)


def test_blocks_fold_as_in_the_manual() -> None:
    folds = fold([layer(f"encoder.{i}.conv") for i in range(12)] + [layer("head")])
    assert [(each.name, len(each.layers)) for each in folds] == [("encoder.{0–11}.conv", 12), ("head", 1)]


def test_gaps_and_two_levels() -> None:
    names = [f"h.{i}.{j}.fc" for j in (0, 1) for i in (0, 1, 2, 5)]
    (only,) = fold([layer(name) for name in names])
    assert only.name == "h.{0–2,5}.{0–1}.fc"
    assert [member.name for member in only.layers] == names


def test_an_unfinished_product_is_not_claimed() -> None:
    folds = fold([layer(name) for name in ("h.0.0", "h.0.1", "h.1.0")])
    assert [each.name for each in folds] == ["h.0.{0–1}", "h.1.0"]


def test_what_differs_does_not_fold() -> None:
    alike = layer("h.0")
    for other in (
        layer("h.1", (4, 6, 3)),
        layer("h.1", kind="Conv2d"),
        layer("h.1", tags=("tied",)),
        layer("g.1"),
        layer("h.x"),
    ):
        assert [each.name for each in fold([alike, other])] == [alike.name, other.name]


def test_unfolded_is_each_by_itself() -> None:
    layers = [layer("h.0"), layer("h.1")]
    assert [(each.name, each.layers) for each in unfolded(layers)] == [(one.name, (one,)) for one in layers]
    assert fold([]) == unfolded([]) == []


def test_hostile_names_cost_nothing() -> None:
    names = ["9" * 10_000, "8" * 10_000, ".".join("0" * 50_000), ".".join("1" * 50_000)]
    start = time.perf_counter()
    folds = fold([layer(name) for name in names])
    assert time.perf_counter() - start < 1
    assert [each.name for each in folds] == names
