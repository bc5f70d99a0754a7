"""Edits that a file's header cannot carry are refused before anything is written."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convinspect.checkpoint import open_checkpoint
from convinspect.errors import CannotWrite
from convinspect.formats.files import File
from convinspect.records import Edit, Tensor
from convinspect.writing.pieces import Range
from convinspect.writing.rewrite import Changes, pieces_for
from convinspect.writing.torch_save import tuple_opcodes
from support.paths import FIXTURES


def refused(path: Path, edits: list[Edit], words: str) -> None:
    with File(path) as file, pytest.raises(CannotWrite, match=words):
        pieces_for(file, Changes(tuple(edits)))


def flat(tensor: Tensor) -> Edit:
    return Edit(tensor, (tensor.numel,), (1,))


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no checkpoint")
    edit = flat(open_checkpoint(FIXTURES / "pointnet_stnkd.pt").root.tensors[0])
    refused(tmp_path / "a.txt", [edit], "shapes in this kind of file cannot be changed")
    for name in ("pointnet_stnkd.pt2", "pointnet_stnkd_script.pt"):
        refused(FIXTURES / name, [edit], "it holds the model's program beside its weights")


@pytest.mark.parametrize("name", ["pointnet_stnkd.pt2", "pointnet_stnkd_script.pt", "pointnet_stnkd.safetensors"])
def test_without_a_change_any_file_is_copied_whole(name: str) -> None:
    with File(FIXTURES / name) as file:
        assert pieces_for(file, Changes(())) == [Range(0, file.size)]


def test_one_tensor_under_two_names_cannot_get_two_shapes(tmp_path: Path) -> None:
    weight = torch.zeros(4, 6, 1)
    torch.save({"a.weight": weight, "b.weight": weight}, tmp_path / "a.pt")
    a, b = open_checkpoint(tmp_path / "a.pt").root.tensors
    with File(tmp_path / "a.pt") as file:
        assert pieces_for(file, Changes((flat(a), flat(b))))
    refused(tmp_path / "a.pt", [flat(a), Edit(b, (4, 6), (6, 1))], "stored once for two names that would differ")


def test_a_size_that_is_not_in_the_pickle_cannot_change(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(4, 6, 1)}, tmp_path / "a.pt")
    (tensor,) = open_checkpoint(tmp_path / "a.pt").root.tensors
    unknown = tensor._replace(spans=None)
    refused(tmp_path / "a.pt", [flat(unknown)], "has no size to edit")
    with File(tmp_path / "a.pt") as file:
        assert pieces_for(file, Changes((Edit(unknown, tensor.shape, tensor.stride),))), (
            "nothing changes, so nothing is looked for"
        )


@given(numbers=st.lists(st.integers(0, 2**62), max_size=6).map(tuple), longs=st.booleans())
def test_a_tuple_is_pushed_as_python_reads_it(numbers: tuple[int, ...], longs: bool) -> None:
    pushed = tuple_opcodes(numbers, longs)
    assert pickle.loads(b"\x80\x02" + pushed + b".") == numbers
    if not longs:
        written = pickletools.optimize(pickle.dumps(numbers, 2))
        assert b"\x80\x02" + pushed + b"." == written
