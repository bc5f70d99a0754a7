"""`verify` of many and of large tensors: what is read and run together has the outcome of each by itself."""

from __future__ import annotations

import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import save_file
from torch import nn

import convinspect
from convinspect.arrays import columns, equality, stacked, storage
from convinspect.arrays.error_bound import Inputs, OtherShape, inputs_for
from convinspect.arrays.forms import Form, Operation, operation
from convinspect.arrays.read import read_tensor
from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.errors import BrokenFile
from convinspect.verifying import layer_outputs
from convinspect.verifying import verify as verifying
from convinspect.verifying.findings import Report
from convinspect.verifying.options import VerifyOptions
from convinspect.verifying.verify import verify
from support.in_process import run_in_process

State = dict[str, torch.Tensor]


def layers(dtype: torch.dtype) -> State:
    """Small and larger layers of several forms, some of a shape; one of each kind of number that is not finite."""
    torch.manual_seed(0)
    modules: list[nn.Module] = [nn.Conv1d(6, 4, 1) for _ in range(7)]
    modules += [nn.Conv2d(6, 4, 1, bias=False) for _ in range(3)]
    modules += [
        nn.Conv1d(33, 40, 1),
        nn.Conv3d(33, 40, 1),
        nn.Conv1d(33, 40, 1, groups=1, bias=False),
        nn.Conv2d(1, 1, 1),
    ]
    state = {key: value.to(dtype) for key, value in nn.ModuleList(modules).state_dict().items()}
    state["3.weight"][1, 2] = torch.inf
    state["4.bias"][0] = torch.nan
    state["10.weight"][-1, 0] = -torch.inf
    return state


def converted(state: State) -> State:
    return {key: value.flatten(1) if value.dim() > 2 else value for key, value in state.items()}


def report(folder: Path, before: State, after: State | None) -> Report:
    torch.save(before, folder / "before.pt")
    if after is None:
        return verify(open_checkpoint(folder / "before.pt"), None, VerifyOptions())
    torch.save(after, folder / "after.pt")
    return verify(open_checkpoint(folder / "before.pt"), open_checkpoint(folder / "after.pt"), VerifyOptions())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 100, 1 << 17])
def test_layers_that_run_as_one_end_as_each_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, rows: int
) -> None:
    monkeypatch.setattr(columns, "ROWS", rows)
    monkeypatch.setattr(stacked, "STRIP", rows)
    state = layers(dtype)
    together = report(tmp_path, state, converted(state))
    monkeypatch.setattr(layer_outputs, "jobs_of", lambda checked, options: ())
    alone = report(tmp_path, state, converted(state))
    assert together.equal
    assert len(together.layers) == len(alone.layers) == 14
    for one, other in zip(together.layers, alone.layers, strict=True):
        assert one.outputs is not None
        assert other.outputs is not None
        assert one.rounding is not None
        assert (one.name, one.note, one.cause) == (other.name, other.note, other.cause)
        assert one.outputs.ok == other.outputs.ok
        # Of a large layer, all inputs run through the first rows alone.
        assert (one.outputs.undecided > 0) == (other.outputs.undecided > 0)
        assert one.outputs.undecided <= other.outputs.undecided
        assert one.outputs.undecided == other.outputs.undecided or rows < 1 << 17
        assert other.rounding is not None
        assert one.rounding.dtype == other.rounding.dtype
        # In which order a few numbers are summed depends on how many rows there are.
        assert one.rounding.before_rms == pytest.approx(other.rounding.before_rms, rel=1, abs=torch.finfo(dtype).eps)
    assert sum(layer.outputs.undecided > 0 for layer in together.layers if layer.outputs is not None) == 3


def test_a_stack_computes_what_pytorch_computes(tmp_path: Path) -> None:
    state = layers(torch.float32)
    found = {layer.name: layer for layer in report(tmp_path, state, converted(state)).layers}
    generator = torch.Generator().manual_seed(0)
    torch.randn(1, 6, 2, generator=generator)
    x = torch.randn(2, 6, 1, generator=generator)
    for name in ("0", "1", "6"):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        exact = nn.functional.conv1d(x.double(), weight.double(), bias.double())
        errors = nn.functional.linear(x.mT, weight.squeeze(-1), bias).mT.double() - exact
        rounding = found[name].rounding
        assert rounding is not None
        assert rounding.after_max == pytest.approx(errors.abs().max().item(), rel=0.9, abs=3e-7)
        assert 0 < rounding.after_rms < 1e-6


@pytest.mark.parametrize("width", [4, 600])
def test_a_damaged_weight_is_noticed_where_there_is_nothing_to_compare_it_with(tmp_path: Path, width: int) -> None:
    path = tmp_path / "before.pt"
    torch.manual_seed(0)
    state = dict(nn.Sequential(nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)).state_dict())
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    place = content.index(state["1.weight"].numpy().tobytes()[-16:])
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenFile, match="its CRC-32 does not match"):
        verify(open_checkpoint(path), None, VerifyOptions())


def cutting(path: Path, function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """The function, before whose call of that number another process cuts the file short."""
    calls: list[int] = []

    def cut_first(*arguments: Any) -> Any:
        calls.append(0)
        if len(calls) == call:
            script = "import os, sys; os.truncate(sys.argv[1], 70_000)"
            subprocess.run([sys.executable, "-S", "-c", script, str(path)], check=True)
        return function(*arguments)

    return cut_first


@pytest.mark.parametrize("which", ["before.pt", "after.pt"])
@pytest.mark.parametrize("width", [8, 900])
@pytest.mark.parametrize("when", ["bits", "layers"])
def test_a_file_that_another_process_cuts_short_is_no_signal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    which: str,
    width: int,
    when: str,
) -> None:
    state = dict(nn.Sequential(*(nn.Conv1d(width, width, 1) for _ in range(1600 // width + 2))).state_dict())
    torch.save(state, tmp_path / "before.pt")
    torch.save(converted(state), tmp_path / "after.pt")
    if when == "bits":
        monkeypatch.setattr(equality, "_same_stored", cutting(tmp_path / which, equality._same_stored, 2))
    else:
        monkeypatch.setattr(verifying, "run_layers", cutting(tmp_path / which, layer_outputs.run, 1))
    ended = run_in_process(monkeypatch, capsys, "verify", tmp_path / "before.pt", tmp_path / "after.pt")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert which in ended.err


@pytest.mark.parametrize("width", [9, 200])
def test_an_exchanged_kernel_is_found_whatever_its_size(tmp_path: Path, width: int) -> None:
    kernel = torch.arange(width * width, dtype=torch.float32).reshape(width, width, 1)
    found = report(tmp_path, {"up.weight": kernel}, {"up.weight": kernel.squeeze(-1).mT.contiguous()})
    assert [layer.unsure is not None for layer in found.layers] == [True]
    # A corner alone looks exchanged.
    other = kernel.squeeze(-1).mT.contiguous()
    other[-1, 0] += 1
    assert not report(tmp_path, {"up.weight": kernel}, {"up.weight": other}).equal
    assert report(tmp_path, {"up.weight": kernel}, {"up.weight": kernel.squeeze(-1)}).equal


def test_files_stay_open_and_are_closed_when_there_are_many(tmp_path: Path) -> None:
    states = [{"a": torch.full((3,), float(i)), "b": torch.full((30_000,), float(i))} for i in range(30)]
    for i, state in enumerate(states):
        torch.save(state, tmp_path / f"{i}.pt")
    with storage.Files() as files:
        for i in (*range(30), *range(30)):
            tensors = open_checkpoint(tmp_path / f"{i}.pt").tensors
            for name, tensor in tensors.items():
                assert tensor.storage is not None
                into = np.empty(tensor.numel, np.float32)
                files.fetch(tensor.storage, tensor.nbytes, i % 2)(0, into.view(np.uint8).data)
                assert (into == i).all(), name
                assert len(files._open) <= 16
        some = list(files._open.values())
    assert all(file.closed for file in some)


def test_two_views_of_one_file_are_read_in_turn(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(200_000), "b": torch.arange(200_000)}, tmp_path / "one.pt")
    tensors = open_checkpoint(tmp_path / "one.pt").tensors
    assert equality.same_bits(tensors["a"], tensors["b"])
    with storage.Files() as files:
        assert equality.same_bits(tensors["a"], tensors["b"], files)
        assert equality.same_bits(tensors["b"], tensors["a"], files)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("many", [True, False])
def test_checkpoints_are_let_go_before_layers_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suffix: str, many: bool
) -> None:
    """Where neither PyTorch nor the caller needs them, records of very many tensors do not stand beside PyTorch."""
    paths = [tmp_path / f"{name}{suffix}" for name in ("before", "after")]
    state = layers(torch.float32)
    for path, tensors in zip(paths, (state, converted(state)), strict=True):
        if suffix == ".pt":
            torch.save(tensors, path)
        else:
            save_file(tensors, path)
    opened: list[weakref.ref[Checkpoint]] = []
    init, alive = Checkpoint.__init__, list[bool]()

    def noted(self: Checkpoint, *arguments: Any) -> None:
        init(self, *arguments)
        opened.append(weakref.ref(self))

    def run(*arguments: Any) -> Any:
        alive.extend(one() is not None for one in opened)
        return layer_outputs.run(*arguments)

    monkeypatch.setattr(Checkpoint, "__init__", noted)
    monkeypatch.setattr(verifying, "run_layers", run)
    if many:
        monkeypatch.setattr(verifying, "_MANY", 1)
    assert run_in_process(monkeypatch, capsys, "verify", *paths).code == 0
    assert convinspect.verify(*paths).strength == "layer"
    assert alive == [False, False] * 3


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_plain_tensors_in_columns_are_as_before(tmp_path: Path, suffix: str) -> None:
    """Kept as columns, a tensor reads the same bytes from the same place, and an error names the same record."""
    tensors = {f"a.{n}.weight": torch.randn(4, 3) for n in range(5)}
    base = torch.randn(7, 4, 3)
    if suffix == ".pt":
        torch.save({**tensors, **{f"b.{n}.weight": base[n] for n in range(7)}}, tmp_path / "a.pt")
    else:
        save_file(tensors, tmp_path / "a.safetensors")
    listed = list(open_checkpoint(tmp_path / f"a{suffix}").tensors.values())
    assert all(map(columns.is_plain, listed))
    alike = columns.Alike(listed)
    assert len(alike) == len(listed)
    for number, (tensor, kept) in enumerate(zip(listed, alike, strict=True)):
        assert kept.storage == tensor.storage
        assert (kept.dtype, kept.shape, kept.stride, kept.offset) == (
            tensor.dtype,
            tensor.shape,
            tensor.stride,
            tensor.offset,
        )
        assert alike[number] == kept
        assert np.array_equal(read_tensor(kept), read_tensor(tensor))


@pytest.mark.parametrize("rows", [1 << 17, 2])
def test_results_of_other_shapes_are_told_as_of_one_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(columns, "ROWS", rows)
    monkeypatch.setattr(stacked, "STRIP", rows)
    state = {f"{n}.weight": torch.randn(4, 3, 1) for n in range(1 if rows == 2 else 5)}
    torch.save(state, tmp_path / "a.pt")
    weights = columns.Alike(list(open_checkpoint(tmp_path / "a.pt").tensors.values()))
    xs = [torch.randn(2, 3, 6, dtype=torch.float64)]
    forms = Form("Conv1d", padding=(1,)), Form("Linear")
    with pytest.raises(OtherShape) as raised:
        stacked.run_stack(stacked.Stack(forms, weights, (), (4, 3), xs, torch.float32), stacked.Bench())
    one = state["0.weight"].double()
    assert raised.value.before == tuple(nn.functional.conv1d(xs[0], one, padding=1).shape)
    assert raised.value.after == tuple(nn.functional.linear(xs[0].mT, one.squeeze(-1)).mT.shape)


def test_layers_in_pieces_are_run_with_their_own_numbers(tmp_path: Path) -> None:
    """Of a distributed checkpoint, whose `.metadata` holds none of them and is shorter than they are."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(60, 70, 1), nn.Conv1d(70, 4, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.distributed.checkpoint.save(  # type: ignore[attr-defined]
            net.state_dict(), checkpoint_id=tmp_path / "dcp"
        )
    torch.save(net.state_dict(), tmp_path / "whole.pt")
    reports = []
    for name in ("dcp", "whole.pt"):
        convinspect.convert(tmp_path / name, tmp_path / "linear.pt", to="linear", force=True)
        reports.append(convinspect.verify(tmp_path / name, tmp_path / "linear.pt"))
    assert all(report.equal for report in reports)
    in_pieces, whole = ([(one.name, one.outputs, one.rounding) for one in report.layers] for report in reports)
    assert in_pieces == whole


def test_every_strip_of_a_large_layer_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All inputs through the first rows, one example through all: an operator that is wrong there alone is seen."""
    state = {"conv.weight": torch.randn(30, 6, 1), "conv.bias": torch.randn(30)}
    monkeypatch.setattr(stacked, "STRIP", 60)
    monkeypatch.setattr(columns, "ROWS", 1)
    inputs: list[tuple[int, ...]] = []

    def wrong_in_the_last_strip(form: Form) -> Operation:
        def run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
            y = operation(form)(x, w, b)
            if form.kind == "Linear" and x.dtype == torch.float64:
                inputs.append(tuple(x.shape))
                # The third strip: the first one has two inputs.
                y = y + (1e-6 if len(inputs) == 4 else 0)
            return y

        return run

    monkeypatch.setattr(stacked, "operation", wrong_in_the_last_strip)
    found = report(tmp_path, state, converted(state))
    assert inputs == [(1, 6, 2), (2, 6, 1), (1, 6, 1), (1, 6, 1)]
    assert not found.equal


@pytest.mark.parametrize("bias", [True, False])
def test_rounding_of_a_large_layer_is_that_of_one_example_through_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bias: bool
) -> None:
    monkeypatch.setattr(stacked, "STRIP", 60)
    monkeypatch.setattr(columns, "ROWS", 1)
    torch.manual_seed(1)
    conv = nn.Conv1d(6, 35, 1, bias=bias)
    found = report(tmp_path, dict(conv.state_dict()), converted(conv.state_dict()))
    told = found.layers[0].rounding
    assert told is not None
    x = inputs_for(6, torch.float32, Inputs())[-1][:1]
    with torch.no_grad():
        narrow, exact = conv(x.float()).double(), conv.double()(x)
    errors = (narrow - exact).abs()
    assert errors.numel() == 35
    assert told.before_max == pytest.approx(errors.max().item(), rel=0.5)
    assert told.before_rms == pytest.approx(errors.square().mean().sqrt().item(), rel=0.5)
    assert 0 < told.before_max < 1e-5
