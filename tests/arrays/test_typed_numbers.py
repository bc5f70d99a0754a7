"""Numbers as people type them, or as a text holds them: whatever is no size ends in one line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convinspect.arrays.kernels import indices
from convinspect.cli import main
from convinspect.diffing.load_error import read_error
from convinspect.errors import CannotShow
from convinspect.verifying.inputs import parse_input
from support.paths import FIXTURES, STNKD

LONG = "1" * 5000
"""More digits than Python turns into an integer."""
HUGE = "99999999999999999999999"
"""More than 64 bits hold."""


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "--length", "2²"),
        ("compare", "--length", LONG),
        ("compare", "--length", HUGE),
        ("compare", "--batch", HUGE),
        ("compare", "--length", "1,,2"),
        ("weights", STNKD, "conv1", "--rows", LONG),
        ("weights", STNKD, "conv1", "--cols", f"-{LONG}:"),
        ("weights", STNKD, "conv1", "--kernel", HUGE),
        ("verify", STNKD, "--batch", HUGE),
        ("verify", STNKD, "--length", HUGE),
        ("explain", FIXTURES / "pointnet_stnkd.pt", "conv1", "--seed", HUGE),
        ("explain", "--row", HUGE),
    ],
)
def test_a_number_that_is_none_is_one_line(
    words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["convinspect", *map(str, words)])
    monkeypatch.setattr("gc.disable", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert "Traceback" not in told
    assert "rror" in told


@pytest.mark.parametrize(
    "text", ["²x3", f"2x{LONG}", f"2x3x{HUGE}", "2x3x99999999999999", f"2x3:int64:{HUGE}", "2x-3", "x"]
)
def test_an_input_that_cannot_be_made_is_one_line(text: str) -> None:
    with pytest.raises(CannotShow) as raised:
        parse_input(text, 0)
    assert len(str(raised.value)) < 400


@given(st.text(alphabet="0123456789x:²٣-_ intflobad ", max_size=20))
def test_any_text_is_an_input_or_an_error(text: str) -> None:
    sizes = text.partition(":")[0].lower().split("x")
    if any(len(size) > 3 for size in sizes):
        return
    try:
        made = parse_input(text, 0)
    except CannotShow:
        return
    assert list(made.shape) == [int(size) for size in sizes]


@given(st.text(alphabet="0123456789:-²٣ ", max_size=30))
def test_any_text_is_a_slice_or_an_error(text: str) -> None:
    try:
        chosen = indices(text, 10, "rows")
    except CannotShow:
        return
    assert set(chosen) <= set(range(10))


def test_sizes_that_no_tensor_has_are_passed_over() -> None:
    line = "size mismatch for {}: copying a param with shape torch.Size([{}]) from checkpoint,"
    line += " the shape in current model is torch.Size([1])."
    found = read_error("\n".join([line.format("a", LONG), line.format("b", "3, 4"), line.format("c", f"3, {HUGE}")]))
    assert [one.key for one in found.items] == ["b"]
    assert len(found.unread) == 2
    with pytest.raises(CannotShow):
        read_error(line.format("a", LONG))


def test_the_same_through_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save({"conv.weight": torch.zeros(6, 3, 1)}, tmp_path / "a.pt")
    text = f"size mismatch for conv.weight: copying a param with shape torch.Size([{LONG}]) from checkpoint,"
    text += " the shape in current model is torch.Size([1])."
    monkeypatch.setattr("sys.argv", ["convinspect", "diff", str(tmp_path / "a.pt"), "--error", "-"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    monkeypatch.setattr("gc.disable", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
