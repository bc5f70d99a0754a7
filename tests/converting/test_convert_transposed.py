"""Transposed convolutions of kernel size 1 are Linear, stored as (in, out). PyTorch is the oracle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import weight_norm

from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.errors import CannotConvert, ConvInspectError
from convinspect.showing.code_changes import advice
from support.conversions import CONTAINERS, load, names, reasons
from support.in_process import run
from support.program import listed
from support.sampling import times

TRANSPOSES: list[Any] = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]


def there(dims: int, **more: Any) -> Options:
    return Options(to="linear", from_=(f"convtranspose{dims}d",), force=True, **more)


@settings(deadline=None, max_examples=times(40, 80))
@given(st.data())
def test_the_linear_gives_what_the_convolution_gave(data: st.DataObject) -> None:
    dims, wide_in, wide_out = (data.draw(st.integers(low, high)) for low, high in ((1, 3), (1, 5), (1, 5)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    container = data.draw(st.sampled_from(sorted(CONTAINERS)))
    bias = data.draw(st.booleans())
    conv = TRANSPOSES[dims - 1](wide_in, wide_out, 1, bias=bias).to(dtype)
    if dims > 1 and data.draw(st.booleans()):
        conv = conv.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    with TemporaryDirectory() as folder:
        source, middle, again = (Path(folder) / f"{name}_{container}" for name in "abc")
        state = {f"up.{key}": value.detach() for key, value in conv.state_dict().items()}
        if source.suffix == ".safetensors":
            state = {key: value.contiguous() for key, value in state.items()}
        CONTAINERS[container](state, source)
        job = convert(source, middle, there(dims, layer=("up",)))
        assert names(job.plan) == ["up"]
        (conversion,) = job.plan.conversions
        assert ("transposed" in conversion.assumed) == (not bias or wide_in == wide_out)
        linear = nn.Linear(wide_in, wide_out, bias, dtype=dtype)
        linear.load_state_dict({key.removeprefix("up."): value for key, value in load(middle).items()}, strict=True)
        x = torch.randn(2, wide_in, *(3,) * dims).double()
        torch.testing.assert_close(linear.double()(x.movedim(1, -1)).movedim(-1, 1), conv.double()(x))
        convert(middle, again, Options(to=f"convtranspose{dims}d", layer=("up",)))
        if any("converting back" in note for note in job.notes):
            assert all(torch.equal(value, load(again)[key]) for key, value in load(source).items())
        else:
            assert again.read_bytes() == source.read_bytes()


def test_one_that_may_cut_patches_is_refused_with_patches_too(tmp_path: Path) -> None:
    torch.save(
        {f"up.{key}": one for key, one in nn.ConvTranspose2d(8, 3, 4, 4).state_dict().items()}, tmp_path / "a.pt"
    )
    with pytest.raises(CannotConvert, match="of larger kernels no transposed convolution is written as a Linear"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to="linear", patches=True, layer=("up",)))
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_a_linear_becomes_one_and_comes_back(dims: int, container: str, tmp_path: Path) -> None:
    linear = nn.Linear(4, 6)
    a, b, c = (tmp_path / f"{name}_{container}" for name in "abc")
    CONTAINERS[container]({f"up.{key}": value.detach() for key, value in linear.state_dict().items()}, a)
    head, *_ = advice(convert(a, b, Options(to=f"convtranspose{dims}d")).plan, {})
    assert head == f"up: nn.Linear(4, 6) → nn.ConvTranspose{dims}d(4, 6, 1)"
    conv = TRANSPOSES[dims - 1](4, 6, 1)
    conv.load_state_dict({key.removeprefix("up."): value for key, value in load(b).items()}, strict=True)
    x = torch.randn(2, 4, *(3,) * dims)
    torch.testing.assert_close(conv(x), linear(x.movedim(1, -1)).movedim(-1, 1))
    convert(b, c, there(dims))
    assert c.read_bytes() == a.read_bytes()


def test_a_convolution_becomes_a_transposed_one(tmp_path: Path) -> None:
    conv = nn.Conv2d(4, 6, 1)
    torch.save({f"up.{key}": value for key, value in conv.state_dict().items()}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to="convtranspose2d", from_=("conv2d",)))
    after = nn.ConvTranspose2d(4, 6, 1)
    after.load_state_dict({key.removeprefix("up."): value for key, value in load(tmp_path / "b.pt").items()})
    x = torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(after(x), conv(x))
    convert(tmp_path / "b.pt", tmp_path / "c.pt", Options(to="conv2d", from_=("convtranspose2d",)))
    assert (tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


def test_state_copies_and_ties_follow(tmp_path: Path) -> None:
    model: Any = nn.Sequential()
    model.up = nn.ConvTranspose1d(4, 6, 1)
    model.head = nn.ConvTranspose1d(6, 3, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 4, 5)).square().sum().backward()
    optimizer.step()
    own = model.state_dict()
    ema = {key: value + 1 for key, value in own.items()}
    torch.save({"model": {**own, "again.weight": own["up.weight"], "again.bias": own["up.bias"]}, "ema": ema,
                "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")  # fmt: skip
    convert(tmp_path / "a.pt", tmp_path / "b.pt", there(1))
    after = load(tmp_path / "b.pt")
    assert torch.equal(after["model"]["up.weight"], own["up.weight"][..., 0].T)
    assert after["model"]["again.weight"].data_ptr() == after["model"]["up.weight"].data_ptr()
    assert torch.equal(after["ema"]["head.weight"], ema["head.weight"][..., 0].T)
    state = optimizer.state_dict()["state"]
    assert torch.equal(after["optimizer"]["state"][0]["exp_avg"], state[0]["exp_avg"][..., 0].T)
    convert(tmp_path / "b.pt", tmp_path / "c.pt", Options(to="convtranspose1d"))
    assert (tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "groups": (nn.ConvTranspose1d(4, 6, 1, groups=2), "groups=2"),
    "stride": (nn.ConvTranspose1d(4, 6, 1, stride=2), "stride=2"),
    "padding": (nn.ConvTranspose1d(4, 6, 1, padding=1), "padding=1"),
    "output_padding": (nn.ConvTranspose1d(4, 6, 1, dilation=2, output_padding=1), "output_padding"),
    "kernel": (nn.ConvTranspose1d(4, 6, 3), "its kernel size is 3, not 1"),
    "patch": (nn.ConvTranspose1d(4, 6, 2, stride=2), "a Linear of weight.flatten(1).T and bias.repeat_interleave(2)"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("named", [False, True])
def test_what_is_no_linear_is_refused_by_name(case: str, named: bool, tmp_path: Path) -> None:
    module, reason = REFUSED[case]
    torch.save(nn.Sequential(module), tmp_path / "a.pt")
    options = there(1, dry_run=True, state_dict=True, layer=("0",) if named else ())
    job = convert(tmp_path / "a.pt", None, options)
    assert reason in reasons(job.plan)["0"]
    with pytest.raises(CannotConvert):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", replace(options, dry_run=False, layer=("0",)))
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize("module", [nn.ConvTranspose1d(4, 6, 1), nn.ConvTranspose1d(4, 6, 1, dilation=3)])
def test_a_whole_model_tells(module: nn.Module, tmp_path: Path) -> None:
    torch.save(nn.Sequential(module), tmp_path / "a.pt")
    layer = listed(tmp_path / "a.pt")["0"]
    assert layer["kind"] == "ConvTranspose1d"
    assert layer["pointwise"] is True
    job = convert(tmp_path / "a.pt", tmp_path / "b.pt", there(1, state_dict=True))
    assert job.plan.conversions[0].assumed == ()
    linear = nn.Linear(4, 6)
    linear.load_state_dict({key.removeprefix("0."): value for key, value in load(tmp_path / "b.pt").items()})
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(linear(x.mT).mT, module(x))


def test_by_hand_as_the_refusal_says() -> None:
    conv = nn.ConvTranspose2d(4, 6, (2, 3), stride=(2, 3))
    assert conv.bias is not None
    weight, bias = conv.weight.flatten(1).T, conv.bias.repeat_interleave(6)
    x = torch.randn(2, 4, 3, 5)
    y = nn.functional.linear(x.movedim(1, -1), weight, bias).unflatten(-1, (6, 2, 3))  # type: ignore[no-untyped-call]
    y = y.permute(0, 3, 1, 4, 2, 5).reshape(2, 6, 6, 15)
    torch.testing.assert_close(y, conv(x))


def test_what_a_state_dict_tells(tmp_path: Path) -> None:
    """A bias of the second size proves it; without one, or where the sizes are equal, only the user knows."""
    state = {
        "a.weight": torch.randn(4, 6, 1), "a.bias": torch.randn(6),
        "b.weight": torch.randn(4, 6, 1),
        "c.weight": torch.randn(4, 6, 1), "c.bias": torch.randn(4),
        "d.weight": torch.randn(4, 4, 1), "d.bias": torch.randn(4),
    }  # fmt: skip
    torch.save(state, tmp_path / "a.pt")
    layers = listed(tmp_path / "a.pt")
    assert {name: layer["kind"] for name, layer in layers.items()} == {
        "a": "ConvTranspose1d", "b": "Conv1d", "c": "Conv1d", "d": "Conv1d",
    }  # fmt: skip
    assert all(layer["pointwise"] for layer in layers.values())
    assert names(convert(tmp_path / "a.pt", tmp_path / "b.pt", there(1)).plan) == ["a"]
    plan = convert(tmp_path / "a.pt", None, there(1, layer=("b", "c", "d"), dry_run=True)).plan
    assert names(plan) == ["b", "d"]
    assert "it is a Conv1d" in reasons(plan)["c"]
    assert all("transposed" in conversion.assumed for conversion in plan.conversions)


def test_norms_are_taken_along_other_dimensions(tmp_path: Path) -> None:
    model: Any = nn.Sequential()
    model.up = weight_norm(nn.ConvTranspose1d(4, 6, 1))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    plan = convert(tmp_path / "a.pt", None, there(1, dry_run=True)).plan
    assert "weight norm, whose dimension" in reasons(plan)["up"]


@pytest.mark.parametrize("container", sorted(CONTAINERS))
@pytest.mark.parametrize("wide", [4, 6])
def test_like_a_model_that_has_it(container: str, wide: int, tmp_path: Path) -> None:
    model = nn.Sequential(nn.ConvTranspose1d(4, wide, 1))
    torch.save(model, tmp_path / "model.pt")
    a, b, c = (tmp_path / f"{name}_{container}" for name in "abc")
    linear = nn.Linear(4, wide)
    CONTAINERS[container]({f"0.{key}": value.detach() for key, value in linear.state_dict().items()}, a)
    (conversion,) = convert(a, b, Options(like=tmp_path / "model.pt")).plan.conversions
    assert (conversion.layer.kind, conversion.to) == ("Linear", "ConvTranspose1d")
    model.load_state_dict(load(b), strict=True)
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(model(x), linear(x.mT).mT)
    if wide == 6:
        (conversion,) = convert(b, c, Options(like=a)).plan.conversions
        assert (conversion.layer.kind, conversion.to) == ("ConvTranspose1d", "Linear")
        assert c.read_bytes() == a.read_bytes()


def test_what_is_said(tmp_path: Path) -> None:
    save_file({"up.weight": torch.randn(4, 6, 1), "up.bias": torch.randn(6)}, tmp_path / "a.safetensors")
    result = run("convert", tmp_path / "a.safetensors", "--to", "linear", "-o", tmp_path / "b.safetensors")
    assert result.returncode == 2
    assert "--from convtranspose1d takes 1 pointwise ConvTranspose1d" in result.stderr
    result = run("convert", tmp_path / "a.safetensors", "--to", "linear", "--patches", "-l", "up", "-n")
    assert "without --patches --from convtranspose1d takes it" in result.stdout


def test_lora_beside_it_is_not_peft(tmp_path: Path) -> None:
    state = {
        "up.base_layer.weight": torch.randn(4, 6, 1), "up.base_layer.bias": torch.randn(6),
        "up.lora_A.default.weight": torch.randn(2, 4, 1), "up.lora_B.default.weight": torch.randn(6, 2, 1),
    }  # fmt: skip
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ConvInspectError, match="merge the adapter first"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", there(1))


def test_any_kind_turns_no_convolution_that_is_the_target_already(tmp_path: Path) -> None:
    """A square kernel may be either; who asks for all other kinds, to Conv1d, has not said that it is transposed."""
    weights = {"a.weight": torch.randn(4, 4, 1), "a.bias": torch.randn(4)}
    torch.save(weights, tmp_path / "a.pt")
    arguments = ("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "conv1d", "--layer", "a")
    done = run(*arguments, "--from", "any")
    assert done.returncode == 2
    assert "Conv1d already" in done.stderr
    assert not (tmp_path / "b.pt").exists()
    assert run(*arguments, "--from", "convtranspose1d").returncode == 0
    after = torch.load(tmp_path / "b.pt")["a.weight"]
    assert torch.equal(after, weights["a.weight"].transpose(0, 1))
