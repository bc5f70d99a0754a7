"""The texts of `tests/error_texts/`: what is read of each is what its maker's shapes say, or nothing is promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convinspect.diffing.texts.items import LoadError, LoadErrorItem
from convinspect.diffing.texts.reading import read_text
from support.error_texts import run

TEXTS = sorted((Path(__file__).resolve().parent.parent / "error_texts").glob("*.txt"))


def opened(path: Path) -> tuple[dict[str, Any], str]:
    head, _, text = path.read_bytes().decode().partition("\n")
    return json.loads(head), text


def said(item: LoadErrorItem) -> tuple[object, ...]:
    return (str(item.trouble), item.key, item.checkpoint, item.model)


def right(head: dict[str, Any]) -> set[tuple[object, ...]]:
    shapes = ((None if shape is None else tuple(shape) for shape in row[2:]) for row in head["rows"])
    return {(*row[:2], *pair) for row, pair in zip(head["rows"], shapes, strict=True)}


def promises(found: LoadError) -> bool:
    """Whether `diff` may say that a checkpoint loads."""
    return not (found.unread or found.stops or any(item.folded or item.partial for item in found.items))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_every_text_is_read_as_its_maker_meant_it(path: Path) -> None:
    head, text = opened(path)
    found = read_text(text)
    rows = {said(item) for item in found.items}
    if head.get("folded"):
        # The report gives the shapes of one of the keys that it folds, and does not tell which keys there are.
        assert not promises(found)
        assert "broken" in head or {row[:2] for row in rows} >= {row[:2] for row in right(head)}
    elif path.stem not in WITHHELD:
        assert rows == right(head)
        assert bool(found.unread) == bool(head.get("unread"))
        assert found.stops == head["stops"]
        assert all(item.partial == head.get("partial", False) for item in found.items)
    else:
        assert rows <= right(head)
        assert not rows or not promises(found)


WITHHELD = {
    # Broken where nobody can tell whether a name goes on, or in the middle of a colour or of a logger's prefix.
    "mlx_missing__broken_and_logged", "mlx_size__quoted", "mlx_unexpected__box",
    "mmengine_not_strict__logged_and_broken", "mmengine_strict__broken_and_logged",
    "mmengine_strict__ranks", "rich_log__hard", "speechbrain__logged", "tinygrad_size__soft",
    "torch_dcp_missing__quoted", "transformers4_warnings__broken_and_logged",
}  # fmt: skip


def test_there_are_enough_of_them() -> None:
    assert len(TEXTS) >= 60
    assert sum("__" not in path.stem for path in TEXTS) >= 40


@pytest.mark.parametrize("escape", ["^[", "\\x1b", "\x1b"])
@pytest.mark.parametrize("kept", range(1, 7))
def test_a_colour_that_a_console_broke_in_two_is_no_part_of_a_sentence(escape: str, kept: int) -> None:
    colour = f"{escape}[1;31m"
    text = f"Missing {colour}keys (scale) discovered while loading pretrained weights.\n"
    at = text.index(colour) + len(escape) - 1 + kept
    found = read_text(f"INFO:timm:{text[:at]}\nINFO:timm:{text[at:]}")
    assert [said(item) for item in found.items] == [("missing", "scale", None, None)] or found.unread


@pytest.mark.parametrize("word", ["UNEXPECTED", "MISMATCH"])
def test_two_rows_of_a_table_whose_frame_is_gone_are_not_read_as_one(word: str) -> None:
    found = read_text(f"Key | Status |\n--+--+\nbert.old.weight\n{word}\nbert.pooler.bias | MISSING |\n")
    assert not promises(found) or not found.items


@pytest.mark.parametrize(
    "sentence",
    [
        "During parameter transfer to E loading from /a, the transferred parameters did not have parameters for the "
        "key: scale.wei",
        "unexpected key in source state_dict: head.bias, head.wei",
    ],
)
def test_a_list_without_an_end_may_have_been_cut_off_in_a_name(sentence: str) -> None:
    found = read_text(sentence)
    assert not found.items
    assert found.unread
    assert read_text(f"{sentence}\n").items


def test_texts_broken_at_random_are_read_or_nothing_is_promised() -> None:
    counts, wrong = run(400, seed=3)
    assert not wrong
    assert counts["read"] > 150
