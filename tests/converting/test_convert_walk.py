"""What a second walk through `convert` turned up, each as a test of its kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from convinspect.errors import CannotWrite
from convinspect.writing.target import check_target
from support.conversions import load
from support.in_process import run_in_process


def mixed(square: str = "mix") -> dict[str, torch.Tensor]:
    """transformers' Conv1D under names that are not GPT-2's, one of them square."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"up": (8, 32), "down": (32, 8), square: (8, 8)}
    state = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return state | {f"{name}.bias": torch.randn(shape[1], generator=generator) for name, shape in shapes.items()}


def test_a_square_matrix_that_may_be_turned_is_listed_and_turned_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(mixed(), tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--from", "transformers"]
    done = run_in_process(monkeypatch, capsys, *words)
    assert not done.code
    assert "2 layers converted · 1 left" in done.out
    assert "it may be stored transposed" in done.out
    assert load(tmp_path / "b.pt")["mix.weight"].equal(mixed()["mix.weight"])
    done = run_in_process(monkeypatch, capsys, *words, "--force", "--layer", "mix", "--layer", "up")
    assert not done.code
    after = load(tmp_path / "b.pt")
    assert after["mix.weight"].equal(mixed()["mix.weight"].T)
    assert after["up.weight"].equal(mixed()["up.weight"].T)


def test_a_square_matrix_is_not_passed_over_by_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(mixed(), tmp_path / "a.pt")
    torch.save(
        {key: value.T.contiguous() if value.dim() == 2 else value for key, value in mixed().items()}, tmp_path / "b.pt"
    )
    done = run_in_process(
        monkeypatch, capsys, "convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--like", tmp_path / "b.pt"
    )
    assert not done.code
    assert "square, and others here are stored transposed" in done.out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("force", [False, True])
def test_a_pipe_is_no_target(tmp_path: Path, force: bool) -> None:
    torch.save({"c.weight": torch.zeros(4, 6, 1)}, tmp_path / "a.pt")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(CannotWrite, match="pipe or device"):
            check_target(tmp_path / "a.pt", tmp_path / name, in_place=False, force=force)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".npz", ".gguf", ".json", ".H5"])
def test_a_name_that_promises_another_format_is_refused(tmp_path: Path, suffix: str) -> None:
    torch.save({"c.weight": torch.zeros(4, 6, 1)}, tmp_path / "a.pt")
    with pytest.raises(CannotWrite, match="not written here"):
        check_target(tmp_path / "a.pt", tmp_path / f"b{suffix}", in_place=False, force=False)
    (tmp_path / f"c{suffix}").write_bytes((tmp_path / "a.pt").read_bytes())
    check_target(tmp_path / f"c{suffix}", tmp_path / f"c{suffix}", in_place=True, force=False)
    check_target(tmp_path / "a.pt", tmp_path / "b.model", in_place=False, force=False)


def test_ties_that_safetensors_noted_are_ties_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.ModuleDict({"a": nn.Conv1d(6, 4, 1), "b": nn.Conv1d(6, 4, 1)})
    model.get_submodule("b").weight = shared = model.get_parameter("a.weight")
    save_model(model, str(tmp_path / "a.safetensors"))
    words = ["convert", tmp_path / "a.safetensors", "-o", tmp_path / "b.pt", "--to", "linear"]
    done = run_in_process(monkeypatch, capsys, *words)
    assert not done.code
    assert "tied again" in done.err
    after = load(tmp_path / "b.pt")
    linear = nn.ModuleDict({"a": nn.Linear(6, 4), "b": nn.Linear(6, 4)})
    linear.load_state_dict(after)
    assert after["a.weight"].data_ptr() == after["b.weight"].data_ptr()
    assert linear.get_parameter("b.weight").equal(shared[:, :, 0])


def test_metadata_that_notes_no_tie_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"c.weight": torch.zeros(4, 6, 1)}, tmp_path / "a.safetensors", {"format": "pt", "c.weight": "c.weight"})
    run_in_process(
        monkeypatch, capsys, "convert", tmp_path / "a.safetensors", "-o", tmp_path / "b.pt", "--to", "linear"
    )
    assert list(load(tmp_path / "b.pt")) == ["c.weight"]


class Buffered(nn.Module):
    """A floating buffer that no name tells from a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv1d(6, 4, 1), nn.Parameter(torch.ones(4))
        self.register_buffer("mean", torch.zeros(4, 6, 1))


def test_a_model_tells_parameters_from_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Buffered()
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    (model.conv(torch.randn(2, 6, 5)).sum() + model.scale.sum()).backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear"]
    done = run_in_process(monkeypatch, capsys, *words)
    assert done.code == 2
    assert "--model" in done.err
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert not run_in_process(monkeypatch, capsys, *words, "--model", "test_convert_walk:Buffered").code
    state = load(tmp_path / "b.pt")["optimizer"]["state"]
    shapes = {tuple(one["exp_avg"].shape) for one in state.values()}
    assert shapes == {(4,), (4, 6)}


def test_versions_of_the_old_spectral_norm_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(nn.utils.spectral_norm(nn.Conv1d(6, 4, 1)), nn.BatchNorm1d(4))
    state: Any = model.state_dict()
    torch.save({"model": state, "epoch": 1}, tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--state-dict"]
    assert not run_in_process(monkeypatch, capsys, *words).code
    assert torch.load(tmp_path / "b.pt", weights_only=True)._metadata == state._metadata


def test_lightnings_current_weights_follow_their_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(nn.Conv1d(6, 4, 1))
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    model(torch.randn(2, 6, 5)).sum().backward()
    optimizer.step()
    current = {key: value + 1 for key, value in model.state_dict().items()}
    torch.save(
        {"state_dict": model.state_dict(), "current_model_state": current, "averaging_state": {"n": 1},
         "optimizer_states": [optimizer.state_dict()]}, tmp_path / "a.ckpt",
    )  # fmt: skip
    assert not run_in_process(
        monkeypatch, capsys, "convert", tmp_path / "a.ckpt", "-o", tmp_path / "b.ckpt", "--to", "linear"
    ).code
    after = load(tmp_path / "b.ckpt")
    assert after["current_model_state"]["0.weight"].equal(current["0.weight"][:, :, 0])
    assert after["optimizer_states"][0]["state"][0]["exp_avg"].shape == (4, 6)


def test_other_models_and_their_optimizers_are_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"G": nn.Sequential(nn.Conv1d(6, 4, 1), nn.Conv1d(4, 4, 1)), "D": nn.Sequential(nn.Conv1d(8, 3, 1))}
    content: dict[str, object] = {name: part.state_dict() for name, part in parts.items()}
    for name, part in parts.items():
        optimizer = torch.optim.Adam(part.parameters(), foreach=False)
        part(torch.randn(2, 6 if name == "G" else 8, 5)).sum().backward()
        optimizer.step()
        content[f"optim_{name}"] = optimizer.state_dict()
    torch.save(content, tmp_path / "a.pt")
    done = run_in_process(
        monkeypatch, capsys, "convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--root", "G"
    )
    assert not done.code
    assert "of other models, and left: D, optim_D" in done.out
    assert "such weights are there too" not in done.out


def test_half_of_a_weight_norm_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"a.weight_g": torch.ones(4, 1, 1), "a.bias": torch.zeros(4), "c.weight": torch.zeros(4, 6, 1)}
    torch.save(state, tmp_path / "a.pt")
    done = run_in_process(monkeypatch, capsys, "convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear")
    assert "without its partner" in done.out
