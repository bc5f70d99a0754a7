"""`verify` of tensors that were only reshaped: the numbers are proved, what a model does with another shape is not.

The files are written by `convert --like`, and the oracle of what must fail is PyTorch: one changed number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.showing.verify import verdict
from support import program
from support.verifying import command, report_of_objects

State = dict[str, Any]

OF_NO_LAYER = [
    ("norm.weight", (8,), (8, 1)), ("norm.weight", (8, 1), (8,)), ("scale", (8,), (1, 8, 1, 1)),
    ("token", (1, 1, 8), (8,)), ("pos_embed", (1, 16, 8), (16, 8)), ("table", (16, 8), (1, 16, 8)),
    ("table", (7, 2, 3), (14, 3)), ("table", (14, 3), (7, 2, 3)), ("gate", (1, 8), (8, 1)), ("gate", (8, 1), (1, 1, 8)),
    ("gate", (8, 1, 1), (1, 8, 1)), ("logit_scale", (), (1,)), ("logit_scale", (1,), (1, 1)),
    ("grid", (5, 6), (5, 6, 1)),
]  # fmt: skip
KERNELS = [
    ("dw.weight", (6, 1, 3), (6, 3, 1)), ("dw.weight", (6, 3, 1), (6, 1, 3)), ("dw.weight", (6, 1, 3), (6, 3)),
    ("dw.weight", (6, 3), (6, 1, 3)), ("dw.weight", (6, 2, 3, 1), (6, 2, 1, 3)),
]  # fmt: skip


def written_like(folder: Path, state: State, key: str, shape: tuple[int, ...]) -> State | None:
    """The state_dict after `convert --like` one with another shape; None where that is refused."""
    torch.save(state, folder / "before.pt")
    torch.save({**state, key: torch.zeros(shape)}, folder / "other.pt")
    done = program.run("convert", "before.pt", "-o", "written.pt", "--like", "other.pt", folder=folder)
    if done.returncode:
        return None
    made: State = torch.load(folder / "written.pt", weights_only=True)
    return made


def with_one_changed(state: State, key: str) -> State:
    other = {name: one.clone() for name, one in state.items()}
    other[key].view(-1)[-1] += 1
    return other


@pytest.mark.parametrize(("key", "old", "new"), OF_NO_LAYER)
def test_what_is_no_layer_is_proved_to_the_numbers(
    tmp_path: Path, key: str, old: tuple[int, ...], new: tuple[int, ...]
) -> None:
    state: State = {key: torch.randn(old), "a.weight": torch.randn(4, 3, 1)}
    made = written_like(tmp_path, state, key, new)
    assert made is not None
    assert made[key].shape == new
    code, found = command(tmp_path, "before.pt", "written.pt")
    assert (code, found["verdict"], found["strength"], found["unchanged"]) == (0, "equal", "bits", 1)
    assert found["reshaped"] == [{"name": key, "before": list(old), "after": list(new)}]
    shown = " ".join(program.run("verify", "before.pt", "written.pt", folder=tmp_path).stdout.split())
    assert "equal as far as it was compared" in shown
    assert f"{key} {old} → {new}; proved are the numbers and their order, not that a model wants" in shown
    torch.save(with_one_changed(made, key), tmp_path / "wrong.pt")
    code, found = command(tmp_path, "before.pt", "wrong.pt")
    assert (code, found["verdict"]) == (1, "different")
    assert key.partition(".")[0] in found["cause"]


@pytest.mark.parametrize(("key", "old", "new"), KERNELS)
def test_a_kernel_in_another_shape_is_another_layer_unless_it_is_named(
    tmp_path: Path, key: str, old: tuple[int, ...], new: tuple[int, ...]
) -> None:
    state: State = {key: torch.randn(old), "a.weight": torch.randn(4, 3, 1)}
    made = written_like(tmp_path, state, key, new)
    if made is None:
        made = {**state, key: state[key].reshape(new).clone()}
        torch.save(made, tmp_path / "written.pt")
    code, found = command(tmp_path, "before.pt", "written.pt")
    assert (code, found["verdict"]) == (1, "not verified")
    assert "the same numbers in another shape" in found["cause"]
    code, found = command(tmp_path, "before.pt", "written.pt", "--layer", "dw")
    assert (code, found["verdict"]) == (0, "equal")
    torch.save(with_one_changed(made, key), tmp_path / "wrong.pt")
    for more in ((), ("--layer", "dw")):
        code, found = command(tmp_path, "before.pt", "wrong.pt", *more)
        assert (code, found["verdict"]) == (1, "different")
        assert "the same numbers" not in found["cause"]


def test_an_embedding_and_a_recorded_class_keep_their_shape(tmp_path: Path) -> None:
    table = torch.randn(9, 4)
    before = {"embed_tokens.weight": table, "head.weight": torch.randn(3, 4)}
    found = report_of_objects(tmp_path, before, {**before, "embed_tokens.weight": table[..., None].clone()})
    assert found.verdict == "not verified"
    assert "an Embedding must keep its shape" in verdict(found)
    assert report_of_objects(
        tmp_path, before, {**before, "embed_tokens.weight": table[..., None].clone()}, layer=("embed_tokens",)
    ).equal
    whole = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))
    other = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))
    other.load_state_dict(whole.state_dict())
    other[0].weight = nn.Parameter(torch.ones(8, 1))
    found = report_of_objects(tmp_path, whole, other)
    assert found.verdict == "different"
    assert "must keep its shape" in verdict(found)


@pytest.mark.parametrize("follows", [True, False])
def test_state_and_copies_follow_what_was_reshaped(tmp_path: Path, follows: bool) -> None:
    class Net(nn.Module):
        def __init__(self, shape: tuple[int, ...]) -> None:
            super().__init__()
            self.scale: torch.Tensor = nn.Parameter(torch.ones(shape))
            self.head: nn.Module = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.head(x * self.scale.reshape(-1))
            return result

    net = Net((8,))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.rand(2, 8)).sum().backward()
    optimizer.step()
    whole = {"model": net.state_dict(), "ema": net.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(whole, tmp_path / "before.pt")
    torch.save(Net((1, 8)).state_dict(), tmp_path / "other.pt")
    program.run("convert", "before.pt", "-o", "written.pt", "--like", "other.pt", folder=tmp_path).check_returncode()
    made = torch.load(tmp_path / "written.pt", weights_only=True)
    resumed = Net((1, 8))
    resumed.load_state_dict(made["model"])
    torch.optim.AdamW(resumed.parameters()).load_state_dict(made["optimizer"])
    assert made["optimizer"]["state"][0]["exp_avg"].shape == (1, 8)
    if not follows:
        made["optimizer"]["state"][0]["exp_avg"] = made["optimizer"]["state"][0]["exp_avg"].reshape(8).clone()
        torch.save(made, tmp_path / "written.pt")
    code, found = command(tmp_path, "before.pt", "written.pt")
    assert (code, found["verdict"]) == ((0, "equal") if follows else (1, "different")), found
