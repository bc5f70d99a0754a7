"""The lines of code that `convert` gives for convolutions over patches are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.modules import PatchLinear
from convinspect.showing.code_changes import advice

CONVS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
CASES: list[tuple[int, tuple[int, ...], bool]] = [
    (2, (5,), True),
    (1, (4,), False),
    (3, (4, 4), False),
    (3, (2, 3), True),
    (3, (2, 4, 4), True),
    (2, (3, 3, 3), False),
]
NAMES: dict[str, Any] = {"nn": nn, "PatchLinear": PatchLinear}


def run(text: str, **more: Any) -> Any:
    return eval(text, {**NAMES, **more})


def calls(line: str) -> list[str]:
    """The calls of classes in a line, whose brackets are balanced."""
    return re.findall(r"(?:nn\.\w+|PatchLinear)\((?:[^()]|\([^()]*\))*\)", line)


@pytest.mark.parametrize(("channels", "kernel", "bias"), CASES)
def test_the_lines_do_what_the_convolution_did(
    channels: int, kernel: tuple[int, ...], bias: bool, tmp_path: Path
) -> None:
    conv = CONVS[len(kernel) - 1](channels, 6, kernel, stride=kernel, bias=bias)
    torch.save({f"embed.{key}": value for key, value in conv.state_dict().items()}, tmp_path / "a.pt")
    job = convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to="linear", patches=True, layer=("embed",)))
    head, plain, on_images, on_rows = advice(job.plan, {})
    state = {key.removeprefix("embed."): value for key, value in torch.load(tmp_path / "b.pt").items()}
    x = torch.randn(2, channels, *(3 * size + size - 1 for size in kernel))
    wanted = conv(x)

    stated, stand_in = map(run, calls(head))
    stated.load_state_dict(conv.state_dict(), strict=True)
    torch.testing.assert_close(stated(x), wanted, rtol=0, atol=0)
    stand_in.load_state_dict(state, strict=True)
    torch.testing.assert_close(stand_in(x), wanted)

    (linear,) = map(run, calls(plain))
    linear.load_state_dict(state, strict=True)
    before, after = re.fullmatch(
        r"    for x of \(N, C, [\w, ]+\): (x\S.*) before it, (x\S.*) after it", on_images
    ).groups()  # type: ignore[union-attr]
    torch.testing.assert_close(run(after, x=linear(run(before, x=x))), wanted)
    assert f"for x of (…, {linear.in_features})" in on_rows
    rows = torch.randn(7, linear.in_features)
    torch.testing.assert_close(linear(rows), conv(rows.reshape(-1, channels, *kernel)).reshape(7, 6))


@pytest.mark.parametrize(("channels", "kernel", "bias"), CASES)
def test_the_lines_of_the_way_back(channels: int, kernel: tuple[int, ...], bias: bool, tmp_path: Path) -> None:
    old = PatchLinear(channels, 6, kernel, bias, dims=len(kernel))
    torch.save({f"embed.{key}": value for key, value in old.state_dict().items()}, tmp_path / "a.pt")
    options = Options(to=f"conv{len(kernel)}d", patch="x".join(map(str, kernel)), layer=("embed",))
    head, _, around = advice(convert(tmp_path / "a.pt", tmp_path / "b.pt", options).plan, {})
    state = {key.removeprefix("embed."): value for key, value in torch.load(tmp_path / "b.pt").items()}
    stand_in, linear, conv = map(run, calls(head))
    for module in (stand_in, linear):
        module.load_state_dict(old.state_dict(), strict=True)
    conv.load_state_dict(state, strict=True)
    x = torch.randn(2, channels, *(3 * size for size in kernel))
    torch.testing.assert_close(conv(x), stand_in(x))
    match = re.fullmatch(r"    (x\S.*) before it, (y\S.*) after it", around)
    assert match is not None
    before, after = match.groups()
    rows = torch.randn(2, 5, linear.in_features)
    torch.testing.assert_close(run(after, x=rows, y=conv(run(before, x=rows))), linear(rows))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_lines_of_a_transposed_convolution_of_kernel_1(dims: int, bias: bool, tmp_path: Path) -> None:
    """Nothing changes but the layer, and what turns its input and output over, there and back."""
    conv = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d][dims - 1](4, 6, 1, bias=bias)
    torch.save(nn.Sequential(conv), tmp_path / "a.pt")
    options = Options(to="linear", from_=(f"convtranspose{dims}d",), state_dict=True)
    head, around = advice(convert(tmp_path / "a.pt", tmp_path / "b.pt", options).plan, {})
    stated, linear = map(run, calls(head))
    state = {key.removeprefix("0."): value for key, value in torch.load(tmp_path / "b.pt").items()}
    stated.load_state_dict(conv.state_dict(), strict=True)
    linear.load_state_dict(state, strict=True)
    match = re.search(r": (x\S.*) before it, (x\S.*) after it$", around)
    assert match is not None
    before, after = match.groups()
    x = torch.randn(2, 4, *(5, 6, 7)[:dims])
    torch.testing.assert_close(run(after, x=linear(run(before, x=x))), conv(x))
    torch.testing.assert_close(stated(x), conv(x), rtol=0, atol=0)
