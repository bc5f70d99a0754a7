"""Tensors of as many numbers in other shapes: `diff` names how, and its commands and lines of PyTorch come true."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.relations import PURE, How
from convinspect.diffing.checkpoints import diff
from convinspect.diffing.fixes import suggest_fixes
from convinspect.diffing.load_error import read_error
from convinspect.showing.verdict import commands, pytorch_lines
from support.diffing import Holder, typed
from support.in_process import command
from support.sampling import times

State = dict[str, Any]


def report_of(folder: Path, a: State, b: State, *more: str) -> dict[str, Any]:
    torch.save(a, folder / "a.pt")
    torch.save(b, folder / "b.pt")
    said: dict[str, Any] = json.loads(command(folder, "diff", "a.pt", "b.pt", "--format", "json", *more).stdout)
    return said


def related(said: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each["relation"] for each in said["tensors"]}


def mended(path: Path, said: dict[str, Any]) -> State:
    """The file's state_dict after the lines of PyTorch that `diff` gives."""
    names: dict[str, Any] = {"sd": torch.load(path, weights_only=True)}
    for line in said["pytorch"]:
        exec(line, names)
    found: State = names["sd"]
    return found


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_transposed_convolution_becomes_a_linear_and_back(tmp_path: Path, dims: int) -> None:
    conv = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1](8, 16, 1).state_dict()
    linear = nn.Linear(8, 16).state_dict()
    for a, b in ((conv, linear), (linear, conv)):
        report_of(tmp_path, a, b)
        (tmp_path / "a_converted.pt").unlink(missing_ok=True)
        assert len(typed(tmp_path, "a.pt", "b.pt")) == 1
        written = torch.load(tmp_path / "a_converted.pt", weights_only=True)
        assert written["weight"].shape == b["weight"].shape
        assert torch.equal(written["weight"].reshape(-1), a["weight"].flatten(1).T.reshape(-1))


def test_a_patch_convolution_becomes_a_linear_and_back(tmp_path: Path) -> None:
    conv = nn.Conv3d(3, 32, (2, 4, 4), stride=(2, 4, 4))
    linear = nn.Linear(96, 32)
    a = {f"patch_embed.proj.{key}": value for key, value in conv.state_dict().items()}
    b = {f"patch_embed.proj.{key}": value for key, value in linear.state_dict().items()}
    said = report_of(tmp_path, a, b)
    assert related(said) == {"patch_embed.proj.weight": "flatten"}
    assert (said["verdict"], said["obstacles"]) == ("loads after converting", [])
    typed(tmp_path, "a.pt", "b.pt")
    made = torch.load(tmp_path / "a_converted.pt", weights_only=True)
    linear.load_state_dict({key.rpartition(".")[2]: value for key, value in made.items()})
    x = torch.rand(1, 3, 2, 4, 4)
    torch.testing.assert_close(linear(x.flatten(1)), conv(x).flatten(1))
    assert (
        "(32, 96) is taken for the numbers of (32, 3, 2, 4, 4)"
        in command(tmp_path, "convert", "a.pt", "-n", "--like", "b.pt").stdout
    )
    assert command(tmp_path, "verify", "a.pt", "a_converted.pt").returncode == 0
    command(tmp_path, "convert", "a_converted.pt", "-o", "back.pt", "--like", "a.pt").check_returncode()
    assert (tmp_path / "back.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


def test_dimensions_of_1_in_other_places_and_vectors_are_reshaped(tmp_path: Path) -> None:
    a = {"dw.weight": torch.rand(6, 1, 3), "scale": torch.rand(8), "token": torch.rand(1, 1, 8)}
    b = {"dw.weight": a["dw.weight"].reshape(6, 3, 1), "scale": a["scale"].reshape(1, 8, 1), "token": torch.rand(8)}
    said = report_of(tmp_path, a, b)
    assert related(said) == {"dw.weight": "reshape", "scale": "unsqueeze", "token": "squeeze"}
    assert said["verdict"] == "loads after converting"
    typed(tmp_path, "a.pt", "b.pt")
    made = torch.load(tmp_path / "a_converted.pt", weights_only=True)
    assert torch.equal(made["scale"], b["scale"])
    assert {key: value.shape for key, value in made.items()} == {key: value.shape for key, value in b.items()}


def test_an_optimizers_state_and_a_tie_follow_a_flattened_weight(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(), nn.Linear(8, 5))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    other = nn.Sequential(nn.Linear(48, 8), nn.Flatten(), nn.Linear(8, 5))
    torch.save(other.state_dict(), tmp_path / "b.pt")
    typed(tmp_path, "a.pt", "b.pt")
    made = torch.load(tmp_path / "a_converted.pt", weights_only=True)
    other.load_state_dict(made["model"])
    resumed = torch.optim.AdamW(other.parameters())
    resumed.load_state_dict(made["optimizer"])
    assert made["optimizer"]["state"][0]["exp_avg"].shape == (8, 48)


@pytest.mark.parametrize("values", [False, True])
def test_spconvs_axes_are_named_and_the_numbers_prove_them(tmp_path: Path, values: bool) -> None:
    weights = {"conv1.weight": torch.rand(3, 3, 3, 4, 8), "conv2.weight": torch.rand(3, 3, 3, 8, 8)}
    b = {key: value.permute(4, 0, 1, 2, 3).contiguous() for key, value in weights.items()}
    said = report_of(tmp_path, weights, b, *(["--values"] if values else []))
    assert [each["relation"]["permute"] for each in said["tensors"]] == [[4, 0, 1, 2, 3]] * 2
    assert [each["relation"]["proved"] for each in said["tensors"]] == [values] * 2
    assert (said["verdict"], said["loads_after_pytorch"]) == ("does not load", True)
    assert said["pytorch"] == [
        "for k in ('conv1.weight', 'conv2.weight'): sd[k] = sd[k].permute(4, 0, 1, 2, 3).contiguous()"
    ]
    made = mended(tmp_path / "a.pt", said)
    assert all(torch.equal(made[key], value) for key, value in b.items())


def test_orders_of_equal_axes_are_said_to_be_open_and_numbers_decide(tmp_path: Path) -> None:
    a = {"x.table": torch.rand(2, 5, 5, 7)}
    b = {"x.table": a["x.table"].permute(3, 2, 1, 0).contiguous()}
    said = report_of(tmp_path, a, b)
    assert related(said) == {"x.table": {"permute": [3, 1, 2, 0], "others": [[3, 2, 1, 0]], "proved": False}}
    shown = command(tmp_path, "diff", "a.pt", "b.pt").stdout
    assert "or 1 other order" in shown
    assert "no reshaping" not in shown
    said = report_of(tmp_path, a, b, "--values")
    assert related(said) == {"x.table": {"permute": [3, 2, 1, 0], "others": [], "proved": True}}
    assert torch.equal(mended(tmp_path / "a.pt", said)["x.table"], b["x.table"])
    other = {"x.table": torch.rand(7, 5, 5, 2)}
    said = report_of(tmp_path, a, other, "--values")
    assert related(said)["x.table"]["proved"] is False
    assert "its numbers are others" in command(tmp_path, "diff", "a.pt", "b.pt", "--values").stdout


def test_an_open_order_is_that_of_the_others_in_the_file(tmp_path: Path) -> None:
    a = {"square": torch.rand(5, 5, 3), "a": torch.rand(4, 5, 3), "b": torch.rand(6, 5, 3)}
    b = {key: value.permute(2, 1, 0).contiguous() for key, value in a.items()}
    assert related(report_of(tmp_path, a, b))["square"]["permute"] == [2, 1, 0]


def test_axes_of_one_size_that_changed_places_are_seen_in_the_numbers(tmp_path: Path) -> None:
    a = {"conv.weight": torch.rand(8, 8, 3, 3), "same.weight": torch.rand(8, 8, 3, 3)}
    b = {"conv.weight": a["conv.weight"].permute(1, 0, 2, 3).contiguous(), "same.weight": a["same.weight"] + 1}
    said = report_of(tmp_path, a, b, "--values")
    kinds = {each["name"]: each["difference"] for each in said["tensors"]}
    assert kinds == {"conv.weight": "axes permuted", "same.weight": "values differ"}
    assert related(said)["conv.weight"] == {"permute": [1, 0, 2, 3], "others": [], "proved": True}
    assert (
        "but compute something else: the axes of 1 tensor"
        in command(tmp_path, "diff", "a.pt", "b.pt", "--values").stdout
    )


def test_patches_with_channels_last_are_found_in_the_numbers_and_not_flattened(tmp_path: Path) -> None:
    a = {"patch.weight": torch.rand(8, 4, 4, 3), "pw.weight": torch.rand(5, 4, 1)}
    b = {"patch.weight": a["patch.weight"].permute(0, 3, 1, 2).reshape(8, 48), "pw.weight": a["pw.weight"].squeeze(-1)}
    assert related(report_of(tmp_path, a, b))["patch.weight"] == "flatten"
    said = report_of(tmp_path, a, b, "--values")
    assert related(said)["patch.weight"] == {"permute": [0, 3, 1, 2], "others": [], "proved": True}
    assert said["commands"] == ["convinspect convert a.pt -o a_converted.pt --like b.pt --exclude patch"]
    typed(tmp_path, "a.pt", "b.pt", "--values")
    made = mended(tmp_path / "a_converted.pt", said)
    assert all(torch.equal(made[key], value) for key, value in b.items())


def test_numbers_that_lie_otherwise_are_left_with_the_line_that_does_it(tmp_path: Path) -> None:
    kernel = torch.rand(8, 3, 4, 4).to(memory_format=torch.channels_last)
    said = report_of(tmp_path, {"patch.weight": kernel}, {"patch.weight": torch.rand(8, 48)})
    assert (said["verdict"], said["loads_after_pytorch"], said["commands"]) == ("does not load", True, [])
    Holder({"patch.weight": (8, 48)}).load_state_dict(mended(tmp_path / "a.pt", said))
    # safetensors has no strides.
    save_file({"patch.weight": kernel.contiguous()}, tmp_path / "a.safetensors")
    assert diff(open_checkpoint(tmp_path / "a.safetensors"), open_checkpoint(tmp_path / "b.pt")).converted == ("patch",)


def test_a_patch_convolution_whose_stride_is_known_to_be_another_stays(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 8, 4, stride=2)), tmp_path / "a.pt")
    torch.save(nn.Sequential(nn.Linear(48, 8)).state_dict(), tmp_path / "b.pt")
    said = json.loads(command(tmp_path, "diff", "a.pt", "b.pt", "--format", "json").stdout)
    assert (said["verdict"], said["pytorch"]) == ("does not load", [])
    assert "its patches overlap" in said["obstacles"][0]


def test_as_many_numbers_without_an_order_are_not_called_mendable(tmp_path: Path) -> None:
    said = report_of(tmp_path, {"x": torch.rand(2, 6)}, {"x": torch.rand(3, 4)})
    assert (related(said), said["pytorch"]) == ({"x": "same count"}, [])
    shown = command(tmp_path, "diff", "a.pt", "b.pt").stdout
    assert "as many numbers, but no order of axes makes it" in " ".join(shown.split())


def test_float4_packed_on_one_side_alone_is_named(tmp_path: Path) -> None:
    codes = torch.zeros(8, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    said = report_of(tmp_path, {"x.weight": codes}, {"x.weight": torch.rand(8, 8)})
    assert (related(said), said["verdict"]) == ({"x.weight": "unpack"}, "does not load")
    save_file({"x.weight": codes}, tmp_path / "c.safetensors")
    assert command(tmp_path, "diff", "a.pt", "c.safetensors").returncode == 0


def test_an_error_names_the_line_that_mends_it(tmp_path: Path) -> None:
    state = {"patch.weight": torch.rand(32, 3, 2, 4, 4), "sp.weight": torch.rand(3, 3, 3, 4, 8)}
    model = Holder({"patch.weight": (32, 96), "sp.weight": (8, 3, 3, 3, 4)})
    with pytest.raises(RuntimeError) as failure:
        model.load_state_dict(state)
    torch.save(state, tmp_path / "a.pt")
    report = suggest_fixes(open_checkpoint(tmp_path / "a.pt"), read_error(str(failure.value)))
    assert (report.verdict, report.loads_by_hand) == ("does not load", True)
    (tmp_path / "error.txt").write_text(str(failure.value))
    said = json.loads(command(tmp_path, "diff", "a.pt", "--error", "error.txt", "--format", "json").stdout)
    assert [line["fix"] for line in said["lines"]] == ["convert", "pytorch"]
    assert typed(tmp_path, "a.pt", "--error", "error.txt") == [
        "convinspect convert a.pt -o a_converted.pt --to linear --patches --layer patch"
    ]
    model.load_state_dict(mended(tmp_path / "a_converted.pt", said))
    assert "the PyTorch below" in command(tmp_path, "diff", "a.pt", "--error", "error.txt").stdout


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Conv1d(2, 6, 8, stride=8)
        self.patch_embed = nn.Conv3d(3, 6, (2, 4, 4), stride=(2, 4, 4))
        self.mix = nn.Conv2d(6, 5, 1)
        self.up = nn.ConvTranspose1d(6, 4, 1)
        self.deep = nn.ConvTranspose3d(6, 4, 1)


class Linears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Linear(16, 6)
        self.patch_embed = nn.Linear(96, 6)
        self.mix = nn.Linear(6, 5)
        self.up = nn.Linear(6, 4)
        self.deep = nn.Linear(6, 4)


def test_an_error_is_answered_by_commands_for_patches_and_transposed_convolutions(tmp_path: Path) -> None:
    for a, b in ((Convolutions(), Linears()), (Linears(), Convolutions())):
        for path in tmp_path.glob("a_converted*.pt"):
            path.unlink()
        torch.save(a.state_dict(), tmp_path / "a.pt")
        with pytest.raises(RuntimeError) as failure:
            b.load_state_dict(a.state_dict())
        (tmp_path / "error.txt").write_text(str(failure.value))
        said = json.loads(command(tmp_path, "diff", "a.pt", "--error", "error.txt", "--format", "json").stdout)
        assert (said["verdict"], {line["fix"] for line in said["lines"]}) == ("loads after converting", {"convert"})
        typed(tmp_path, "a.pt", "--error", "error.txt")
        written = torch.load(tmp_path / "a_converted.pt", weights_only=True)
        b.load_state_dict(written)
        for name in ("frames", "patch_embed", "mix"):
            assert torch.equal(written[f"{name}.weight"].reshape(-1), a.state_dict()[f"{name}.weight"].reshape(-1))
        for name in ("up", "deep"):
            turned = a.state_dict()[f"{name}.weight"].flatten(1).T
            assert torch.equal(written[f"{name}.weight"].reshape(-1), turned.reshape(-1))


def test_an_error_on_a_convolution_whose_stride_is_known_to_be_another_gets_no_command(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=2))
    torch.save(model, tmp_path / "a.pt")
    with pytest.raises(RuntimeError) as failure:
        nn.Sequential(nn.Linear(48, 8)).load_state_dict(model.state_dict())
    report = suggest_fixes(open_checkpoint(tmp_path / "a.pt"), read_error(str(failure.value)))
    assert (report.verdict, report.steps) == ("does not load", ())


def test_many_patch_embeddings_are_named_in_a_short_way(tmp_path: Path) -> None:
    a = nn.ModuleDict({f"patch_embed{n}": nn.Conv2d(3, 4, 4, stride=4) for n in range(6)})
    b = nn.ModuleDict({f"patch_embed{n}": nn.Linear(48, 4) for n in range(6)})
    for saved, model, words in ((a, b, "--to linear --patches"), (b, a, "--to conv2d --patch 4x4")):
        torch.save(saved.state_dict(), tmp_path / "a.pt")
        with pytest.raises(RuntimeError) as failure:
            model.load_state_dict(saved.state_dict())
        (tmp_path / "error.txt").write_text(str(failure.value))
        (tmp_path / "a_converted.pt").unlink(missing_ok=True)
        assert typed(tmp_path, "a.pt", "--error", "error.txt") == [
            f"convinspect convert a.pt -o a_converted.pt {words}"
        ]
        model.load_state_dict(torch.load(tmp_path / "a_converted.pt", weights_only=True))


def test_where_another_root_is_compared_commands_do_all_or_none(tmp_path: Path) -> None:
    torch.save(Convolutions().state_dict(), tmp_path / "a.pt")
    torch.save({"model": Convolutions().state_dict(), "ema": Linears().state_dict()}, tmp_path / "b.pt")
    a, b = open_checkpoint(tmp_path / "a.pt"), open_checkpoint(tmp_path / "b.pt", root="ema")
    assert len(commands(diff(a, b))) == 2
    torch.save(Convolutions().state_dict() | {"scale": torch.rand(8)}, tmp_path / "a.pt")
    torch.save({"model": Convolutions().state_dict(), "ema": {**Linears().state_dict(), "scale": torch.rand(1, 8)}},
               tmp_path / "b.pt")  # fmt: skip
    report = diff(open_checkpoint(tmp_path / "a.pt"), open_checkpoint(tmp_path / "b.pt", root="ema"))
    assert commands(report) == [], "only --like gives a vector another shape"


@st.composite
def _pairs_of_shapes(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor, and another of as many numbers: its axes moved, joined, cut, with dimensions of 1, or any shape."""
    sizes = draw(st.lists(st.sampled_from([1, 1, 2, 2, 3, 4, 5]), min_size=0, max_size=4))
    a = torch.rand(sizes)
    b = a.permute(draw(st.permutations(range(len(sizes))))) if draw(st.booleans()) else a
    shape = [size for size in b.shape if size != 1 or draw(st.booleans())]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(shape)))
        way = draw(st.sampled_from(["one", "join", "cut", "swap"]))
        if way == "one":
            shape.insert(at, 1)
        elif way == "join" and at + 1 < len(shape):
            shape[at : at + 2] = [shape[at] * shape[at + 1]]
        elif way == "cut" and at < len(shape) and shape[at] == 4:
            shape[at : at + 1] = [2, 2]
        elif way == "swap":
            shape.reverse()
    return a, b.reshape(shape).contiguous()


@settings(max_examples=times(40, 100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_pairs_of_shapes())
def test_what_is_named_makes_the_other_shape_and_its_numbers(
    tmp_path: Path, drawn: tuple[torch.Tensor, torch.Tensor]
) -> None:
    a, b = drawn
    assume(len(b.shape) <= 6)
    torch.save({"x.table": a}, tmp_path / "a.pt")
    torch.save({"x.table": b}, tmp_path / "b.pt")
    sides = [open_checkpoint(tmp_path / name) for name in ("a.pt", "b.pt")]
    for values in (False, True):
        report = diff(sides[0], sides[1], values)
        (one,) = report.tensors
        relation = one.relation
        assert relation is not None
        lines = pytorch_lines(report)
        made = {"sd": {"x.table": a}}
        for line in lines:
            exec(line, made)
        result = made["sd"]["x.table"]
        if relation.how is How.PERMUTE and one.layer is None and not (a.shape == (1,) and b.shape == ()):
            assert lines or a.shape == b.shape
        if lines:
            assert result.shape == b.shape
        if values and relation.proved and lines:
            assert torch.equal(result, b)
        if relation.how is How.PERMUTE and not relation.proved and one.deviation is None and not relation.more:
            # Orders that are not named do not give the shape.
            fitting = {
                order
                for order in itertools.permutations(range(a.dim()))
                if a.permute(order).reshape(b.shape).shape == b.shape
                and [size for size in a.permute(order).shape if size != 1] == [size for size in b.shape if size != 1]
            }
            wide = {tuple(axis for axis in order if a.shape[axis] != 1) for order in fitting}
            assert relation.ambiguous == (len(wide) > 1) or one.layer is not None
        if relation.how in PURE and one.layer is None and not lines:
            assert report.obstacles or report.verdict == "loads"
        if relation.how is How.SAME_COUNT:
            assert not lines
