"""What is saved anew in this process, and what stops it: a plain state_dict that torch loads, or no file at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from convinspect.checkpoint import open_checkpoint
from convinspect.errors import CannotConvert
from convinspect.writing import state_dict as resaving
from convinspect.writing.state_dict import block_diagonal
from support.conversions import load
from support.in_process import Ended, run_in_process
from support.paths import FIXTURES

Convert = Callable[..., Ended]


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Convert:
    return lambda *words: run_in_process(monkeypatch, capsys, "convert", *words)


def refused(ended: Ended, folder: Path, *words: str) -> None:
    """One line, and nothing but the source in the folder."""
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    for word in words:
        assert word in ended.err
    assert [path.name for path in folder.iterdir()] == ["a.pt"]


@pytest.mark.parametrize(("out", "wide", "groups"), [(6, 4, 2), (4, 4, 4), (3, 5, 1), (8, 2, 2)])
def test_a_grouped_kernel_as_a_full_matrix_gives_the_same(out: int, wide: int, groups: int) -> None:
    weight = torch.randn(out, wide // groups, 1, dtype=torch.float64)
    x = torch.randn(2, wide, 5, dtype=torch.float64)
    full = block_diagonal(weight, groups)
    assert full.shape == (out, wide)
    expected = functional.conv1d(x, weight, groups=groups).transpose(1, 2)
    torch.testing.assert_close(functional.linear(x.transpose(1, 2), full), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_grouped_layers_are_written_as_full_matrices(tmp_path: Path, convert: Convert, suffix: str) -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 1, groups=2), nn.ReLU(), nn.Conv1d(6, 3, 1))
    torch.save(model, tmp_path / "a.pt")
    ended = convert(
        tmp_path / "a.pt", "-o", tmp_path / f"b{suffix}", "--to", "linear", "--groups", "expand", "--state-dict"
    )
    assert ended.code == 0, ended.err
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    plain.load_state_dict(load(tmp_path / f"b{suffix}"), strict=True)
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(plain(x.transpose(1, 2)).transpose(1, 2), model(x))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_pruned_weights_and_biases_are_written_as_they_act(tmp_path: Path, convert: Convert, suffix: str) -> None:
    cut: Any = prune.l1_unstructured
    model = nn.Sequential(nn.Conv1d(6, 4, 1), nn.Conv1d(4, 4, 1))
    for layer, name in ((model[0], "weight"), (model[0], "bias"), (model[1], "bias")):
        cut(layer, name, 0.5)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    ended = convert(tmp_path / "a.pt", "-o", tmp_path / f"b{suffix}", "--fuse")
    assert ended.code == 0, ended.err
    plain = nn.Sequential(nn.Conv1d(6, 4, 1), nn.Conv1d(4, 4, 1))
    plain.load_state_dict(load(tmp_path / f"b{suffix}"), strict=True)
    x = torch.randn(2, 6, 5)
    assert torch.equal(plain(x), model(x))


def test_flags_ties_and_views_are_those_of_the_source(tmp_path: Path, convert: Convert) -> None:
    base = torch.randn(6, 8)
    weight = nn.Parameter(torch.randn(4, 6, 1))
    state = {"c.weight": weight, "tied.weight": weight, "turned": base.T, "part": base[2:4], "n": torch.tensor(3)}
    torch.save(state, tmp_path / "a.pt")
    ended = convert(tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--state-dict")
    assert ended.code == 0, ended.err
    after = torch.load(tmp_path / "b.pt", weights_only=True)
    assert {key: value.requires_grad for key, value in after.items()} == {
        key: value.requires_grad for key, value in state.items()
    }
    assert after["c.weight"].data_ptr() == after["tied.weight"].data_ptr()
    assert after["turned"].untyped_storage().data_ptr() == after["part"].untyped_storage().data_ptr()
    for key in ("turned", "part", "n"):
        assert torch.equal(after[key], state[key])
    assert torch.equal(after["c.weight"], weight.squeeze(2))
    convert(tmp_path / "a.pt", "-o", tmp_path / "b.safetensors", "--to", "linear")
    apart = load(tmp_path / "b.safetensors")
    assert all(torch.equal(apart[key], after[key]) for key in after), "without ties and strides, the same numbers"


@pytest.mark.parametrize("name", ["big_endian.pt", "legacy_views.pt", "legacy_dtypes.pt"])
def test_numbers_that_cannot_be_mapped_are_read(tmp_path: Path, convert: Convert, name: str) -> None:
    """Of another byte order, or at a place in the file that their dtype does not allow."""
    ended = convert(FIXTURES / name, "-o", tmp_path / "b.pt", "--state-dict")
    assert ended.code == 0, ended.err
    before, after = (torch.load(path, weights_only=False) for path in (FIXTURES / name, tmp_path / "b.pt"))
    assert list(after) == list(before)
    for key, value in before.items():
        bits = [one.contiguous().reshape(-1).view(torch.uint8) for one in (value, after[key])]
        assert torch.equal(*bits), key


def test_a_file_is_open_once_however_many_tensors_it_holds(tmp_path: Path) -> None:
    """A mapping holds its file open, and a process may have a thousand files as a rule."""
    state = {f"{number}.weight": torch.full((2, 3, 1), float(number)) for number in range(300)}
    torch.save(state, tmp_path / "a.pt")
    script = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n"
        "import convinspect\n"
        "convinspect.convert('a.pt', 'b.safetensors', to='linear')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    after = load(tmp_path / "b.safetensors")
    assert all((after[key] == value[..., 0]).all() for key, value in state.items())


def test_a_tensor_without_plain_numbers_is_named(tmp_path: Path, convert: Convert) -> None:
    torch.save({"c.weight": torch.zeros(4, 6, 1), "thin": torch.eye(3).to_sparse()}, tmp_path / "a.pt")
    ended = convert(tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--state-dict")
    refused(ended, tmp_path, "'thin' (sparse", "has no plain numbers to save")


def test_a_meta_tensor_has_a_place_in_a_pt_alone(tmp_path: Path, convert: Convert) -> None:
    torch.save({"c.weight": torch.zeros(4, 6, 1), "empty": torch.empty(2, 3, device="meta")}, tmp_path / "a.pt")
    refused(convert(tmp_path / "a.pt", "-o", tmp_path / "b.safetensors"), tmp_path, "'empty' (meta) has no numbers")
    assert convert(tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--state-dict").code == 0
    assert torch.load(tmp_path / "b.pt")["empty"].is_meta


def test_a_dtype_of_a_later_pytorch_is_named(tmp_path: Path) -> None:
    torch.save({"c.weight": torch.zeros(4, 6, 1)}, tmp_path / "a.pt")
    (tensor,) = open_checkpoint(tmp_path / "a.pt").root.tensors
    with pytest.raises(CannotConvert, match="this PyTorch has no dtype float3"):
        resaving._Loader().load(tensor._replace(dtype="float3"))


def test_the_name_that_safetensors_keeps_for_itself_is_refused(tmp_path: Path, convert: Convert) -> None:
    torch.save({"c.weight": torch.zeros(4, 6, 1), "__metadata__": torch.zeros(1)}, tmp_path / "a.pt")
    refused(convert(tmp_path / "a.pt", "-o", tmp_path / "b.safetensors"), tmp_path, "'__metadata__' for itself")


@pytest.mark.parametrize(
    ("suffix", "writer", "error", "words"),
    [
        (
            ".pt",
            "torch.save",
            RuntimeError("inline_container.cc: unexpected pos"),
            "b.pt: PyTorch could not write all of it",
        ),
        (
            ".safetensors",
            "safetensors.torch.save_file",
            SafetensorError("I/O error: No space left on device (os error 28)"),
            "b.safetensors: it cannot be written (No space left on device)",
        ),
        (".safetensors", "safetensors.torch.save_file", KeyError("float9"), "safetensors cannot hold it"),
    ],
)
def test_a_writer_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, convert: Convert, suffix: str, writer: str, error: Any, words: str
) -> None:
    def failing(state: object, target: Path, *_: object) -> None:
        Path(target).write_bytes(b"half")
        raise error

    torch.save({"c.weight": torch.zeros(4, 6, 1)}, tmp_path / "a.pt")
    monkeypatch.setattr(writer, failing)
    refused(convert(tmp_path / "a.pt", "-o", tmp_path / f"b{suffix}", "--state-dict"), tmp_path, words)


@pytest.mark.parametrize("wrong", [{}, {"c.weight": torch.zeros(4, 5)}, {"c.weight": torch.zeros(4, 6).half()}])
def test_what_is_not_what_was_meant_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, convert: Convert, wrong: dict[str, torch.Tensor]
) -> None:
    torch.save({"c.weight": torch.zeros(4, 6, 1), "n": torch.zeros(1)}, tmp_path / "a.pt")
    whole = torch.save
    monkeypatch.setattr(torch, "save", lambda state, target: whole({"n": state["n"], **wrong}, target))
    ended = convert(tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--state-dict")
    refused(ended, tmp_path, "discarded")


def test_a_source_that_changes_meanwhile_is_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, convert: Convert
) -> None:
    torch.save({"c.weight": torch.zeros(4, 6, 1)}, tmp_path / "a.pt")
    whole = torch.save

    def saving(state: object, target: Path) -> None:
        whole(state, target)
        with open(tmp_path / "a.pt", "ab") as file:
            file.write(b"x")

    monkeypatch.setattr(torch, "save", saving)
    refused(convert(tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--state-dict"), tmp_path, "a.pt: it changed while")
