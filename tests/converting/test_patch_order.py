"""Patches that are flattened with their channels last, as transformers' Siglip2 has them: the numbers of each kernel
move, and come back. PyTorch's own convolution and `permute` are the oracle.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune, weight_norm
from torch.utils.serialization import config

from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.errors import CannotConvert, ConvInspectError
from convinspect.showing.code_changes import advice
from support.conversions import CONTAINERS, load
from support.in_process import run
from support.sampling import times

CONVS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
THERE = Options(to="linear", patches=True, patch_order="hwc", force=True)


def back(kernel: tuple[int, ...], **more: Any) -> Options:
    return Options(to=f"conv{len(kernel)}d", patch="x".join(map(str, kernel)), patch_order="hwc", force=True, **more)


def flattened(weight: torch.Tensor) -> torch.Tensor:
    """(O, I, k…) → (O, k…·I)"""
    return weight.movedim(1, -1).flatten(1)


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())


def rows(x: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor:
    """(N, C, …) → (N, …, k…·C), cut as a convolution of that stride cuts it."""
    for axis, size in enumerate(kernel, 2):
        x = x.unfold(axis, size, size)
    return x.movedim(1, -1).flatten(1 + len(kernel))


def saved(state: dict[str, torch.Tensor], path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def embed(wide_in: int, wide_out: int, kernel: tuple[int, ...], **more: Any) -> dict[str, torch.Tensor]:
    conv = CONVS[len(kernel) - 1](wide_in, wide_out, kernel, stride=kernel, **more)
    return {f"patch_embed.proj.{key}": value.detach() for key, value in conv.state_dict().items()}


@pytest.mark.filterwarnings("ignore:Complex modules")
@settings(deadline=None, max_examples=times(40, 80))
@given(st.data())
def test_the_linear_gives_what_the_convolution_gave(data: st.DataObject) -> None:
    kernel = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda ks: set(ks) != {1})))
    dims, wide_in, wide_out = len(kernel), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]))
    container = data.draw(st.sampled_from(sorted(CONTAINERS)))
    order = data.draw(st.sampled_from(["little", "big"])) if container.endswith("zip.pt") else "little"
    conv = CONVS[dims - 1](wide_in, wide_out, kernel, stride=kernel, bias=data.draw(st.booleans())).to(dtype)
    if dims > 1 and data.draw(st.booleans()):
        conv = conv.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    with TemporaryDirectory() as folder:
        source, there, again = (Path(folder) / f"{name}_{container}" for name in "abc")
        state = {f"embed.{key}": value.detach() for key, value in conv.state_dict().items()}
        if source.suffix == ".safetensors":
            state = {key: value.contiguous() for key, value in state.items()}
        with mock.patch("sys.byteorder", order):
            CONTAINERS[container](state, source)
        before = load(source)
        job = convert(source, there, Options(to="linear", patches=True, patch_order="hwc", layer=("embed",)))
        after = load(there)
        assert bits(after["embed.weight"]) == bits(flattened(before["embed.weight"]))
        linear = nn.Linear(after["embed.weight"].shape[1], wide_out, "embed.bias" in after, dtype=dtype)
        linear.load_state_dict({key.removeprefix("embed."): value for key, value in after.items()}, strict=True)
        wide = torch.complex128 if dtype.is_complex else torch.float64
        x = torch.randn(2, wide_in, *(size * 2 + data.draw(st.integers(0, size - 1)) for size in kernel), dtype=wide)
        if order == "little":  # else they are other numbers
            torch.testing.assert_close(linear.to(wide)(rows(x, kernel)).movedim(-1, 1), conv.to(wide)(x))
        convert(there, again, back(kernel, layer=("embed",), in_channels=wide_in))
        assert bits(load(again)["embed.weight"]) == bits(before["embed.weight"])
        if any("strides" in note and "converting back" in note for note in job.notes):
            assert before["embed.weight"].stride() != load(again)["embed.weight"].stride()
        else:
            assert again.read_bytes() == source.read_bytes()


def test_siglip2s_order_is_that_of_its_own_code(tmp_path: Path) -> None:
    """(N, C, H, W) → patches (h, w, c), as transformers' `convert_image_to_patches` cuts them."""
    state = embed(3, 8, (4, 4))
    convert(saved(state, tmp_path / "a.pt"), tmp_path / "b.pt", THERE)
    image = torch.randn(3, 8, 12)
    # transformers/models/siglip2/image_processing_siglip2.py: channels last, then rows of patches
    patches = image.reshape(3, 2, 4, 3, 4).permute(1, 3, 2, 4, 0).reshape(6, -1)
    y = functional.linear(patches, *load(tmp_path / "b.pt").values())
    wanted = (
        functional.conv2d(image[None], state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 4)[0]
        .flatten(1)
        .T
    )
    torch.testing.assert_close(y, wanted)


def test_what_is_said(tmp_path: Path) -> None:
    source = saved(embed(3, 8, (4, 4)), tmp_path / "a.safetensors")
    there = tmp_path / "b.safetensors"
    there_run = run("convert", source, "-o", there, "--to", "linear", "--patches", "--patch-order", "hwc")
    assert "the numbers of each kernel move: (c, h, w) to (h, w, c)" in there_run.stderr
    assert "nn.Linear(48, 8)" in there_run.stdout
    assert "PatchLinear" not in there_run.stdout
    again = run("convert", there, "-o", tmp_path / "c.safetensors", "--to", "conv2d", "--patch", "4x4")
    assert "assumed order (c, h, w)" in again.stderr
    assert "as Siglip2 has, add --patch-order hwc" in again.stderr
    words = ["convert", there, "-o", tmp_path / "e.safetensors", "--to", "conv2d", "--patch", "4x4"]
    assert "assumed" not in run(*words, "--patch-order", "chw").stderr
    last = run(
        "convert", there, "-o", tmp_path / "d.safetensors", "--to", "conv2d", "--patch", "4x4", "--patch-order", "hwc"
    )
    assert "the numbers of each kernel move: (h, w, c) to (c, h, w)" in last.stderr
    assert "add --patch-order" not in last.stderr
    assert (tmp_path / "d.safetensors").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("kernel", [(5,), (4, 2), (2, 3, 4)])
def test_the_advice_runs(kernel: tuple[int, ...], tmp_path: Path) -> None:
    conv = CONVS[len(kernel) - 1](3, 8, kernel, stride=kernel)
    state = {f"embed.{key}": value for key, value in conv.state_dict().items()}
    options = replace(THERE, layer=("embed",))
    head, around, on_rows = advice(convert(saved(state, tmp_path / "a.pt"), tmp_path / "b.pt", options).plan, {})
    linear = eval(head.partition(" → ")[2], {"nn": nn})
    linear.load_state_dict({key.removeprefix("embed."): value for key, value in load(tmp_path / "b.pt").items()})
    before, after = (part.rpartition(": ")[2] for part in around.split(" it, "))
    into, out = before.removesuffix(" before"), after.removesuffix(" after it")
    x = torch.randn(2, 3, *(2 * size for size in kernel))
    torch.testing.assert_close(eval(out, {"x": linear(eval(into, {"x": x}))}), conv(x))
    assert str(linear.in_features) in on_rows
    head, _, around = advice(convert(tmp_path / "b.pt", tmp_path / "c.pt", back(kernel, layer=("embed",))).plan, {})
    again = eval(head.partition(" → ")[2], {"nn": nn})
    again.load_state_dict({key.removeprefix("embed."): value for key, value in load(tmp_path / "c.pt").items()})
    before, after = around.split(" it, ")
    x = torch.randn(2, 5, linear.in_features)
    y = again(eval(before.strip().removesuffix(" before"), {"x": x}))
    torch.testing.assert_close(eval(after.removesuffix(" after it"), {"x": x, "y": y}), linear(x))


# ------------------------------------------------------------------------------------------- what follows


def trained(last: bool) -> dict[str, Any]:
    """A model after two steps of AdamW, with an average of it."""
    torch.manual_seed(0)
    model: Any = nn.Sequential()
    model.patch_embed = nn.Conv2d(3, 8, 4, stride=4)
    if last:
        model = model.to(memory_format=torch.channels_last)
    averaged = {f"{key}": value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), amsgrad=True)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    return {"model": model.state_dict(), "ema": averaged, "optimizer": optimizer.state_dict()}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_state_and_copies_follow(last: bool, legacy: bool, tmp_path: Path) -> None:
    before = trained(last)
    torch.save(before, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    job = convert(tmp_path / "a.pt", tmp_path / "b.pt", replace(THERE, layer=("patch_embed",)))
    assert [conversion.layer.name for conversion in job.plan.conversions] == ["patch_embed"]
    after = torch.load(tmp_path / "b.pt", weights_only=True)
    for old, new in (
        (before["model"]["patch_embed.weight"], after["model"]["patch_embed.weight"]),
        (before["ema"]["patch_embed.weight"], after["ema"]["patch_embed.weight"]),
        *((before["optimizer"]["state"][0][name], after["optimizer"]["state"][0][name])
          for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")),
    ):  # fmt: skip
        assert torch.equal(flattened(old), new)
    convert(tmp_path / "b.pt", tmp_path / "c.pt", back((4, 4), layer=("patch_embed",)))
    again = torch.load(tmp_path / "c.pt", weights_only=True)
    assert torch.equal(again["optimizer"]["state"][0]["exp_avg"], before["optimizer"]["state"][0]["exp_avg"])
    same = (tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()
    assert same != any("strides" in note for note in job.notes)
    assert same or last


def test_ties_and_views(tmp_path: Path) -> None:
    state = embed(3, 8, (4, 4))
    flat = torch.cat([torch.randn(5), state["patch_embed.proj.weight"].flatten(), torch.randn(7)])
    weight = flat[5:-7].view(8, 3, 4, 4)
    tied = {
        "patch_embed.proj.weight": weight,
        "other.patch_embed.weight": weight,
        "before": flat[:5],
        "after": flat[-7:],
    }
    torch.save(tied, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", THERE)
    new = load(tmp_path / "b.pt")
    assert torch.equal(new["patch_embed.proj.weight"], flattened(weight))
    assert new["other.patch_embed.weight"].data_ptr() == new["patch_embed.proj.weight"].data_ptr()
    assert torch.equal(new["before"], flat[:5])
    assert torch.equal(new["after"], flat[-7:])
    convert(tmp_path / "b.pt", tmp_path / "c.pt", back((4, 4)))
    assert (tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


@pytest.mark.parametrize("named", [False, True])
def test_the_same_numbers_elsewhere_follow(named: bool, tmp_path: Path) -> None:
    state = embed(3, 8, (4, 4))
    weight = state["patch_embed.proj.weight"]
    other: Any = {"odd.name": weight} if named else [weight]
    torch.save({"model": state, "other": other}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", THERE)
    new = load(tmp_path / "b.pt")
    moved = new["model"]["patch_embed.proj.weight"]
    again = new["other"]["odd.name" if named else 0]
    assert torch.equal(moved, flattened(weight))
    assert torch.equal(again, moved)
    assert again.data_ptr() == moved.data_ptr()
    convert(tmp_path / "b.pt", tmp_path / "c.pt", back((4, 4)))
    assert (tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


@pytest.mark.parametrize("where", ["root", "own"])
def test_numbers_that_something_else_reads_do_not_move(where: str, tmp_path: Path) -> None:
    state = embed(3, 8, (4, 4))
    half = state["patch_embed.proj.weight"][:4].flatten()
    other: Any = {"root": {"model": state, "teacher": {"half": half}}, "own": state | {"half": half}}[where]
    torch.save(other, tmp_path / "a.pt")
    with pytest.raises(CannotConvert, match="reads too"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", THERE)
    assert not (tmp_path / "b.pt").exists()


# ------------------------------------------------------------------------------------------- what is refused


def test_a_spectral_norms_vector_has_the_old_order(tmp_path: Path) -> None:
    conv = parametrizations.spectral_norm(nn.Conv2d(3, 8, 4, stride=4))
    torch.save({f"patch_embed.{key}": value for key, value in conv.state_dict().items()}, tmp_path / "a.pt")
    with pytest.raises(ConvInspectError, match="spectral norm is taken along its inputs"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", THERE)


def pruned(module: nn.Module) -> nn.Module:
    made: nn.Module = prune.random_unstructured(module, "weight", 0.5)  # type: ignore[no-untyped-call]
    return made


@pytest.mark.parametrize("wrapped", [weight_norm, pruned])
def test_norms_follow(wrapped: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    conv = wrapped(nn.Conv2d(3, 8, 4, stride=4))
    state = {f"patch_embed.{key}": value.detach() for key, value in conv.state_dict().items()}
    torch.save(state, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", THERE)
    linear = wrapped(nn.Linear(48, 8))
    linear.load_state_dict({key.removeprefix("patch_embed."): one for key, one in load(tmp_path / "b.pt").items()})
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(linear(rows(x, (4, 4))).movedim(-1, 1), conv(x))
    convert(tmp_path / "b.pt", tmp_path / "c.pt", back((4, 4)))
    assert (tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


def test_compressed_numbers_stay(tmp_path: Path) -> None:
    import zipfile

    source = saved(embed(3, 8, (4, 4)), tmp_path / "a.pt")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "p.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ConvInspectError, match="compressed"):
        convert(tmp_path / "p.pt", tmp_path / "b.pt", THERE)
    convert(tmp_path / "p.pt", tmp_path / "b.pt", replace(THERE, state_dict=True))
    assert torch.equal(
        load(tmp_path / "b.pt")["patch_embed.proj.weight"], flattened(load(source)["patch_embed.proj.weight"])
    )


def test_one_vector_of_all_numbers_stays(tmp_path: Path) -> None:
    model: Any = nn.Sequential()
    model.patch_embed = nn.Conv2d(3, 8, 4, stride=4)
    optimizer: Any = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value: torch.Tensor = model(torch.ones(1, 3, 4, 4)).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    with pytest.raises(CannotConvert, match="one vector"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", THERE)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (Options(to="linear", patches=True, patch_order="whc"), "no order of a patch's numbers"),
        (Options(to="linear", patch_order="hwc"), "says how patches are flattened"),
    ],
)
def test_bad_options(options: Options, text: str, tmp_path: Path) -> None:
    source = saved(embed(3, 8, (4, 4)), tmp_path / "a.pt")
    with pytest.raises(CannotConvert, match=text):
        convert(source, tmp_path / "b.pt", options)


# ------------------------------------------------------------------------------------------- other ways to write


def test_no_sums_are_kept_where_there_were_none(tmp_path: Path) -> None:
    patch: Any = config.patch  # type: ignore[attr-defined]
    with patch({"save.compute_crc32": False, "save.storage_alignment": 4096}):
        source = saved(embed(3, 8, (4, 4)), tmp_path / "a.pt")
    convert(source, tmp_path / "b.pt", THERE)
    assert torch.equal(
        load(tmp_path / "b.pt")["patch_embed.proj.weight"], flattened(load(source)["patch_embed.proj.weight"])
    )
    convert(tmp_path / "b.pt", tmp_path / "c.pt", back((4, 4)))
    assert (tmp_path / "c.pt").read_bytes() == source.read_bytes()


def test_sums_are_right(tmp_path: Path) -> None:
    import zipfile

    convert(saved(embed(3, 8, (4, 4)), tmp_path / "a.pt"), tmp_path / "b.pt", THERE)
    with zipfile.ZipFile(tmp_path / "b.pt") as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards(suffix: str, tmp_path: Path) -> None:
    state, other = embed(3, 8, (4, 4)), {"head.weight": torch.randn(2, 8)}
    folder = tmp_path / "a"
    folder.mkdir()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    index: dict[str, Any] = {"metadata": {"total_size": 0}, "weight_map": {}}
    for number, half in enumerate((state, other), 1):
        name = f"{stem}-0000{number}-of-00002.{suffix}"
        save_file(half, folder / name) if suffix == "safetensors" else torch.save(half, folder / name)
        index["weight_map"] |= dict.fromkeys(half, name)
        index["metadata"]["total_size"] += sum(one.nbytes for one in half.values())
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    convert(folder, tmp_path / "b", THERE)
    first = tmp_path / "b" / f"{stem}-00001-of-00002.{suffix}"
    new = load_file(first) if suffix == "safetensors" else load(first)
    assert torch.equal(new["patch_embed.proj.weight"], flattened(state["patch_embed.proj.weight"]))
    convert(tmp_path / "b", tmp_path / "c", back((4, 4)))
    assert all((tmp_path / "c" / one.name).read_bytes() == one.read_bytes() for one in folder.iterdir())


@pytest.mark.parametrize("last", [False, True])
def test_other_formats(last: bool, tmp_path: Path) -> None:
    state = embed(3, 8, (4, 4))
    weight = state["patch_embed.proj.weight"]
    if last:
        state["patch_embed.proj.weight"] = weight.to(memory_format=torch.channels_last)
    convert(saved(state, tmp_path / "a.pt"), tmp_path / "b.safetensors", replace(THERE, layer=("patch_embed.proj",)))
    assert torch.equal(load(tmp_path / "b.safetensors")["patch_embed.proj.weight"], flattened(weight))
    convert(tmp_path / "b.safetensors", tmp_path / "c.pt", back((4, 4)))
    assert torch.equal(load(tmp_path / "c.pt")["patch_embed.proj.weight"], weight)


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_like_takes_the_order_too(container: str, tmp_path: Path) -> None:
    state = embed(3, 8, (4, 4))
    CONTAINERS[container](state, tmp_path / f"a_{container}")
    flat = state | {"patch_embed.proj.weight": flattened(state["patch_embed.proj.weight"])}
    CONTAINERS[container](flat, tmp_path / f"b_{container}")
    a, b, c, d = (tmp_path / f"{name}_{container}" for name in "abcd")
    convert(a, c, Options(like=b, patch_order="hwc"))
    assert torch.equal(load(c)["patch_embed.proj.weight"], flat["patch_embed.proj.weight"])
    convert(c, d, Options(like=a, patch_order="hwc"))
    assert d.read_bytes() == a.read_bytes()
