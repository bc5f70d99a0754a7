"""Parameters that Paddle cut into flat parts, read as the whole ones that `paddle.load` makes of them.

`fixtures/paddle/` was written by `paddle.save` itself, which was told to cut arrays of more than 40 bytes
(`fixtures/paddle_files.py`).
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import convinspect
from convinspect.arrays.read import read_blocks
from convinspect.arrays.storage import Files, opened
from convinspect.layouts import KnownFrom, Maker
from support.in_process import call_main
from support.paths import FIXTURES

CUT = [FIXTURES / "paddle" / f"cut_protocol_{protocol}.pdparams" for protocol in (2, 3)]
WHOLE = FIXTURES / "paddle" / "whole.pdparams"
INFO = "UnpackBigParamInfor@@"


@pytest.mark.parametrize("path", CUT, ids=lambda path: path.stem)
def test_cut_parameters_are_whole(path: Path) -> None:
    cut, whole = convinspect.open(path), convinspect.open(WHOLE)
    assert {name: (one.dtype, one.shape) for name, one in cut.items()} == {
        name: (one.dtype, one.shape) for name, one in whole.items()
    }
    for name in whole:
        assert cut.read(name).tobytes() == whole.read(name).tobytes()
    assert cut.layout == whole.layout == (Maker.PADDLE, KnownFrom.WRITTEN)
    (note,) = [note for note in cut.notes if "put together" in note]
    assert note.endswith("put together from the flat parts that paddle.save cut it into")
    assert not [other.key for other in cut.root.others if other.key == INFO]


@pytest.mark.parametrize("path", CUT, ids=lambda path: path.stem)
def test_any_run_of_their_bytes(path: Path) -> None:
    """Read in any order, across parts, through both ways of opening a file."""
    random = Random(0)
    checkpoint = convinspect.open(path)
    tensor = checkpoint["fc.weight"]
    assert tensor.storage is not None
    assert len(tensor.storage.runs) == 4
    expected = checkpoint.read("fc.weight").tobytes()
    with opened(tensor.storage) as one, Files() as files:
        other = files.fetch(tensor.storage, tensor.nbytes)
        for _ in range(300):
            begin = random.randrange(len(expected))
            got = bytearray(random.randint(1, len(expected) - begin))
            random.choice((one, other))(begin, memoryview(got))
            assert got == expected[begin : begin + len(got)]
    assert b"".join(block.tobytes() for block in read_blocks(tensor, 3)) == expected


@pytest.mark.parametrize("path", CUT, ids=lambda path: path.stem)
def test_every_command_sees_one_layer(tmp_path: Path, path: Path) -> None:
    listed = call_main("shapes", path, "--all")
    assert (listed.code, "@@" in listed.out.replace("StructuredToParameterName@@", "")) == (0, False)
    assert call_main("weights", path, "fc").out == call_main("weights", WHOLE, "fc").out
    assert call_main("diff", path, WHOLE).code == 0
    assert call_main("verify", path, WHOLE).code == 0
    assert "nothing found" in call_main("check", "--values", path).out
    target = tmp_path / "m.safetensors"
    ended = call_main("convert", path, "-o", target)
    assert ended.code == 0, ended.err
    assert INFO not in ended.out + ended.err
    assert ended.err.count("StructuredToParameterName@@") == 1
    whole = convinspect.open(WHOLE)
    written = convinspect.open(target)
    assert {name: one.shape for name, one in written.items()} == {name: one.shape for name, one in whole.items()}
    np.testing.assert_array_equal(load_file(target)["fc.weight"], whole.read("fc.weight"))
    assert call_main("verify", path, target).code == 0


@pytest.mark.parametrize("protocol", range(6))
def test_parts_in_an_ordered_dictionary(tmp_path: Path, protocol: int) -> None:
    """As some keep what `state_dict()` gives. `verify` compares them as the tensor that they are."""
    path, target = tmp_path / "m.pdparams", tmp_path / "m.safetensors"
    path.write_bytes(pickle.dumps(OrderedDict(pickle.loads(CUT[1].read_bytes())), protocol))
    for before, after in ((path, WHOLE), (CUT[0], path), (path, path)):
        ended = call_main("verify", before, after)
        assert (ended.code, "@@.0" in ended.out) == (0, False), ended.out
    ended = call_main("convert", path, "-o", target)
    assert ended.code == 0
    assert INFO not in ended.out + ended.err
    assert call_main("verify", path, target).code == 0
    state = OrderedDict(pickle.loads(CUT[1].read_bytes()))
    state["fc.weight@@.2"] = state["fc.weight@@.2"] + 1
    path.write_bytes(pickle.dumps(state, protocol))
    ended = call_main("verify", CUT[0], path)
    assert ended.code == 1
    assert "@@" not in ended.out
    # As of the Linear, whose rows are outputs.
    assert "[0, 3]: 2.25 became 3.25" in ended.out


def _changed(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> Path:
    """The file with its dictionary changed."""
    state = pickle.loads(CUT[1].read_bytes())
    change(state)
    path = tmp_path / "m.pdparams"
    path.write_bytes(pickle.dumps(state, 3))
    return path


def _set(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda state: state[INFO]["fc.weight"].__setitem__(key, value)


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "shape": (_set("OriginShape", (5, 8)), "these have 35 numbers, where its shape (5, 8) has 40"),
    "no shape": (lambda state: state[INFO]["fc.weight"].pop("OriginShape"), "what is said of its shape is malformed"),
    "shape of text": (_set("OriginShape", ("5", 7)), "what is said of its shape is malformed"),
    "negative": (_set("OriginShape", (-5, -7)), "what is said of its shape is malformed"),
    "part gone": (lambda state: state.pop("fc.weight@@.1"), "'fc.weight@@.1' is not there"),
    "part is text": (lambda state: state.update({"fc.weight@@.1": "x"}), "'fc.weight@@.1' is not there"),
    "part of another dtype": (
        lambda state: state.update({"fc.weight@@.1": state["fc.weight@@.1"].astype("f8")}),
        "these are not all flat and of one dtype",
    ),
    "part not flat": (
        lambda state: state.update({"fc.weight@@.1": state["fc.weight@@.1"].reshape(5, 2)}),
        "these are not all flat and of one dtype",
    ),
    "part twice": (_set("slices", ["fc.weight@@.1"] * 4), "one of these is named twice"),
    "no parts": (_set("slices", []), "what is said of these is malformed"),
    "parts of numbers": (_set("slices", [1, 2]), "what is said of these is malformed"),
    "nothing said": (lambda state: state[INFO].update({"fc.weight": 3}), "what is said of its shape is malformed"),
    "whole too": (lambda state: state.update({"fc.weight": np.ones((5, 7))}), "it is in the file as a whole, too"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_parts_that_do_not_make_the_whole(tmp_path: Path, name: str) -> None:
    """One line, from every command; what is sound is listed, and the parts as they lie."""
    change, said = DAMAGED[name]
    path = _changed(change, tmp_path)
    line = f"parameter 'fc.weight' was cut into parts, and {said}; get the file again, or save it again with protocol=4"
    for words in (("shapes", path), ("convert", path, "-o", tmp_path / "x.safetensors")):
        ended = call_main(*words)
        assert (ended.code, ended.err.strip()) == (2, f"error: {path}: {line}")
    ended = call_main("check", path)
    assert ended.code == 1
    assert said in " ".join(ended.out.split())
    checkpoint = convinspect.open(path)
    assert checkpoint["conv.weight"].shape == (4, 7, 1)
    assert "fc.weight@@.0" in checkpoint


def test_an_ordinary_dictionary_of_that_name_is_left_alone(tmp_path: Path) -> None:
    values: list[object] = [{}, 3, None]
    for value in values:
        path = _changed(lambda state, value=value: state.update({INFO: value}), tmp_path)  # type: ignore[misc]
        checkpoint = convinspect.open(path)
        assert not checkpoint.problems
        assert "fc.weight@@.0" in checkpoint
