"""True texts of loaders, broken at random: what is read of them is right, or nothing is promised.

`python tests/error_texts/break_texts.py --number 20000 [--seed N]` by hand; a hundred in the tests.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from convinspect.diffing.texts.items import LoadError
from convinspect.diffing.texts.reading import read_text
from support.breaking import BREAKERS, LOSING

FOLDER = Path(__file__).resolve().parent.parent / "error_texts"
Said = tuple[str, str, tuple[int, ...] | None, tuple[int, ...] | None]


def true_texts() -> list[tuple[dict[str, Any], str]]:
    """The texts as their makers wrote them, with their heads."""
    paths = sorted(path for path in FOLDER.glob("*.txt") if "__" not in path.stem)
    parts = [path.read_bytes().decode().partition("\n") for path in paths]
    return [({**json.loads(head), "name": path.stem}, text) for path, (head, _, text) in zip(paths, parts, strict=True)]


def right_rows(head: dict[str, Any]) -> set[Said]:
    return {
        (trouble, key, *(None if shape is None else tuple(shape) for shape in shapes))
        for trouble, key, *shapes in head["rows"]
    }


def broken(text: str, draw: random.Random) -> tuple[str, list[str]]:
    """A text broken in one to three ways, and these."""
    ways = draw.sample(BREAKERS, draw.choice([1, 1, 2, 3]))
    # Lines are dropped before a console breaks them: what is missing inside a broken name cannot be seen.
    ways = ([draw.choice(LOSING)] if draw.random() < 0.2 else []) + ways
    for _, how in ways:
        text = how(text, draw.randrange(1 << 30))
    return text, [name for name, _ in ways]


def judged(head: dict[str, Any], found: LoadError, ways: list[str]) -> str:
    """ "read", "withheld" where nothing is promised, or "wrong" with what is.

    A text that lost a part may say less, and never something else.
    """
    rows = {(str(item.trouble), item.key, item.checkpoint, item.model) for item in found.items}
    right = right_rows(head)
    hidden = bool(found.unread or found.stops or any(item.folded or item.partial for item in found.items))
    lost = any(name in ways for name, _ in LOSING)
    if head.get("folded"):
        keys = {row[:2] for row in right}
        real = {(str(item.trouble), item.key) for item in found.items if not item.folded}
        return (
            "withheld"
            if (hidden or lost) and real <= keys
            else "read"
            if not rows
            else f"wrong: {sorted(real - keys)[:3]}"
        )
    if rows - right:
        return f"wrong: {sorted(rows - right, key=str)[:3]}"
    if rows == right and not found.unread:
        return "read"
    if not rows or hidden or lost:
        return "withheld"
    return f"wrong: nothing is said of {sorted(right - rows, key=str)[:3]}"


def run(number: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Judgements of many texts, and the wrong ones with what makes them again."""
    texts = true_texts()
    counts: Counter[str] = Counter()
    wrong = []
    for one in range(number):
        draw = random.Random(f"{seed} {one}")
        head, text = draw.choice(texts)
        changed, ways = broken(text, draw)
        judgement = judged(head, read_text(changed), ways)
        counts[judgement.partition(":")[0]] += 1
        if judgement.startswith("wrong"):
            wrong.append(f"seed {seed}, number {one}: {head['name']}, {' '.join(ways)}: {judgement}")
    return counts, wrong
