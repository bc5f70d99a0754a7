"""JSON changed by its structure, duplicate keys included."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from pickle_mutations import WORDS, number


class Pairs(list[tuple[str, Any]]):
    """An object as its pairs, so that a key may occur twice."""


class Raw(str):
    """Text that stands for itself."""


PATHS = (
    *("../outside.safetensors", "/etc/passwd", "a/../../b", "..\\b", "C:\\b", "", ".", "..", "one\0two", "\ud800"),
    *("model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    *("pytorch_model-00001-of-00002.bin", "folder", "x" * 5_000, "./model-00001-of-00002.safetensors", "\x1b[31m"),
)
_TYPES = ("F32", "F16", "BF16", "I64", "BOOL", "U8", "F64", "F8_E4M3", "F4", "C64", "f32", "float32", "F33")
_DEEP = tuple(
    Raw(opening * depth + closing * depth)
    for opening, closing in (("[", "]"), ('{"a":', ""), ("[1,", "2]"))
    for depth in (50, 990, 5_000)
)
_RAW = (
    *map(Raw, ("NaN", "-Infinity", "1e400", "01", "'a'", "1" * 5_000, "[,]", "tru", '"\\ud800"', "-0", "1.0")),
    *_DEEP,
)


def mutated(random: Random, text: bytes) -> bytes:
    """The text with one to five changes to what it describes."""
    tree = json.loads(text, object_pairs_hook=Pairs)
    for _ in range(random.choice((1, 1, 1, 2, 3, 5))):
        tree = _changed(random, tree)
    return written(tree).encode("utf-8", "surrogatepass")


def written(value: Any) -> str:
    """JSON text of a tree with `Pairs` and `Raw` in it."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{written(one)}" for key, one in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


def anything(random: Random) -> Any:
    """A value of any kind."""
    kinds: tuple[Any, ...] = (
        *(number(random), float(number(random)), random.choice(WORDS), random.choice(PATHS), random.choice(_TYPES)),
        *(None, True, False, [], Pairs(), [number(random)], [0, number(random)], random.choice(_RAW)),
        [1] * random.choice((3, 64, 65, 3_000)),
        Pairs([(random.choice(WORDS), number(random))]),
    )
    return random.choice(kinds)


def _changed(random: Random, tree: Any) -> Any:
    """One change, somewhere below."""
    if not isinstance(tree, list) or not tree or random.random() < 0.02:
        return anything(random)
    at = random.randrange(len(tree))
    if random.random() < 0.6:
        one = tree[at]
        changed = _changed(random, one[1] if isinstance(tree, Pairs) else one)
        tree[at] = (one[0], changed) if isinstance(tree, Pairs) else changed
        return tree
    _rearranged(random, tree, at)
    return tree


def _rearranged(random: Random, tree: list[Any], at: int) -> None:
    other = random.randrange(len(tree))
    action = random.randrange(5)
    if action == 0:
        del tree[at]
    elif action == 1:
        tree.insert(other, tree[at])
    elif action == 2 and isinstance(tree, Pairs):
        tree[at] = (random.choice((random.choice(WORDS), tree[other][0])), tree[at][1])
    elif action == 3 and isinstance(tree, Pairs):
        tree[at] = (tree[at][0], tree[other][1])
    else:
        tree[at], tree[other] = tree[other], tree[at]
