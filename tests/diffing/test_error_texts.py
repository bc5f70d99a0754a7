"""The texts of `tests/error_texts/`: what is read of each is what its maker's shapes say, or nothing is promised."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convinspect.diffing.texts.items import LoadError, LoadErrorItem
from convinspect.diffing.texts.peeling import peeled
from convinspect.diffing.texts.reading import read_text
from support.breaking import box, boxed_and_prefixed, broken_and_logged, logged_and_broken, prefixed_and_broken
from support.error_texts import run
from support.sampling import times

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
    return not (
        found.unread
        or found.stops
        or found.headless
        or found.endless
        or any(item.folded or item.partial for item in found.items)
    )


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
    # Of several processes, or broken where nobody can tell whether a name goes on, or within a colour or a prefix.
    "diffusers_0_20__logged_and_broken", "json_log__box", "mlx_unexpected__escaped", "mlx_unexpected__processes",
    "mmcv_0_2__logged_and_broken", "mmengine_not_strict__ranks", "rich_traceback__prefixed_and_broken",
    "speechbrain__logged_and_broken", "speechbrain__numbered", "torch_dcp_missing__processes", "torch_dcp_ranks",
    "torch_dcp_ranks__escaped", "torch_dcp_ranks__numbered", "torch_dcp_ranks__prefixed",
}  # fmt: skip


@pytest.mark.parametrize(
    "prefix",
    [
        "2026-11-29T12:00:00.{:09}Z stdout F ", "[E1129 12:00:00.{:06} 7 load.py:10] ", "[E1129 12:00:00 load.py 7] ",
        "E1129 12:00:00 load.py:10] ", "+ ", "node-3 » train/{} » ", "<14>1 2026-11-29T12:00:00Z host train {} - - ",
        "[12:00] (a gpu) => ",
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", ["{}", "│ {}"])
def test_what_stands_the_same_before_all_lines_is_a_prefix_whatever_it_is(prefix: str, shape: str) -> None:
    head, text = opened(TEXTS[0].with_name("torch_strict.txt"))
    lines = [prefix.format(place) + shape.format(line) for place, line in enumerate(text.split("\n"))]
    found = read_text("\n".join(lines))
    assert {said(item) for item in found.items} == right(head)
    assert promises(found)


def test_a_complaint_in_any_entry_of_a_record_is_seen() -> None:
    said = "size mismatch for a: copying a param with shape torch.Size([4]) from checkpoint, the shape in current model"
    lines = [
        json.dumps({"message": f"{said} is torch.Size([{n}]).", "detail": "b.weight: shape mismatch"})
        for n in (5, 6, 7)
    ]
    found = read_text("\n".join(lines))
    assert found.unread


def test_words_of_the_text_itself_are_no_prefix() -> None:
    lines = [f"size mismatch for blocks.{n}.weight: shape [4, 1] against [4]" for n in range(12)]
    assert read_text("\n".join(lines)).unread
    rows = [f"bert.layer.{n}.weight | MISSING | " for n in range(12)]
    assert read_text("\n".join(rows)).unread
    assert not read_text("\n".join(rows)).items


def test_the_rest_of_a_line_that_was_broken_belongs_to_the_outer_process() -> None:
    """It has the mark that the launcher wrote, and not the one within."""
    pieces = ["[rank0]: size mismatch for {}: copying a param", "with shape torch.Size([{}, 1]) from checkpoint,",
              "the shape in current model is torch.Size([{}])."]  # fmt: skip
    first = ["[rank3]: " + piece.format(said) for piece, said in zip(pieces, ("a", 4, 4), strict=True)]
    second = ["[rank1]: " + piece.format(said) for piece, said in zip(pieces, ("b", 5, 5), strict=True)]
    found = read_text("\n".join(line for pair in zip(first, second, strict=True) for line in pair) + "\n")
    rows = {said(item) for item in found.items}
    assert rows <= {("size mismatch", "a", (4, 1), (4,)), ("size mismatch", "b", (5, 1), (5,))}


@pytest.mark.parametrize("mark", ["(Worker pid=7) ", "[default0]:", "node-{} » "])
def test_processes_within_one_are_not_mixed_by_a_line_of_the_outer_one(mark: str) -> None:
    pieces = ["size mismatch for {}: copying a", "param with shape torch.Size([{}, 1]) from checkpoint,",
              "the shape in current model is torch.Size([{}])."]  # fmt: skip
    first = ["[rank0]: " + piece.format(said) for piece, said in zip(pieces, ("a", 4, 4), strict=True)]
    second = ["[rank1]: " + piece.format(said) for piece, said in zip(pieces, ("b", 5, 5), strict=True)]
    lines = ["loading a.pt", first[0], second[0], *first[1:], *second[1:], "done"]
    text = "".join(f"{mark.format(node)}{line}\n" for line in lines for node in (0, 1, 0)[: 1 + 2 * ("{" in mark)])
    rows = {said(item) for item in read_text(text).items}
    assert rows <= {("size mismatch", "a", (4, 1), (4,)), ("size mismatch", "b", (5, 1), (5,))}


def test_nothing_is_said_across_the_lines_of_two_processes() -> None:
    text = (
        "[rank0]: size mismatch for a: copying a param\n[rank1]: with shape torch.Size([4]) from checkpoint, the shape "
    )
    found = read_text(f"{text}in current model is torch.Size([5]).\n")
    assert not found.items
    assert found.unread


def interleaved(form: str, text: str) -> str:
    """Two processes, two lines of one and then two of the other."""
    queues = [[form.format(one, place) + line for place, line in enumerate(text.split("\n"))] for one in (0, 1)]
    size = range(0, len(queues[0]), 2)
    return "\n".join(line for at in size for queue in queues for line in queue[at : at + 2])


@pytest.mark.parametrize(
    "form", ["node-{} » ", "(gpu {} of 4) ", "[12:00:00.{1:03} p{0}] ", "{1:>4} node-{0} | ", '{{"rank": {}}} '],
)  # fmt: skip
@pytest.mark.parametrize("width", [37, 61])
def test_processes_are_told_by_numbers_that_go_up_and_down(form: str, width: int) -> None:
    for name in ("torch_strict", "mmengine_strict", "safetensors_model"):
        head, text = opened(TEXTS[0].with_name(f"{name}.txt"))
        pieces = [line[at : at + width] for line in text.split("\n") for at in range(0, len(line) or 1, width)]
        found = read_text(interleaved(form, "\n".join(pieces)))
        rows = {said(item) for item in found.items}
        assert rows <= right(head)
        assert rows == right(head) or not rows or not promises(found)


def test_times_that_begin_again_are_no_processes() -> None:
    head, text = opened(TEXTS[0].with_name("torch_strict.txt"))
    lines = [f"12:59:{58 + n // 4}.{n * 25 % 100:02} job {line}" for n, line in enumerate(text.split("\n"))]
    found = read_text("\n".join(lines).replace("12:59:60", "13:00:00").replace("12:59:61", "13:00:01"))
    assert {said(item) for item in found.items} == right(head)


@pytest.mark.parametrize(
    "stamp", ["[2026.11.29 12:00:{:02}] (train) => ", "2026-11-29T12:00:{:02}.5Z F ", "12:00:{:02} | "]
)
def test_a_time_of_day_that_goes_back_tells_no_processes(stamp: str) -> None:
    """The machines whose lines were gathered do not agree on the time."""
    said_last = ["Missing key(s) in state_dict:", '"scale".', "word", "Unexpected key(s) in state_dict:", '"b.c".', ""]
    lines = [f"word {n}" for n in range(56)] + said_last
    found = read_text("\n".join(stamp.format(n % 60 if n % 7 else (n + 3) % 60) + line for n, line in enumerate(lines)))
    assert {said(item)[:2] for item in found.items} == {("missing", "scale"), ("unexpected", "b.c")}


def test_the_rest_of_a_name_below_a_loggers_mark_belongs_to_its_beginning() -> None:
    """A launcher's mark stood before the line that the console broke, a logger's before each piece."""
    said_first = "[rank0]: ValueError: Expected shape (8, 6) but received shape (8, 6, 1) for parameter layers.0.weigh"
    stamp = "E0301 12:00:00.123456 4242 load.py:10] "
    found = read_text(f"{stamp}{said_first}\n{stamp}t\n{stamp}[rank0]: \n")
    assert {item.key for item in found.items} <= {"layers.0.weight"}


def test_a_rule_is_no_piece_of_a_name() -> None:
    text = '┃ Missing key(s) in state_dict: "a.b\n_ ┃\n┃ c.weight".  \n  ┃\n'
    assert {item.key for item in read_text(text).items} <= {"a.b_c.weight"}


@pytest.mark.parametrize("mark", ["", "[rank0]: "])
def test_half_a_frame_is_no_blank_line(mark: str) -> None:
    lines = ["# ┃ unexpected key in source state_dict: a.b, head.w ", " ┃", "# ┃ eight ", " ┃", "# ┃ ", ""]
    found = read_text("\n".join(mark + line for line in lines))
    assert {item.key for item in found.items} <= {"a.b", "head.weight"}


def test_a_sentence_that_something_interrupts_is_seen() -> None:
    text = "Some weights of the model checkpoint at bert were not \n  10  used when initializing Bert: ['a.b']\n"
    assert read_text(text).unread


def test_the_end_of_a_record_is_not_the_end_of_what_it_holds() -> None:
    said_first = (
        "The model and loaded state dict do not match exactly\n\nunexpected key in source state_dict: a.b, head.wei"
    )
    text = "\n".join(f"node-{n} » " + json.dumps({"message": said_first}) for n in (0, 1, 2, 3))
    assert not any(item.key.startswith("head") for item in read_text(text).items)


def test_a_piece_without_a_number_and_a_mark_belongs_to_the_line_above() -> None:
    lines = [f"[rank{n % 2}]: word {n}" for n in range(30)]
    lines += [
        "[rank1]: Size mismatch between saved torch.Size([8, 6]) and current: torch.Size([9, 6]) for model.proj.w"
    ]
    text = "\n".join(f"{n}:{line}" for n, line in enumerate(lines))
    for rest in ("eight\n32:\n33:\n", "32:eight\n33:\n34:\n"):
        assert {item.key for item in read_text(f"{text}\n{rest}").items} <= {"model.proj.weight"}


def test_a_list_whose_heading_something_interrupts_is_seen() -> None:
    assert read_text("_IncompatibleKeys(missing_keys=['a'], u\n2026: nexpected_keys=['b.c'])\ndone\n").unread


def test_a_number_alone_on_a_line_is_no_part_of_a_name_or_a_shape() -> None:
    text = (
        "size mismatch for a: copying a param with shape torch.Size([1000,\n  40\n256]) from checkpoint, the shape in "
    )
    found = read_text(f"{text}current model is torch.Size([10, 256]).\n")
    assert {item.checkpoint for item in found.items} <= {(1000, 256)}
    rows = "Key | Status |\n---+---\na.b | UNEXPECTED |\n17\nc.d | MISSING |\n"
    assert {item.key for item in read_text(rows).items} <= {"a.b", "c.d"}


def test_a_number_of_the_text_is_no_number_of_a_line() -> None:
    lines = [*(f"{n:>4}  {word}" for n, word in enumerate("abcdefghijklmnopqrs", 1)), "1, 1]) from checkpoint"]
    found = peeled("\n".join(lines), len)
    assert found is not None
    assert [line.text for line in found][-2:] == [" s", "1, 1]) from checkpoint"]


def test_a_line_with_a_part_of_the_prefix_is_the_rest_of_one_that_has_it_all() -> None:
    lines = [f">> {n}" for n in range(12)]
    lines += [
        ">> The model and loaded state dict do not match exactly",
        ">> unexpected key in source state_dict: a.b, c.",
        "d",
    ]
    found = read_text("\n".join(f"[rank0]: {line}" for line in [*lines, ">> "]))
    assert {item.key for item in found.items} <= {"a.b", "c.d"}


def test_the_quote_of_json_ends_no_name() -> None:
    text = 'safetensors: Error(s) in loading state_dict for Net:\n    Unexpected key(s) in state_dict: "ema.dec'
    found = read_text('{"message": "' + text.replace('"', '\\"').replace("\n", "\\n") + '"}\n')
    assert not found.items


@pytest.mark.parametrize("name", ["scale", "module.a"])
def test_half_a_colour_takes_nothing_from_a_name_in_the_line_below(name: str) -> None:
    text = f'Missing key(s) in state_dict: \x1b[1;35\n{name}"'
    assert all(item.key == name for item in read_text(f"{text}.\n").items)
    found = read_text(f'[rank1]: Missing key(s) in state_dict: \x1b[1;35\n[rank0]: Missing key(s): "{name}".\n')
    assert all(item.key == name for item in found.items)


@pytest.mark.parametrize("name", ["torch_strict", "torch_0_4", "mmengine_strict", "lightning_error", "fairseq"])
def test_a_text_without_its_beginning_is_known_as_such(name: str) -> None:
    """Lines scrolled away: what they said is not known."""
    _, text = opened(TEXTS[0].with_name(f"{name}.txt"))
    lines = text.split("\n")
    begins = next(at for at, line in enumerate(lines) if "Error(s) in" in line or "do not match exactly" in line)
    assert promises(read_text("\n".join(lines[begins:])))
    for start in range(begins + 1, len(lines)):
        found = read_text("\n".join(lines[start:]))
        # Nothing is lost where PyTorch's first sentence is there.
        assert not found.items or not promises(found) or "Missing key(s)" in lines[start]


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


@pytest.mark.parametrize("status", ["MISSING", "UNEXPECTED"])
def test_a_row_of_a_table_without_its_name_takes_the_promise_back(status: str) -> None:
    table = f"Key | Status |\n--+--+\nbert.a.weight | {status} |\n{{}}\nNotes:\n"
    assert promises(read_text(table.format("")))
    assert not promises(read_text(table.format(f"{status} |")))


@pytest.mark.parametrize("name", ["w", "bert.pooler.bias"])
def test_the_longest_name_of_a_table_is_no_loggers(name: str) -> None:
    details = "Reinit due to size mismatch - ckpt: torch.Size([4, 6, 1]) vs model:torch.Size([4, 6])"
    text = f"Key | Status | Details\n----+----+---\n{name} | MISMATCH | {details}\n\nNotes:\n"
    found = read_text("".join(f"2026-11-29 14:03:01,123 - trainer - INFO - {line}\n" for line in text.split("\n")))
    assert [said(item) for item in found.items] == [("size mismatch", name, (4, 6, 1), (4, 6))]


def test_a_row_that_was_cut_off_within_its_name_takes_the_promise_back() -> None:
    table = "Key | Status |\n--+--+\nbert.a.weight | MISSING |\nbert.b.wei"
    assert read_text(table).items
    assert not promises(read_text(table))


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


_MISSING_KEY = "RuntimeError: Missing key in checkpoint state_dict: layers.0.norm.weight."
_NOT_USED = (
    "During parameter transfer to E loading from /a, the object could not use the parameters loaded with the key: a.b"
)


@pytest.mark.parametrize("sentence", [_MISSING_KEY, _NOT_USED])
@pytest.mark.parametrize(
    "stamp", ["[2026-03-01 12:00:00,123] [ERROR] [engine.py:10:load] ", "ERROR:root:", "[12:00:00] "]
)
@pytest.mark.parametrize(
    "end", ["{other}done", "{stamp}[train.sh] \n{other}done", "{stamp}[train.sh] \n{stamp}done"],
)  # fmt: skip
def test_another_record_is_not_the_rest_of_a_name(sentence: str, stamp: str, end: str) -> None:
    """The line that ends with the name is as long as others that a console broke, and all have a logger's prefix."""
    half = len(sentence) // 2
    pieces = [*(f"word {n}" for n in range(30)), "x" * (len(sentence) - half), sentence[:half], sentence[half:]]
    lines = [*(stamp + piece for piece in pieces), end.format(stamp=stamp, other="2026-03-01 12:00:00 INFO "), ""]
    assert {item.key for item in read_text("\n".join(lines)).items} <= {"layers.0.norm.weight", "a.b"}


@pytest.mark.parametrize(
    "said_last", [_MISSING_KEY, "ValueError: Missing 2 parameters: layers.0.bias,layers.1.weight."]
)
def test_a_list_that_its_loader_ends_with_a_full_stop_has_one(said_last: str) -> None:
    keys = {"layers.0.norm.weight", "layers.0.bias", "layers.1.weight"}
    assert {item.key for item in read_text(f"{said_last}\n").items} <= keys
    assert read_text(f"{said_last}\n").items
    # As long as the lines of a console that broke them.
    found = read_text(f"{'x' * len(said_last)}\n{said_last}\ndone\n")
    assert {item.key for item in found.items} <= keys
    assert not read_text(f"{said_last[:-4]}\n").items


_UNENDED = (
    "unexpected key in source state_dict: ema.decay, {}", "missing keys in source state_dict: {}",
    _NOT_USED.removesuffix("a.b") + "{}",
    "Loading adapter weights from state_dict led to missing keys in the model: {}",
    "ValueError: Expected shape (8, 6) but received shape (8, 6, 1) for parameter {}",
    "ValueError: Size mismatch between saved torch.Size([8, 6]) and current: torch.Size([9, 6]) for {}",
)  # fmt: skip
"""Sentences with names that end with their line."""


@pytest.mark.parametrize("sentence", _UNENDED)
@pytest.mark.parametrize("word", ["done", "Killed", "train.sh", "Saving...", "main.py, done", "slurm-3.out", "a_b"])
@pytest.mark.parametrize("mark", ["", "ERROR:root:", "[train.sh] ", "[rank0]: "])
def test_a_word_below_a_name_that_ends_at_the_consoles_edge_is_none_of_it(sentence: str, word: str, mark: str) -> None:
    line = sentence.format("head.scale")
    lines = ["loading a.pth", "x" * len(line), line, word]
    found = read_text("".join(f"{mark}{said}\n" for said in lines))
    assert {item.key for item in found.items} <= {"ema.decay", "head.scale"}
    assert found.unread or {item.key for item in found.items} >= {"head.scale"}


@pytest.mark.parametrize("sentence", _UNENDED)
@pytest.mark.parametrize("mark", ["", "ERROR:root:", "[train.sh] "])
def test_the_rest_of_a_name_that_a_console_broke_is_read(sentence: str, mark: str) -> None:
    line = sentence.format("head.extra_long_name.weight")
    first, rest = line[:-14], line[-14:]
    lines = ["loading a.pth", "x" * len(first), "y", first, rest, ""]
    found = read_text("".join(f"{mark}{said}\n" for said in lines))
    assert {item.key for item in found.items} - {"ema.decay"} == {"head.extra_long_name.weight"}


_FRAMES = ((boxed_and_prefixed, broken_and_logged, box), (boxed_and_prefixed, box, logged_and_broken),
           (broken_and_logged, box, prefixed_and_broken))  # fmt: skip


@pytest.mark.parametrize("ways", _FRAMES, ids=lambda ways: " ".join(how.__name__ for how in ways))
@pytest.mark.parametrize("sentence", _UNENDED)
def test_the_side_of_a_frame_that_a_console_broke_is_no_blank_line(
    sentence: str, ways: tuple[Callable[[str, int], str], ...]
) -> None:
    text = "loading a.pth\n\n" + sentence.format("head.extra_long_name.weight") + "\n\nmissing b.weight\n"
    for seed in range(times(8, 40)):
        broken = text
        for place, how in enumerate(ways):
            broken = how(broken, 3 * seed + place)
        assert {item.key for item in read_text(broken).items} <= {"ema.decay", "head.extra_long_name.weight"}


@pytest.mark.parametrize("escape", ["^[", "\x1b"])
@pytest.mark.parametrize("stamp", ["[2026-03-01 12:00:00,123] [ERROR] [engine.py:10:load] ", "ERROR:root:"])
def test_a_record_whose_first_line_was_half_a_colour_begins_below_it(escape: str, stamp: str) -> None:
    line = "missing keys in source state_dict: head.sca"
    lines = ["x" * len(line), "y" * len(line), line, "", f"2026/03/01 12:00:00 - mmengine - INFO {escape}"]
    found = read_text("".join(f"{stamp}{said}\n" for said in [*lines, "[1;31m-" + f"{escape}[0m le", ""]))
    assert {item.key for item in found.items} <= {"head.sca"}


@pytest.mark.parametrize("mark", ["[rank{}]: ", "(gpu {}) ", "node-{} » ", "worker {}: ", "[proc_{}] "])
def test_processes_that_wrote_a_line_each_are_told_by_the_word_before_their_number(mark: str) -> None:
    said_first = "Loading adapter weights from state_dict led to unexpected keys found in the model: norm.extra_la"
    text = "\n".join(mark.format(number) + said_first for number in range(3))
    found = read_text(text)
    assert not found.items
    assert found.unread


@pytest.mark.parametrize("sentence", _UNENDED)
@pytest.mark.parametrize("below", ["2026-03-01 12:00:00 INFO done", "\nKilled", "\n2026-03-01 12:00:00 INFO done"])
def test_what_stands_below_a_list_that_was_cut_off_is_none_of_its_names(sentence: str, below: str) -> None:
    begun = sentence.format("").removesuffix("ema.decay, ")
    assert {item.key for item in read_text(f"loading a.pt\n{begun}\n{below}\n").items} == set()


def test_a_name_at_the_consoles_edge_may_have_lost_its_rest() -> None:
    line = "Hot swapping the adapter did not succeed, unexpected keys found: head.extra_long_nam"
    found = read_text(f"{'x' * len(line)}\n{line}\nLoading other things that stand between\n")
    assert not found.items
    assert found.unread


@pytest.mark.parametrize("rest", ["ma.decay, head.weight", "ma.decay, head.extra_long_name,", "ma.decay, b, c"])
@pytest.mark.parametrize("prefix", ["[E1129 12:00:00 load.py:10 7] ", ""])
def test_half_a_prefix_is_no_blank_line_within_a_list(rest: str, prefix: str) -> None:
    """A console broke lines behind their prefix, so that nothing is left of some once it is taken off."""
    lines = [prefix + "The model and loaded state dict do not match exactly", prefix]
    lines += [prefix + "unexpected key in source state_dict: e", prefix, rest, prefix, prefix]
    found = read_text("\n".join(f"2026-03-01T12:00:00.123Z {line}" for line in lines))
    assert "e" not in {item.key for item in found.items}


def test_a_blank_line_and_a_sentence_end_a_list() -> None:
    text = "unexpected key in source state_dict: ema.decay, e\n\nmissing keys in source state_dict: scale\n\n"
    found = read_text(f"The model and loaded state dict do not match exactly\n\n{text}")
    assert [item.key for item in found.items] == ["ema.decay", "e", "scale"]
    assert promises(found)


def test_texts_broken_at_random_are_read_or_nothing_is_promised() -> None:
    number = times(120, 400)
    counts, wrong = run(number, seed=3)
    assert not wrong
    assert counts["read"] > 0.375 * number


def test_a_table_cut_between_two_rows_promises_nothing() -> None:
    """transformers 5 writes notes below its table; without them nobody knows how many rows there were."""
    (path,) = (path for path in TEXTS if path.stem == "transformers5_error")
    lines = opened(path)[1].splitlines()
    (notes,) = (number for number, line in enumerate(lines) if "Notes" in line)
    assert not read_text("\n".join(lines)).endless
    for end in range(notes - 4, notes):
        cut = read_text("\n".join(lines[:end]))
        assert cut.endless
        assert not promises(cut)
