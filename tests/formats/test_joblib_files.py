"""joblib's streams, written by hand; those that joblib writes are in `tests/oracle`."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from convinspect.checking.scan import check
from convinspect.checkpoint import open_checkpoint
from support.hostile.calls import bomb
from support.hostile.joblib_streams import dtype, stream, wrapper
from support.hostile.opcodes import PAYLOAD, integer, integers, pickled, text
from support.in_process import call_main


def test_numbers_that_look_like_instructions(tmp_path: Path) -> None:
    """STOP, or a whole pickle, among an array's numbers is none of the file's."""
    for raw in (b"." * 24, pickled(bomb(tmp_path / "marker"))):
        path = tmp_path / "model.joblib"
        value = wrapper(integer(len(raw)), of=dtype("u1"), padding=None, raw=raw)
        path.write_bytes(stream(value))
        checkpoint = open_checkpoint(path)
        assert list(checkpoint) == ["conv.weight", "fc.weight"]
        assert checkpoint.read("fc.weight").tobytes() == raw
        assert checkpoint.read("conv.weight").tobytes() == PAYLOAD
        assert "global-executes" not in [found.code for found in check(path).findings]


def test_objects_that_would_do_harm_are_found(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(stream(wrapper(integers(1), of=dtype("O8"), raw=pickled(bomb(tmp_path / "marker")))))
    assert list(open_checkpoint(path)) == ["conv.weight"]
    report = check(path)
    assert "global-executes" in [found.code for found in report.findings]
    assert not (tmp_path / "marker").exists()


def test_where_a_name_stands_is_told_behind_arrays_too(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(stream(bomb(tmp_path / "marker")))
    (found,) = [found for found in check(path).findings if found.code == "global-executes"]
    at = found.place.in_file
    assert at is not None
    assert path.read_bytes()[at:].startswith(b"cos\nsystem\n")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (wrapper(integer(2**60)), "truncated"),
        (wrapper(integers(-4, 6)), "shape"),
        (wrapper(integers(400, 600)), "truncated"),
        (wrapper(of=b"N"), "wrapper is malformed"),
        (wrapper(text("4")), "shape"),
    ],
)
def test_wrappers_that_lie_are_one_line(tmp_path: Path, value: bytes, said: str) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(stream(value))
    code, _, err = call_main("shapes", path)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert call_main("check", path)[0] == 2


def test_an_older_wrapper_without_padding(tmp_path: Path) -> None:
    """joblib before 1.2, and scikit-learn's own copy of it."""
    path = tmp_path / "model.joblib"
    content = stream(wrapper(integers(4, 6), padding=None, raw=PAYLOAD))
    for written in (content, content.replace(b"cjoblib.", b"csklearn.externals.joblib.")):
        path.write_bytes(written)
        checkpoint = open_checkpoint(path)
        assert [checkpoint[name].shape for name in checkpoint] == [(4, 6, 1), (4, 6)]
        assert checkpoint.read("fc.weight").tobytes() == struct.pack("<24f", *range(24))
