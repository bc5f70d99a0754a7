"""What `convert` says beside the file: each tensor of the plan, and the lines of the model's code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from test_cli import run
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.convert import Request, plan
from convinspect.layers import find_layers
from convinspect.view.advice import advice


def lines(path: Path, model: Any, to: str, **options: Any) -> list[str]:
    torch.save(model, path)
    return advice(plan(find_layers(open_checkpoint(path)), Request(to, **options)))


def test_every_layer_is_named_and_blocks_are_one_line(tmp_path: Path) -> None:
    state = nn.Sequential(*[nn.Conv1d(4, 4, 1) for _ in range(30)], nn.Conv1d(4, 8, 1, bias=False)).state_dict()
    assert lines(tmp_path / "a.pt", state, "Linear") == [
        "{0–29}: nn.Conv1d(4, 4, 1) → nn.Linear(4, 4)",
        "30: nn.Conv1d(4, 8, 1, bias=False) → nn.Linear(4, 8, bias=False)",
        "  takes (N, C, L) → takes (N, …, C): x.movedim(1, -1) before it, x.movedim(-1, 1) after it",
    ]


def test_grouped_layers_say_what_they_were(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(8, 6, 1, groups=2))
    found = lines(tmp_path / "a.pt", model, "Linear", expand=True)
    assert found[0] == "0: nn.Conv1d(8, 6, 1, groups=2) → nn.Linear(8, 6)"


def test_the_data_are_turned_as_the_layers_want_them(tmp_path: Path) -> None:
    """The advice is carried out: what it says to do before and after gives what the old layer gave."""
    data = {"Conv1d": (2, 4, 6), "Conv2d": (2, 4, 3, 2), "Conv3d": (2, 4, 3, 2, 5)}
    for old, shape in data.items():
        for new in (kind for kind in ("Linear", *data) if kind != old):
            layer = getattr(nn, old)(4, 5, 1)
            *_, said = lines(tmp_path / "a.pt", {f"c.{k}": v for k, v in layer.state_dict().items()}, new, kinds=(old,))
            before, after = said.partition(": ")[2].removesuffix(" after it").split(" before it, ")
            other = nn.Linear(4, 5) if new == "Linear" else getattr(nn, new)(4, 5, 1)
            other.load_state_dict({k: v.reshape(other.state_dict()[k].shape) for k, v in layer.state_dict().items()})
            sizes = dict(zip("DHW"[5 - len(shape) :], shape[2:], strict=False)) | {"L": shape[-1]}
            x = torch.randn(shape)
            turned = eval(before, {"x": x})
            torch.testing.assert_close(eval(after, {"x": other(turned), **sizes}), layer(x))


def test_a_plan_lists_each_tensor_that_follows(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 1))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(1, 4, 3)).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": model.state_dict()}
    torch.save(content, tmp_path / "a.pt")
    table = run("convert", tmp_path / "a.pt", "--to", "linear", "--dry-run").stdout
    found = json.loads(run("convert", tmp_path / "a.pt", "--to", "linear", "-n", "--format", "json").stdout)
    names = ["ema.0.weight", "optimizer.state.0.exp_avg", "optimizer.state.0.exp_avg_sq"]
    assert [one["name"] for one in found["followed"]] == names
    assert all((one["old_shape"], one["new_shape"]) == ([6, 4, 1], [6, 4]) for one in found["followed"])
    assert all(any(line.split()[0] == name for line in table.splitlines() if line.strip()) for name in names)
    assert found["model_code"][0] == "0: nn.Conv1d(4, 6, 1) → nn.Linear(4, 6)"


def test_layers_that_are_so_already_are_counted(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)).state_dict(), tmp_path / "a.pt")
    assert "nothing changes; 2 are so already" in run("convert", tmp_path / "a.pt", "--to", "linear", "-n").stdout
