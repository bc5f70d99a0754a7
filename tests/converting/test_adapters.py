"""Adapters beside a layer change with it, or neither does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support.conversions import load
from support.in_process import run
from support.program import without_wrote


def state(kind: str, **parts: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A base layer q and the parts of its adapter, in names of peft."""
    dims = ("linear", "conv1d", "conv2d").index(kind)
    shapes = {"q.base_layer.weight": (6, 8, *(1,) * dims), "q.base_layer.bias": (6,)}
    shapes |= {f"q.{name}.default{'.weight' * name.startswith('lora_')}": shape for name, shape in parts.items()}
    return {key: torch.randn(shape) for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("to", "origin", "parts", "why"),
    [
        ("linear", "conv1d", {"lokr_w1": (2, 2), "lokr_w2": (3, 4, 1)}, "whole second factor"),
        ("conv1d", "linear", {"lokr_w1": (2, 2), "lokr_w2": (3, 4)}, "whole second factor"),
        ("conv1d", "linear", {"ia3_l": (6, 1)}, "does not put on a Conv1d"),
        ("conv1d", "linear", {"boft_s": (6, 1)}, "does not put on a Conv1d"),
        ("conv2d", "linear", {"vera_lambda_b": (6,), "vera_lambda_d": (2,)}, "does not put on a Conv2d"),
        ("linear", "conv2d", {"hada_t1": (2, 2, 1, 1), "hada_w1_a": (2, 6)}, "Tucker"),
    ],
)
def test_what_cannot_follow_keeps_the_layer_too(
    tmp_path: Path, to: str, origin: str, parts: dict[str, tuple[int, ...]], why: str
) -> None:
    torch.save(state(origin, **parts), tmp_path / "a.pt")
    named = ("--layer", "q.base_layer")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", to, "--from", origin, *named)
    assert done.returncode == 2
    assert why in done.stderr
    assert not (tmp_path / "b.pt").exists()


def test_base_and_pair_change_together_or_not_at_all(tmp_path: Path) -> None:
    torch.save(state("conv1d", lora_A=(1, 8, 1), lora_B=(6, 1, 1)), tmp_path / "a.pt")
    for layers in (["q.base_layer"], ["q.lora_*"], ["q.lora_A.default", "q.base_layer"]):
        options = [word for name in layers for word in ("--layer", name)]
        done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", *options)
        assert done.returncode == 2, layers
        assert not (tmp_path / "b.pt").exists()
    assert run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear").returncode == 0
    assert {key: value.dim() for key, value in load(tmp_path / "b.pt").items()} == {
        "q.base_layer.weight": 2, "q.base_layer.bias": 1, "q.lora_A.default.weight": 2, "q.lora_B.default.weight": 2,
    }  # fmt: skip


@pytest.mark.parametrize("parts", [{"ia3_l": (1, 6, 1, 1)}, {"boft_s": (1, 6)}], ids=str)
def test_scales_of_adapters_come_back_to_the_byte_and_nothing_else_is_said(
    tmp_path: Path, parts: dict[str, tuple[int, ...]]
) -> None:
    torch.save(state("conv2d", **parts), tmp_path / "a.pt")
    there = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--from", "conv2d")
    assert (there.returncode, without_wrote(there.stderr)) == (0, "")
    back = run("convert", tmp_path / "b.pt", "-o", tmp_path / "c.pt", "--to", "conv2d")
    assert (back.returncode, without_wrote(back.stderr)) == (0, "")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "c.pt").read_bytes()


def test_the_second_half_of_a_grouped_convolutions_pair_stays(tmp_path: Path) -> None:
    """Rank 2 in two groups: lora_B (6, 1, 1) has groups, as its partner's rank tells."""
    torch.save({"q.lora_A.weight": torch.ones(2, 4, 1), "q.lora_B.weight": torch.ones(6, 1, 1)}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-n", "--to", "linear")
    assert "reads as depthwise" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("to", "origin", "parts", "shapes"),
    [
        ("linear", "conv2d", {"lokr_w2": (3, 4, 1, 1), "lokr_w1": (2, 2)}, {"lokr_w2": (3, 4), "lokr_w1": (2, 2)}),
        ("conv2d", "linear", {"boft_s": (6, 1)}, {"boft_s": (1, 6)}),
        ("conv2d", "linear", {"ia3_l": (6, 1)}, None),
        ("linear", "conv2d", {"boft_s": (1, 6)}, {"boft_s": (6, 1)}),
        ("linear", "conv1d", {"lora_A.weight": (1, 8, 1), "lora_B.weight": (6, 1, 1)},
         {"lora_A.weight": (1, 8), "lora_B.weight": (6, 1)}),
        ("linear", "conv2d", {"ia3_l": (1, 6, 1, 1)}, None),
        ("linear", "conv1d", {"lokr_w2": (3, 4, 1), "lokr_w1": (2, 2)}, None),
    ],
)  # fmt: skip
def test_adapters_in_a_file_of_their_own(
    tmp_path: Path, to: str, origin: str, parts: dict[str, tuple[int, ...]], shapes: dict[str, tuple[int, ...]] | None
) -> None:
    source, target, back = (tmp_path / f"{name}.safetensors" for name in "abc")
    prefix = "base_model.model.q."
    save_file({prefix + name: torch.randn(shape) for name, shape in parts.items()}, source)
    done = run("convert", source, "-o", target, "--to", to, "--from", origin)
    if shapes is None:
        assert "merge the adapter first" in " ".join((done.stdout + done.stderr).split())
        assert not target.exists() or target.read_bytes() == source.read_bytes()
        return
    assert done.returncode == 0, done.stderr
    assert {key.removeprefix(prefix): tuple(value.shape) for key, value in load(target).items()} == shapes
    assert run("verify", source, target, "--bits").returncode == 0
    assert run("convert", target, "-o", back, "--to", origin, "--from", to).returncode == 0
    assert back.read_bytes() == source.read_bytes()


def test_like_does_not_reshape_what_must_stay(tmp_path: Path) -> None:
    parts = {"lokr_w1": (2, 2), "lokr_w2": (3, 4, 1)}
    torch.save(state("conv1d", **parts), tmp_path / "a.pt")
    torch.save(state("linear", lokr_w1=(2, 2), lokr_w2=(3, 4)), tmp_path / "b.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--like", tmp_path / "b.pt")
    assert done.returncode == 2
    assert "merge the adapter first" in done.stderr
