"""What `convert` says beside the file: each tensor of the plan, and the lines of the model's code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.plan import Request, plan
from convinspect.layers.find import find_layers
from convinspect.showing.code_changes import advice
from support.program import run


def lines(path: Path, model: Any, to: str, **options: Any) -> list[str]:
    torch.save(model, path)
    return advice(plan(find_layers(open_checkpoint(path)), Request(to, **options)), {})


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


DATA = {"Conv1d": (2, 4, 6), "Conv2d": (2, 4, 3, 2), "Conv3d": (2, 4, 3, 2, 5)}


def pair(old: str, new: str) -> tuple[nn.Module, nn.Module]:
    """A layer and one of the other kind with the same numbers."""
    before, after = (nn.Linear(4, 5) if kind == "Linear" else getattr(nn, kind)(4, 5, 1) for kind in (old, new))
    shapes = {key: value.shape for key, value in after.state_dict().items()}
    after.load_state_dict({key: value.reshape(shapes[key]) for key, value in before.state_dict().items()})
    return before, after


def said_of(path: Path, layer: nn.Module, old: str, new: str) -> list[tuple[str, str, str]]:
    """Of each line on the data: what it is for, what to do before the layer and what after it."""
    state = {f"c.{key}": value for key, value in layer.state_dict().items()}
    turns = [line for line in lines(path, state, new, kinds=(old,)) if " before it, " in line]
    parts = [line.rpartition(": ")[::2] for line in turns]
    return [(for_what.strip(), *text.removesuffix(" after it").split(" before it, ")) for for_what, text in parts]  # type: ignore[misc]


def carried_out(turn: tuple[str, str, str], layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What comes out of a layer whose data are turned as a line says."""
    sizes = dict(zip("DHW"[5 - x.dim() :], x.shape[2:], strict=False)) | {"L": x.shape[-1]}
    y = layer(eval(turn[1], {"x": x}))
    result: torch.Tensor = eval(turn[2], {"x": x if "x.shape" in turn[2] else y, "y": y, **sizes})
    return result


def test_the_data_are_turned_as_the_layers_want_them(tmp_path: Path) -> None:
    """The advice is carried out: what it says to do before and after gives what the old layer gave."""
    for old, shape in DATA.items():
        for new in (kind for kind in ("Linear", *DATA) if kind != old):
            before, after = pair(old, new)
            (turn,) = said_of(tmp_path / "a.pt", before, old, new)
            x = torch.randn(shape)
            torch.testing.assert_close(carried_out(turn, after, x), before(x))


@pytest.mark.parametrize("new", DATA)
def test_what_a_linear_took_is_turned_by_its_own_shape(tmp_path: Path, new: str) -> None:
    """A Linear takes (N, C) as well as (N, …, C), where N may even be C; a convolution takes them for another thing."""
    before, after = pair("Linear", new)
    turns = said_of(tmp_path / "a.pt", before, "Linear", new)
    spatial = ", ".join({"Conv1d": "L", "Conv2d": "HW", "Conv3d": "DHW"}[new])
    assert [turn[0] for turn in turns] == ["for x of (N, C)", f"for x of (N, {spatial}, C)", "for any x, giving y"]
    shapes = [(4, 4), (2, *DATA[new][2:], 4)]
    for turn, shape in zip(turns, shapes, strict=False):
        x = torch.randn(shape)
        torch.testing.assert_close(carried_out(turn, after, x), before(x))
    for shape in [*shapes, (4,), (2, 3, 4), (2, 3, 2, 4), (2, 3, 2, 3, 2, 4)]:
        x = torch.randn(shape)
        torch.testing.assert_close(carried_out(turns[-1], after, x), before(x))


# ----------------------------------------------------------------------------------------------- under new names


def advised(path: Path, *words: object) -> list[str]:
    """The lines on the model's code: in the JSON, and the same in the text."""
    found: list[str] = json.loads(run("convert", path, *words, "-n", "--format", "json").stdout)["model_code"]
    shown = run("convert", path, *words, "-n").stdout
    assert all(f"  {line}\n" in shown for line in found)
    return found


@pytest.mark.parametrize("width", [40, 50, 59, 80])
def test_no_line_is_longer_than_the_screen_is_wide(tmp_path: Path, width: int) -> None:
    state = {f"model.encoder.blocks.{n}.attention.output_projection.weight": torch.zeros(8, 6, 1) for n in (0, 1, 2)}
    torch.save(state, tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--dry-run"]
    whole = run(*words).stdout.partition("In the model's code:\n")[2]
    narrow = run(*words, "--width", width).stdout.partition("In the model's code:\n")[2]
    assert "".join(narrow.split()) == "".join(whole.split())
    assert max(map(len, narrow.splitlines())) <= width
    assert len(whole.splitlines()) == 2


def test_layers_go_by_their_new_names(tmp_path: Path) -> None:
    model = nn.ModuleDict({"conv": nn.Conv1d(4, 6, 1), "blocks": nn.Sequential(*[nn.Conv1d(6, 6, 1) for _ in "abc"])})
    torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, tmp_path / "a.pt")
    rules = ["--rename", "conv=lin", "--rename", "blocks=layers"]
    assert advised(tmp_path / "a.pt", "--to", "linear", *rules)[:2] == [
        "lin: nn.Conv1d(4, 6, 1) → nn.Linear(4, 6)",
        "layers.{0–2}: nn.Conv1d(6, 6, 1) → nn.Linear(6, 6)",
    ]
    moved = advised(tmp_path / "a.pt", "--to", "linear", "--layer", "conv", "--rename", "module.*=*")
    assert moved[0].startswith("conv: ")
    whole = advised(tmp_path / "a.pt", "--to", "linear", "--layer", "conv", "--rename", "conv.weight=w")
    assert whole[0].startswith("(root): ")


def test_plain_weights_go_by_their_new_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 1)))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "--to", "linear", "--fuse", "--rename", "0=lin", "-n")
    assert "Plain weights now: lin; drop" in done.stdout
    assert "  lin: nn.Conv1d(4, 6, 1) → nn.Linear(4, 6)" in done.stdout


# ------------------------------------------------------------------------------------- what is no layer of its own


def test_what_is_no_conv_and_no_linear_is_told_by_its_shape(tmp_path: Path) -> None:
    stored = {"pos": (4, 6, 1), "att.in_proj_weight": (12, 4), "emb.weight": (9, 4), "b.0.scale": (3, 3, 1),
              "b.1.scale": (3, 3, 1), "f.weight": (5, 4, 1)}  # fmt: skip
    wanted = {"pos": (4, 6), "att.in_proj_weight": (12, 4, 1), "emb.weight": (9, 4, 1), "b.0.scale": (3, 3),
              "b.1.scale": (3, 3), "f.weight": (5, 4)}  # fmt: skip
    for name, shapes in (("a.pt", stored), ("b.pt", wanted)):
        torch.save({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / name)
    assert advised(tmp_path / "a.pt", "--like", tmp_path / "b.pt") == [
        "pos must be of shape (4, 6), not (4, 6, 1)",
        "b.{0–1}.scale must be of shape (3, 3), not (3, 3, 1)",
        "att.in_proj_weight must be of shape (12, 4, 1), not (12, 4)",
        "emb.weight must be of shape (9, 4, 1), not (9, 4)",
        "f: nn.Conv1d(4, 5, 1, bias=False) → nn.Linear(4, 5, bias=False)",
        "  takes (N, C, L) → takes (N, …, C): x.movedim(1, -1) before it, x.movedim(-1, 1) after it",
    ]
    found = json.loads(run("convert", tmp_path / "a.pt", "--like", tmp_path / "b.pt", "-n", "--format", "json").stdout)
    kinds = {one["name"]: (one["from"], one["to"]) for one in found["converted"]}
    assert kinds["pos"] == ("Parameter", "Parameter")
    assert kinds["f"] == ("Conv1d", "Linear")


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
