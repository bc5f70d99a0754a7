"""Convolutions that cut patches become the Linear over flattened patches, and back. PyTorch's own convolution and
`unfold` are the oracle.
"""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune, weight_norm

from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.errors import ConvInspectError
from convinspect.modules import PatchLinear
from support.conversions import CONTAINERS, load, names, reasons
from support.in_process import command
from support.program import assert_one_line
from support.sampling import times

CONVS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
PATCHES = Options(to="linear", patches=True, force=True)


def back(kernel: tuple[int, ...], **more: Any) -> Options:
    return Options(to=f"conv{len(kernel)}d", patch="x".join(map(str, kernel)), force=True, **more)


def save(state: dict[str, torch.Tensor], path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


# ------------------------------------------------------------------------------------------- what it computes


@settings(deadline=None, max_examples=times(30, 60))
@given(st.data())
def test_the_linear_gives_what_the_convolution_gave(data: st.DataObject) -> None:
    kernel = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda ks: set(ks) != {1})))
    dims, wide_in, wide_out = len(kernel), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    container = data.draw(st.sampled_from(sorted(CONTAINERS)))
    bias = data.draw(st.booleans())
    conv = CONVS[dims - 1](wide_in, wide_out, kernel, stride=kernel, bias=bias).to(dtype)
    last = dims > 1 and data.draw(st.booleans())
    if last:
        conv = conv.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    with TemporaryDirectory() as folder:
        source, there, again = (Path(folder) / f"{name}_{container}" for name in "abc")
        state = {f"embed.{key}": value.detach() for key, value in conv.state_dict().items()}
        flat = conv.weight.is_contiguous() or source.suffix == ".safetensors"
        CONTAINERS[container]({key: value.contiguous() if flat else value for key, value in state.items()}, source)
        options = Options(to="linear", patches=True, layer=("embed",))
        if not flat and conv.weight.flatten(1).data_ptr() != conv.weight.data_ptr():
            with pytest.raises(ConvInspectError, match="contiguous"):
                convert(source, there, options)
            assert not there.exists()
            return
        job = convert(source, there, options)
        assert names(job.plan) == ["embed"]
        converted = {key.removeprefix("embed."): value for key, value in load(there).items()}
        linear = PatchLinear(wide_in, wide_out, kernel, bias, dtype=dtype, dims=dims)
        linear.load_state_dict(converted, strict=True)
        nn.Linear(linear.in_features, wide_out, bias, dtype=dtype).load_state_dict(converted, strict=True)
        x = torch.randn(2, wide_in, *(size * 3 + data.draw(st.integers(0, size - 1)) for size in kernel)).double()
        wanted, given_ = conv.double()(x), linear.double()(x)
        sizes = functional.linear(linear.patches.rows(x).abs(), linear.weight.abs()).max()
        most = (sizes + (linear.bias.abs().max() if bias else 0)) * (linear.in_features + 1) * 2.0**-52
        assert (wanted - given_).abs().max() <= most
        convert(there, again, back(kernel, layer=("embed",), in_channels=wide_in))
        if job.notes:  # strides of dimensions of one position
            assert all("strides" in note for note in job.notes)
            assert all(torch.equal(value, load(again)[key]) for key, value in load(source).items())
        else:
            assert again.read_bytes() == source.read_bytes()


def test_rows_are_those_of_unfold(tmp_path: Path) -> None:
    conv = nn.Conv2d(3, 8, (4, 2), stride=(4, 2))
    source = save({f"patch_embed.proj.{key}": value for key, value in conv.state_dict().items()}, tmp_path / "a.pt")
    convert(source, tmp_path / "b.pt", PATCHES)
    state = load(tmp_path / "b.pt")
    x = torch.randn(2, 3, 8, 8)
    rows = functional.unfold(x, (4, 2), stride=(4, 2)).mT
    y = functional.linear(rows, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"])
    torch.testing.assert_close(y.mT.reshape(2, 8, 2, 4), conv(x))


# ------------------------------------------------------------------------------------------- which are taken


@settings(deadline=None, max_examples=times(30, 60))
@given(st.data())
def test_windows_that_overlap_are_never_taken_silently(data: st.DataObject) -> None:
    """Whatever a module records: what is converted computes the same, and what is not has a reason."""
    dims = data.draw(st.integers(1, 3))
    kernel, stride, padding, dilation = (
        tuple(data.draw(st.lists(st.integers(low, high), min_size=dims, max_size=dims)))
        for low, high in ((1, 3), (1, 3), (0, 1), (1, 2))
    )
    if data.draw(st.booleans()):
        stride, padding, dilation = kernel, (0,) * dims, (1,) * dims
    if set(kernel) == {1}:
        return
    groups = data.draw(st.sampled_from([1, 1, 1, 2]))
    mode = data.draw(st.sampled_from(["zeros", "circular"]))
    exact = data.draw(st.booleans())
    conv = CONVS[dims - 1](
        4, 4, kernel, stride, padding, dilation=dilation, groups=groups, padding_mode=mode
    )  # fmt: skip
    model = nn.Sequential(conv)
    with TemporaryDirectory() as folder:
        source = Path(folder) / "a.pt"
        torch.save(model, source)
        options = Options(to="linear", patches=True, layer=("0",) if exact else (), state_dict=True, dry_run=True)
        planned = convert(source, None, options).plan
        x = torch.randn(1, 4, *(9 + size for size in kernel), dtype=torch.float64)
        same = False
        if groups == 1:
            linear = PatchLinear(4, 4, kernel, dtype=torch.float64, dims=dims)
            linear.weight.data, linear.bias.data = conv.weight.double().flatten(1), conv.bias.double()
            y, z = conv.double()(x), linear(x)
            same = y.shape == z.shape and torch.allclose(y, z)
        if planned.conversions:
            assert same
            assert planned.conversions[0].assumed == ()
        else:
            assert list(reasons(planned)) == ["0"]


REFUSED = {
    "stride": (nn.Conv2d(3, 4, 4, stride=3), "its stride is (3, 3), not its kernel size 4×4"),
    "padding": (nn.Conv2d(3, 4, 4, stride=4, padding=2), "padding=(2, 2)"),
    "mode": (nn.Conv2d(3, 4, 4, stride=4, padding=2, padding_mode="reflect"), "padding=(2, 2)"),
    "dilation": (nn.Conv2d(3, 4, 4, stride=4, dilation=2), "dilation=(2, 2)"),
    "groups": (nn.Conv2d(4, 4, 4, stride=4, groups=2), "groups=2"),
    "transposed": (
        nn.ConvTranspose2d(3, 4, 4, stride=4),
        "weight.flatten(1).T and bias.repeat_interleave(16)",
    ),
    "pointwise": (nn.Conv2d(3, 4, 1), "its kernel size is 1; without patches=True"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_recorded_settings_that_forbid_it_are_named(case: str, tmp_path: Path) -> None:
    conv, reason = REFUSED[case]
    torch.save(nn.Sequential(conv), tmp_path / "a.pt")
    with pytest.raises(ConvInspectError) as error:
        convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to="linear", patches=True, layer=("0",), state_dict=True))
    assert reason in str(error.value)
    assert not (tmp_path / "b.pt").exists()


def test_a_state_dict_gives_those_with_such_names_and_those_that_are_named(tmp_path: Path) -> None:
    state = {
        "visual.patch_embed.proj.weight": torch.randn(8, 3, 2, 14, 14),
        "stem.weight": torch.randn(4, 3, 4, 4),
        "conv.weight": torch.randn(4, 3, 3, 3),
        "audio.weight": torch.randn(4, 1, 400),
        "point.weight": torch.randn(4, 4, 1, 1),
    }
    source = save(state, tmp_path / "a.safetensors")
    planned = convert(source, tmp_path / "b.safetensors", PATCHES).plan
    assert names(planned) == ["visual.patch_embed.proj"]
    assert planned.conversions[0].assumed == ("stride as the kernel's size", "padding 0", "dilation 1", "groups 1")
    assert {name: "layer=" in reason for name, reason in reasons(planned).items()} == {
        "stem": True, "conv": True, "audio": True
    }  # fmt: skip
    only = convert(source, None, Options(to="linear", patches=True, from_=("conv1d",), layer=("audio",), dry_run=True))
    assert names(only.plan) == ["audio"]
    assert "stride as the kernel's size" in only.plan.conversions[0].assumed
    globbed = convert(source, None, Options(to="linear", patches=True, layer=("ste*", "point"), dry_run=True)).plan
    assert globbed.conversions == ()
    assert set(reasons(globbed)) == {"stem", "point"}


def test_the_option_is_named_where_only_patches_are_there(tmp_path: Path) -> None:
    source = save({"patch_embed.proj.weight": torch.randn(8, 3, 4, 4)}, tmp_path / "a.pt")
    for origins in ((), ("conv2d",), ("any",)):
        with pytest.raises(ConvInspectError, match="patches=True takes") as error:
            convert(source, tmp_path / "b.pt", Options(to="linear", from_=origins))
        assert "patch_embed.proj" in str(error.value) or "no layer is a pointwise Conv1d" in str(error.value)


def test_other_kinds_stay(tmp_path: Path) -> None:
    source = save({"patch_embed.proj.weight": torch.randn(8, 3, 4, 4)}, tmp_path / "a.pt")
    with pytest.raises(ConvInspectError) as error:
        convert(source, tmp_path / "b.pt", Options(to="linear", patches=True, from_=("conv3d",)))
    assert "no Conv3d is known to cut patches" in str(error.value)
    assert "from_='conv2d' takes 1 Conv2d" in str(error.value)


# ------------------------------------------------------------------------------------------- the way back

TAKEN_BACK = [
    ("16x16", "conv2d", None, "no multiple of 16×16"),
    ("2x14x14", "conv3d", 4, "3 channels of 2×14×14, not in_channels=4"),
    ("14x14", "conv3d", None, "a Conv3d's patch has 3 sizes"),
    ("14xy", "conv2d", None, "a Conv2d's patch has 2 sizes"),
    ("0x14", "conv2d", None, "a Conv2d's patch has 2 sizes"),
    ("1x1", "conv2d", None, "a kernel of a single position"),
    ("14x14", "linear", None, "the kernel size of the convolutions"),
]


@pytest.mark.parametrize(("patch", "to", "channels", "problem"), TAKEN_BACK)
def test_a_patch_that_does_not_fit_is_refused(
    patch: str, to: str, channels: int | None, problem: str, tmp_path: Path
) -> None:
    source = save({"patch_embed.proj.weight": torch.randn(8, 3 * 2 * 14 * 14)}, tmp_path / "a.pt")
    with pytest.raises(ConvInspectError) as error:
        convert(source, tmp_path / "b.pt", Options(to=to, patch=patch, in_channels=channels))
    assert problem in str(error.value)
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--to", "conv2d", "--in-channels", "3"],
        ["--to", "conv2d", "--patches"],
        ["--to", "linear", "--patches", "--from", "transformers"],
        ["--to", "linear", "--patches", "--groups", "expand"],
        ["--to", "conv2d", "--patch", "8x8", "--from", "conv1d"],
        ["--to", "conv2d", "--patch", "7x9"],
        ["--to", "conv2d", "--patch", "8x8", "--in-channels", "0"],
    ],
)
def test_contradictions_are_one_line(wrong: list[str], tmp_path: Path) -> None:
    source = save({"patch_embed.proj.weight": torch.randn(8, 192)}, tmp_path / "a.pt")
    assert_one_line(command(tmp_path, "convert", source, "-o", "b.pt", *wrong))
    assert not (tmp_path / "b.pt").exists()


def test_only_what_is_called_so_is_taken_back(tmp_path: Path) -> None:
    state = {
        "embeddings.patch_embedding.weight": torch.randn(8, 48),  # would be an Embedding by its name
        "head.weight": torch.randn(16, 48),
        "head.bias": torch.randn(16),
    }
    source = save(state, tmp_path / "a.pt")
    planned = convert(source, tmp_path / "b.pt", back((4, 4))).plan
    assert names(planned) == ["embeddings.patch_embedding"]
    assert planned.conversions[0].new_shape == (8, 3, 4, 4)
    assert planned.conversions[0].assumed == ("patches flattened as (c, h, w)",)
    assert names(convert(source, None, back((4, 4), layer=("head",), dry_run=True)).plan) == ["head"]


# ------------------------------------------------------------------------------------------- what goes with it


class Net(nn.Module):
    def __init__(self, patch_embed: nn.Module) -> None:
        super().__init__()
        self.patch_embed, self.head = patch_embed, nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.patch_embed(x).flatten(2).mT)
        return y


@pytest.mark.parametrize("made", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_optimizer_and_copies_follow(made: Any, tmp_path: Path) -> None:
    """The resumed model takes the same step as the one that was not converted."""
    torch.manual_seed(0)
    model, x = Net(nn.Conv2d(3, 8, 4, stride=4)), torch.randn(2, 3, 8, 8)
    settings_ = {"momentum": 0.9} if made is torch.optim.SGD else {}
    optimizer = made(model.parameters(), lr=0.01, **settings_)

    def step(net: nn.Module, by: Any) -> None:
        by.zero_grad()
        net(x).square().sum().backward()
        by.step()

    step(model, optimizer)
    ema = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save({"model": model.state_dict(), "ema": ema, "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", PATCHES)
    there = load(tmp_path / "b.pt")
    assert there["ema"]["patch_embed.weight"].shape == (8, 48)
    resumed = Net(PatchLinear(3, 8, 4))
    resumed.load_state_dict(there["model"], strict=True)
    again = made(resumed.parameters(), lr=0.01, **settings_)
    again.load_state_dict(there["optimizer"])
    step(model, optimizer)
    step(resumed, again)
    for old, new in zip(model.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(new, old.reshape(new.shape))
    convert(tmp_path / "b.pt", tmp_path / "c.pt", back((4, 4)))
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "c.pt").read_bytes()


NORMS: dict[str, Any] = {
    "weight_norm": lambda conv: parametrizations.weight_norm(conv),
    "old_weight_norm": lambda conv: weight_norm(conv),
    "spectral_norm": lambda conv: parametrizations.spectral_norm(conv),
    "pruned": lambda conv: prune.random_unstructured(conv, "weight", 0.5),  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("norm", NORMS)
def test_norms_keep_their_meaning(norm: str, tmp_path: Path) -> None:
    conv = NORMS[norm](nn.Conv2d(3, 8, 4, stride=4)).eval()
    torch.save({f"patch_embed.{key}": value for key, value in conv.state_dict().items()}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", PATCHES)
    linear = NORMS[norm](PatchLinear(3, 8, 4)).eval()
    linear.load_state_dict({key.removeprefix("patch_embed."): value for key, value in load(tmp_path / "b.pt").items()})
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(linear(x), conv(x))
    convert(tmp_path / "b.pt", tmp_path / "c.pt", back((4, 4)))
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "c.pt").read_bytes()


@pytest.mark.parametrize("made", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_norm_along_the_inputs_is_refused(made: Any, tmp_path: Path) -> None:
    conv = made(nn.Conv2d(3, 8, 4, stride=4), dim=1)
    torch.save({f"patch_embed.{key}": value for key, value in conv.state_dict().items()}, tmp_path / "a.pt")
    with pytest.raises(ConvInspectError, match="along its inputs"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", PATCHES)


def test_ties_go_together(tmp_path: Path) -> None:
    weight = torch.randn(8, 3, 4, 4)
    torch.save({"a.patch_embed.proj.weight": weight, "stem.weight": weight}, tmp_path / "a.pt")
    left = reasons(convert(tmp_path / "a.pt", None, Options(to="linear", patches=True, dry_run=True)).plan)
    assert "tied to stem.weight" in left["a.patch_embed.proj"]
    named = Options(to="linear", patches=True, layer=("a.patch_embed.proj", "stem"))
    assert len(convert(tmp_path / "a.pt", tmp_path / "b.pt", named).plan.conversions) == 2
    state = load(tmp_path / "b.pt")
    assert state["stem.weight"].data_ptr() == state["a.patch_embed.proj.weight"].data_ptr()


@pytest.mark.parametrize("alone", [False, True])
def test_lora_pairs_go_together(alone: bool, tmp_path: Path) -> None:
    front = "base_model.model.patch_embed.proj"
    state = {
        f"{front}.base_layer.weight": torch.randn(8, 3, 4, 4),
        f"{front}.lora_A.default.weight": torch.randn(2, 3, 4, 4),
        f"{front}.lora_B.default.weight": torch.randn(8, 2, 1, 1),
        f"{front}.lora_magnitude_vector.default.weight": torch.randn(1, 8, 1, 1),
    }
    if alone:
        state.pop(f"{front}.base_layer.weight")
        state = {key.replace(".default", ""): value for key, value in state.items()}
    source = save(state, tmp_path / "a.safetensors")
    convert(source, tmp_path / "b.safetensors", PATCHES)
    shapes = [tuple(value.shape) for key, value in load(tmp_path / "b.safetensors").items()]
    assert sorted(shapes) == sorted([(8, 48)] * (not alone) + [(2, 48), (8, 2), (8,)])
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", back((4, 4)))
    assert source.read_bytes() == (tmp_path / "c.safetensors").read_bytes()


def test_an_adapter_of_another_family_holds_its_layer(tmp_path: Path) -> None:
    front = "base_model.model.patch_embed.proj"
    state = {f"{front}.base_layer.weight": torch.randn(8, 3, 4, 4), f"{front}.ia3_l.default": torch.randn(1, 3, 1, 1)}
    source = save(state, tmp_path / "a.pt")
    with pytest.raises(ConvInspectError, match="merge the adapter first"):
        convert(source, tmp_path / "b.pt", PATCHES)


def test_a_whole_model_gives_its_state_dict(tmp_path: Path) -> None:
    model = Net(nn.Conv2d(3, 8, 4, stride=4)).eval()
    x = torch.randn(2, 3, 9, 8)
    torch.jit.trace(model, x).save(str(tmp_path / "a.pt"))  # type: ignore[no-untyped-call]
    with pytest.raises(ConvInspectError, match="state_dict"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", PATCHES)
    job = convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to="linear", patches=True, state_dict=True))
    assert job.plan.conversions[0].assumed == ()
    linear = Net(PatchLinear(3, 8, 4))
    linear.load_state_dict(load(tmp_path / "b.pt"), strict=True)
    torch.testing.assert_close(linear(x), model(x))


def test_fused_and_other_formats(tmp_path: Path) -> None:
    conv = parametrizations.weight_norm(nn.Conv2d(3, 8, 4, stride=4))
    torch.save({f"patch_embed.{key}": value for key, value in conv.state_dict().items()}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors", Options(to="linear", patches=True, fuse=True))
    state = load(tmp_path / "b.safetensors")
    linear = PatchLinear(3, 8, 4)
    linear.load_state_dict({key.removeprefix("patch_embed."): value for key, value in state.items()}, strict=True)
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(linear(x), conv(x))


def test_the_code_tells_what_a_state_dict_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "patch_code.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.ModuleDict({'stem': nn.Conv2d(3, 8, 4, stride=4), 'patch_embed': nn.Conv2d(3, 8, 4)})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model = nn.ModuleDict({"stem": nn.Conv2d(3, 8, 4, stride=4), "patch_embed": nn.Conv2d(3, 8, 4)})
    torch.save(model.state_dict(), tmp_path / "a.pt")
    planned = convert(tmp_path / "a.pt", tmp_path / "b.pt", PATCHES).plan
    assert names(planned) == ["patch_embed"]  # its name lies, which is said as assumed
    assert planned.conversions[0].assumed
    known = Options(to="linear", patches=True, model="patch_code:net", force=True)
    planned = convert(tmp_path / "a.pt", tmp_path / "b.pt", known).plan
    assert names(planned) == ["stem"]
    assert planned.conversions[0].assumed == ()
    assert "its stride is (1, 1), not its kernel size 4×4" in reasons(planned)["patch_embed"]


@pytest.mark.parametrize("to", ["linear", "conv2d"])
def test_state_that_another_shape_cannot_continue_is_refused(to: str, tmp_path: Path) -> None:
    model = Net(nn.Conv2d(3, 8, 4, stride=4) if to == "linear" else PatchLinear(3, 8, 4))
    optimizer = torch.optim.Adafactor(model.parameters())
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()  # type: ignore[no-untyped-call]
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    options = {"patches": True} if to == "linear" else {"patch": "4x4"}
    with pytest.raises(ConvInspectError, match="the optimizer at"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to=to, **options))
    convert(tmp_path / "a.pt", tmp_path / "b.pt", Options(to=to, drop_optimizer=True, **options))


def test_a_transposed_linear_comes_back_as_it_lay(tmp_path: Path) -> None:
    """Its strides are (1, out): cutting its columns moves no number."""
    weight = torch.randn(48, 8).T
    torch.save({"patch_embed.proj.weight": weight}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", back((4, 4)))
    found = load(tmp_path / "b.pt")["patch_embed.proj.weight"]
    assert torch.equal(found, weight.reshape(8, 3, 4, 4))
    assert found.stride() == (1, 128, 32, 8)
    convert(tmp_path / "b.pt", tmp_path / "c.pt", PATCHES)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "c.pt").read_bytes()


def test_an_exported_model_records_what_it_cuts(tmp_path: Path) -> None:
    model = Net(nn.Conv2d(3, 8, 4, stride=4)).eval()
    torch.export.save(torch.export.export(model, (torch.randn(2, 3, 8, 8),)), tmp_path / "a.pt2")
    job = convert(tmp_path / "a.pt2", tmp_path / "b.pt", Options(to="linear", patches=True, state_dict=True))
    assert names(job.plan) == ["patch_embed"]
    assert job.plan.conversions[0].assumed == ()


def test_like_carries_the_kernel(tmp_path: Path) -> None:
    state = {"patch_embed.proj.weight": torch.randn(8, 3, 2, 6, 6)}
    source = save(state, tmp_path / "a.pt")
    convert(source, tmp_path / "b.pt", PATCHES)
    convert(tmp_path / "b.pt", tmp_path / "c.pt", Options(like=source))
    assert source.read_bytes() == (tmp_path / "c.pt").read_bytes()
    assert math.prod(load(tmp_path / "b.pt")["patch_embed.proj.weight"].shape) == 8 * 216
