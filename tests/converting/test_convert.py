"""`convert`, with PyTorch and safetensors as the oracle: the shapes asked for change, and nothing else by a bit."""

from __future__ import annotations

import copy
import io
import json
import re
import runpy
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.plan import Request, plan
from convinspect.errors import CannotConvert
from convinspect.formats.files import File
from convinspect.layers.find import find_layers
from convinspect.writing.pieces import size_of
from convinspect.writing.rewrite import Changes, pieces_for
from support.conversions import CONTAINERS, assert_only_reshaped, converted, load, names, reasons
from support.in_process import run
from support.paths import FIXTURES
from support.program import assert_one_line
from support.sampling import times


@pytest.mark.parametrize("name", CONTAINERS)
def test_there_and_back_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    state = {f"layers.{i}.weight": torch.randn(40 + i, 300 + i, 1) for i in range(5)}
    state |= {f"layers.{i}.bias": torch.randn(40 + i) for i in range(5)} | {"norm.weight": torch.randn(7)}
    source, linear, back = (tmp_path / f"{part}_{name}" for part in ("source", "linear", "back"))
    # The folder in a zip is named after the file, so the same name keeps the bytes comparable.
    CONTAINERS[name](state, source)
    assert len(names(converted(source, linear))) == 5
    assert_only_reshaped(load(source), load(linear), [f"layers.{i}.weight" for i in range(5)])
    converted(linear, back, "Conv1d", names=("layers.*",))
    assert back.read_bytes() == source.read_bytes()


@st.composite
def models(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """State_dicts of pointwise convolutions among other tensors, some of them shared or views."""
    state: dict[str, torch.Tensor] = {}
    dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
    for i in range(draw(st.integers(1, 5))):
        rows, columns = draw(st.integers(1, 300)), draw(st.integers(2, 300))
        state[f"a.{i}.weight"] = torch.randn(rows, columns, 1).to(draw(dtypes))
        if draw(st.booleans()):
            state[f"a.{i}.bias"] = torch.randn(rows)
    if draw(st.booleans()):
        state["tied.weight"] = state["a.0.weight"]
    if draw(st.booleans()):
        state["view.weight"] = torch.randn(600, 5, 1)[draw(st.integers(0, 5)) :: 2]
    state["table"] = torch.randn(3, draw(st.integers(1, 70)))
    state["wide.weight"] = torch.randn(4, 3, 5)
    return state


@settings(max_examples=times(30, 60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=models(), name=st.sampled_from(["zip.pt", "legacy.pt"]))
def test_random_checkpoints_go_there_and_back(tmp_path: Path, state: dict[str, torch.Tensor], name: str) -> None:
    source, linear, back = (tmp_path / f"{part}.pt" for part in ("model", "linear", "back"))
    CONTAINERS[name](state, source)
    planned = converted(source, linear)
    changed = [edit.tensor.key for edit in planned.edits]
    assert set(changed) == {key for key, value in state.items() if key.endswith("weight") and key != "wide.weight"}
    loaded = load(linear)
    assert_only_reshaped(load(source), loaded, changed)
    for key in changed:
        assert loaded[key].shape == state[key].shape[:2]
    if "tied.weight" in state:
        assert loaded["tied.weight"].data_ptr() == loaded["a.0.weight"].data_ptr()
    converted(linear, back, "Conv1d", names=tuple(names(planned)))
    assert back.read_bytes() == source.read_bytes()
    if name == "zip.pt":
        assert zipfile.ZipFile(linear).testzip() is None
        torch.load(linear, mmap=True, weights_only=True)


def test_records_stay_aligned(tmp_path: Path) -> None:
    torch.save({f"l{i}.weight": torch.randn(65 + i, 300, 1) for i in range(30)}, tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt")
    data = (tmp_path / "b.pt").read_bytes()
    for info in zipfile.ZipFile(io.BytesIO(data)).infolist():
        lengths = [int.from_bytes(data[info.header_offset + at :][:2], "little") for at in (26, 28)]
        assert (info.header_offset + 30 + sum(lengths)) % 64 == 0 or not info.filename.rpartition("/data/")[1]


def test_foreign_objects_metadata_and_nesting_survive(tmp_path: Path) -> None:
    state = nn.Sequential(OrderedDict(conv=nn.Conv1d(6, 4, 1), bn=nn.BatchNorm1d(4))).state_dict()
    torch.save({"epoch": 3, "state_dict": state, "args": {"lr": 0.1, "names": ["a", "b"]}}, tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt")
    before, after = load(tmp_path / "a.pt"), load(tmp_path / "b.pt")
    assert (after["epoch"], after["args"]) == (before["epoch"], before["args"])
    assert after["state_dict"]._metadata == before["state_dict"]._metadata
    assert_only_reshaped(before["state_dict"], after["state_dict"], ["conv.weight"])


def test_stray_objects_keep_their_bytes(tmp_path: Path) -> None:
    source = FIXTURES / "stray_objects.pt"
    converted(source, tmp_path / "linear.pt")
    converted(tmp_path / "linear.pt", tmp_path / "back.pt", "Conv1d", names=("conv",))
    assert (tmp_path / "back.pt").read_bytes() == source.read_bytes()


def test_safetensors_metadata_survives(tmp_path: Path) -> None:
    save_file({"c.weight": torch.randn(4, 6, 1)}, tmp_path / "a.safetensors", metadata={"k": "v", "ü": "é\n"})
    converted(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as opened:
        assert opened.metadata() == {"k": "v", "ü": "é\n"}
        assert opened.get_tensor("c.weight").shape == (4, 6)


def test_a_strict_load_into_the_rewritten_model_gives_the_same_outputs(tmp_path: Path) -> None:
    conv = nn.Sequential(nn.Conv1d(6, 8, 1), nn.ReLU(), nn.Conv1d(8, 4, 1))
    torch.save(conv.state_dict(), tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt")
    linear = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    linear.load_state_dict(load(tmp_path / "b.pt"), strict=True)
    x = torch.randn(2, 6, 9)
    torch.testing.assert_close(linear(x.transpose(1, 2)).transpose(1, 2), conv(x))


@pytest.mark.parametrize("name", ["pointnet_stnkd.pt", "pointnet_stnkd_legacy.pt", "pointnet_stnkd.safetensors"])
def test_pointnets_stnkd_runs_on_linear_and_goes_back(tmp_path: Path, name: str) -> None:
    """Its own code, changed as the command and the README say."""
    space: dict[str, Any] = {}
    exec(runpy.run_path(str(FIXTURES / "make.py"))["POINTNET"], space)
    state = load(FIXTURES / name)
    model = space["STNkd"](8, (16, 24, 40), (len(state["fc1.bias"]), len(state["fc2.bias"]))).eval()
    model.load_state_dict(state, strict=True)
    x = torch.randn(3, 8, 50)
    expected = model(x)
    linear, back = tmp_path / f"linear_{name}", tmp_path / f"back_{name}"
    assert names(converted(FIXTURES / name, linear)) == ["conv1", "conv2", "conv3"]
    for conv in ("conv1", "conv2", "conv3"):
        old = getattr(model, conv)
        new = nn.Linear(old.in_channels, old.out_channels)
        new.register_forward_pre_hook(lambda module, args: (args[0].movedim(1, -1),))
        new.register_forward_hook(lambda module, args, y: y.movedim(-1, 1))
        setattr(model, conv, new)
    model.load_state_dict(load(linear), strict=True)
    torch.testing.assert_close(model(x), expected)
    converted(linear, back, "Conv1d", names=("conv*",))
    assert back.read_bytes() == (FIXTURES / name).read_bytes()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_transformers_conv1d_is_turned_over(tmp_path: Path, suffix: str) -> None:
    source = FIXTURES / f"gpt2_names{suffix}"
    planned = converted(source, tmp_path / f"b{suffix}", kinds=("Conv1D (transformers)",))
    before, after = load(source), load(tmp_path / f"b{suffix}")
    assert {name.rpartition(".")[2] for name in names(planned)} >= {"c_attn", "c_fc", "c_proj"}
    for one in planned.conversions:
        assert torch.equal(after[f"{one.layer.name}.weight"], before[f"{one.layer.name}.weight"].T)
    untouched = [key for key in before if not any(key == f"{name}.weight" for name in names(planned))]
    assert all(torch.equal(before[key], after[key]) for key in untouched)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_transformers_conv1d_comes_back_by_its_own_file(tmp_path: Path, suffix: str) -> None:
    """Square ones too, of which no shape tells how they lie."""
    source, linear, back = FIXTURES / f"gpt2_names{suffix}", tmp_path / f"b{suffix}", tmp_path / f"c{suffix}"
    assert run("convert", source, "-o", linear, "--to", "linear", "--from", "transformers").returncode == 0
    done = run("convert", linear, "-o", back, "--like", source)
    assert done.returncode == 0, done.stderr
    assert "nn.Linear(8, 24) → Conv1D(nf=24, nx=8)" in done.stdout
    assert back.read_bytes() == source.read_bytes()
    again = run("convert", source, "-o", tmp_path / f"d{suffix}", "--like", source)
    assert_one_line(again, f"what is in both has the shapes of {source.name} already")


def test_a_large_matrix_is_turned_over_in_bands(tmp_path: Path) -> None:
    weight = torch.randn(1500, 4500)
    save_file({"h.c_attn.weight": weight, "h.c_attn.bias": torch.randn(4500)}, tmp_path / "a.safetensors")
    converted(tmp_path / "a.safetensors", tmp_path / "b.safetensors", kinds=("Conv1D (transformers)",))
    assert torch.equal(load(tmp_path / "b.safetensors")["h.c_attn.weight"], weight.T)


@pytest.mark.parametrize(("to", "dims"), [("Conv1d", 3), ("Conv2d", 4), ("Conv3d", 5)])
def test_every_rank_to_every_other(tmp_path: Path, to: str, dims: int) -> None:
    torch.save(nn.Sequential(nn.Linear(6, 4), nn.Conv1d(6, 4, 1), nn.Conv2d(6, 4, 1), nn.Conv3d(6, 4, 1)).state_dict(),
               tmp_path / "a.pt")  # fmt: skip
    kinds = tuple(kind for kind in ("Linear", "Conv1d", "Conv2d", "Conv3d") if kind != to)
    converted(tmp_path / "a.pt", tmp_path / "b.pt", to, kinds=kinds)
    after = load(tmp_path / "b.pt")
    assert all(after[f"{i}.weight"].shape == (4, 6) + (1,) * (dims - 2) for i in range(4))
    assert all(after[f"{i}.weight"].is_contiguous() for i in range(4))


@pytest.mark.parametrize("name", ["weight_norm_old", "weight_norm_parametrized", "spectral_norm_old",
                                  "spectral_norm_parametrized", "pruned"])  # fmt: skip
def test_all_parts_of_a_computed_weight_change_together(tmp_path: Path, name: str) -> None:
    source = FIXTURES / f"{name}.pt"
    planned = converted(source, tmp_path / "b.pt")
    assert "conv" in names(planned)
    before, after = load(source), load(tmp_path / "b.pt")
    for key in before:
        kernel_like = key.startswith("conv.") and before[key].dim() == 3
        assert after[key].shape == (before[key].shape[:2] if kernel_like else before[key].shape) or "scalar" in key


# ------------------------------------------------------------------------------------------ what must not change


def test_what_the_file_says_is_obeyed() -> None:
    checkpoint = open_checkpoint(FIXTURES / "grouped_module.pt")
    planned = plan(find_layers(checkpoint), Request("Linear"))
    assert set(names(planned)) == {"plain", "dilation", "padding_same"}
    found = reasons(planned)
    assert "stride=2" in found["stride"]
    assert "padding=1" in found["padding"]
    assert "groups=2" in found["groups"]


def test_the_users_own_model_tells_what_the_file_does_not(tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv1d(6, 4, 1), nn.Conv1d(4, 4, 1, stride=2), nn.Conv1d(4, 4, 1, groups=2))\n"
    )
    model = nn.Sequential(nn.Conv1d(6, 4, 1), nn.Conv1d(4, 4, 1, stride=2), nn.Conv1d(4, 4, 1, groups=2))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    options = ("--to", "linear", "--dry-run", "--format", "json")
    planned = json.loads(run("convert", "a.pt", *options, "--model", "my_model:make", folder=tmp_path).stdout)
    assert [(one["name"], one["assumed"]) for one in planned["converted"]] == [("0", [])]
    assert {one["name"] for one in planned["refused"]} == {"1", "2"}
    for spec in ("my_model", "no_such_module:make", "my_model:nothing", "os:getcwd", "torch.nn:Identity"):
        assert_one_line(run("convert", "a.pt", *options, "--model", spec, folder=tmp_path), spec)


def test_grouped_convolutions_expand_to_block_diagonal_linears(tmp_path: Path) -> None:
    conv = nn.Conv1d(6, 4, 1, groups=2)
    torch.save(nn.Sequential(conv), tmp_path / "a.pt")
    command = ("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--state-dict", "--to", "linear")
    refused = run(*command)
    assert "groups=2" in refused.stdout
    done = run(*command, "--groups", "expand", "--force")
    assert done.returncode == 0, done.stderr
    assert "grows from 48 to 96 bytes" in done.stdout
    linear = nn.Sequential(nn.Linear(6, 4))
    linear.load_state_dict(load(tmp_path / "b.pt"), strict=True)
    x = torch.randn(2, 6, 5)
    torch.testing.assert_close(linear(x.transpose(1, 2)).transpose(1, 2), conv(x))


def test_lookalikes_are_left_and_say_why() -> None:
    planned = plan(find_layers(open_checkpoint(FIXTURES / "look_alikes.pt")), Request("Linear"))
    assert names(planned) == ["out"]
    assert planned.conversions[0].new_shape == (1, 6)
    assert "depthwise" in reasons(planned)["in"]
    exact = plan(find_layers(open_checkpoint(FIXTURES / "look_alikes.pt")), Request("Linear", names=("in",)))
    assert names(exact) == ["in"]


def test_embeddings_attention_and_ambiguous_ones_are_left_unless_named() -> None:
    layers = find_layers(open_checkpoint(FIXTURES / "embeddings.pt"))
    planned = plan(layers, Request("Conv1d"))
    assert names(planned) == ["head", "fc"]
    assert {"wte", "pos_embed", "token_type"} <= set(reasons(planned))
    assert names(plan(layers, Request("Conv1d", names=("wte",)))) == ["wte"]
    packed = plan(find_layers(open_checkpoint(FIXTURES / "attention_recurrent.pt")), Request("Conv1d"))
    assert "attention" in reasons(packed)


def test_ties_change_together_or_not_at_all(tmp_path: Path) -> None:
    planned = converted(FIXTURES / "tied.pt", tmp_path / "b.pt")
    assert set(names(planned)) == {"first", "second"}
    assert "embed" in reasons(planned)["head"]
    half = plan(find_layers(open_checkpoint(FIXTURES / "tied.pt")), Request("Linear", names=("first",)))
    assert names(half) == []
    assert "second" in reasons(half)["first"]


def test_both_halves_of_a_lora_pair_change_or_none(tmp_path: Path) -> None:
    source = FIXTURES / "lora.safetensors"
    planned = converted(source, tmp_path / "b.safetensors", "Conv1d")
    found = set(names(planned))
    assert {"base_model.model.q_proj.lora_A", "base_model.model.q_proj.lora_B", "lora_unet_to_q.lora_up"} <= found
    assert "lora_unet_alone.lora_up" in reasons(planned)["lora_unet_alone.lora_down"]
    before, after = load(source), load(tmp_path / "b.safetensors")
    for key in ("lora_unet_to_q.lora_down.weight", "lora_unet_to_q.lora_up.weight"):
        assert after[key].shape == (*before[key].shape, 1)
    half = converted(source, tmp_path / "c.safetensors", "Conv1d", names=("lora_unet_to_q.lora_up",), dry_run=True)
    assert names(half) == []
    assert "lora_down does not change" in reasons(half)["lora_unet_to_q.lora_up"]
    # Where one half is there already, the other may follow it.
    mixed = {"x.lora_down.weight": torch.randn(2, 8, 1), "x.lora_up.weight": torch.randn(6, 2)}
    save_file(mixed, tmp_path / "d.safetensors")
    assert names(converted(tmp_path / "d.safetensors", tmp_path / "e.safetensors", "Conv1d")) == ["x.lora_up"]
    # A wide kernel in one half keeps the other as it is.
    wide = {"x.lora_down.weight": torch.randn(2, 8, 3, 3), "x.lora_up.weight": torch.randn(6, 2, 1, 1)}
    save_file(wide, tmp_path / "f.safetensors")
    wide_plan = converted(tmp_path / "f.safetensors", tmp_path / "g.safetensors", kinds=("Conv2d",), dry_run=True)
    assert names(wide_plan) == []


def test_what_is_there_already_is_said_and_not_copied(tmp_path: Path) -> None:
    source = FIXTURES / "vae_attention.safetensors"
    planned = converted(source, tmp_path / "b.safetensors", kinds=("Conv2d",), names=("*attn_1*",))
    assert len(names(planned)) == 3
    assert [one.done for one in planned.refusals] == [True]
    with pytest.raises(CannotConvert, match="nothing can be converted: 4 layers are Linear already"):
        converted(tmp_path / "b.safetensors", tmp_path / "c.safetensors", kinds=("Conv2d",), names=("*attn_1*",))
    assert not (tmp_path / "c.safetensors").exists()


# ------------------------------------------------------------------------------------------------ like another


def test_like_takes_the_shapes_of_another_and_says_what_really_differs(tmp_path: Path) -> None:
    ours = {"proj_in.weight": torch.randn(8, 8, 1, 1), "to_k.weight": torch.randn(8, 6), "t.weight": torch.randn(8, 24)}
    theirs = {"proj_in.weight": torch.zeros(8, 8), "to_k.weight": torch.zeros(8, 10), "t.weight": torch.zeros(24, 8)}
    torch.save({f"module.{key}": value for key, value in ours.items()}, tmp_path / "a.pt")
    torch.save(theirs, tmp_path / "b.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--like", tmp_path / "b.pt")
    assert done.returncode == 0, done.stderr
    assert "to_k.weight is (8, 6) here and (8, 10) there" in done.stdout
    assert "will still not load" in done.stdout
    after = load(tmp_path / "c.pt")
    assert torch.equal(after["module.proj_in.weight"], ours["proj_in.weight"][:, :, 0, 0])
    assert torch.equal(after["module.t.weight"], ours["t.weight"].T)
    assert torch.equal(after["module.to_k.weight"], ours["to_k.weight"])


@pytest.mark.parametrize(("make", "form"), [(nn.Conv2d, torch.channels_last), (nn.Conv3d, torch.channels_last_3d)])
def test_channels_last_goes_there_and_back(tmp_path: Path, make: Any, form: Any) -> None:
    """Strides of a pointwise kernel say so, a Linear's cannot; the convolutions that stay tell on the way back."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(make(6, 8, 1), make(8, 8, 3), make(8, 4, 1, bias=False), nn.Linear(4, 3))
    model.to(memory_format=form)
    optimizer = torch.optim.AdamW(model[:3].parameters())
    for parameter in model[:3].parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    thing = {"model": model[:3].state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(thing, tmp_path / "a.pt")
    kind = make.__name__
    assert names(converted(tmp_path / "a.pt", tmp_path / "b.pt", kinds=(kind,))) == ["0", "2"]
    converted(tmp_path / "b.pt", tmp_path / "c.pt", kind, names=("0", "2"))
    assert (tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()
    # With nothing left to tell, or with others that tell something else, it is refused unless named.
    torch.save(model[:1].state_dict(), tmp_path / "alone.pt")
    planned = converted(tmp_path / "alone.pt", tmp_path / "d.pt", kinds=(kind,), dry_run=True)
    assert names(planned) == []
    assert "channels-last" in reasons(planned)["0"]
    assert names(converted(tmp_path / "alone.pt", tmp_path / "d.pt", kinds=(kind,), names=("0",))) == ["0"]


def test_kernels_permuted_from_tensorflow_go_there_and_back(tmp_path: Path) -> None:
    """Their matrix lies transposed, and the strides of their dimensions of size 1 are its size."""
    state = {"a.weight": torch.randn(1, 1, 6, 4).permute(3, 2, 0, 1), "b.weight": torch.randn(1, 6, 4).permute(2, 1, 0)}
    assert state["a.weight"].stride() == (1, 4, 24, 24)
    torch.save(state, tmp_path / "a.pt")
    assert names(converted(tmp_path / "a.pt", tmp_path / "b.pt", kinds=("Conv1d", "Conv2d"))) == ["a", "b"]
    assert load(tmp_path / "b.pt")["a.weight"].equal(state["a.weight"][:, :, 0, 0])
    converted(tmp_path / "b.pt", tmp_path / "c.pt", "Conv2d", names=("a",))
    converted(tmp_path / "c.pt", tmp_path / "d.pt", "Conv1d", names=("b",))
    assert (tmp_path / "d.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


def test_like_gives_back_the_strides_that_the_other_has(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.randn(4, 6, 3, 3)[:, :, 1:2, 1:2]}, tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt", kinds=("Conv2d",))
    done = run("convert", tmp_path / "b.pt", "-o", tmp_path / "c.pt", "--like", tmp_path / "a.pt")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


@pytest.mark.parametrize("legacy", [True, False])
def test_sizes_as_python_2_wrote_them_go_there_and_back(tmp_path: Path, legacy: bool) -> None:
    """Its sizes are of its type `long`, whose pickle instruction (LONG1) Python 3 uses for huge numbers alone."""

    def longs(*numbers: int) -> bytes:
        return b"".join(b"\x8a\x01" + bytes([number]) for number in numbers)

    torch.save({"a.weight": torch.randn(4, 6, 1)}, tmp_path / "new.pt", _use_new_zipfile_serialization=not legacy)
    data = (tmp_path / "new.pt").read_bytes()
    if legacy:
        data = data.replace(b"K\x04K\x06K\x01\x87", longs(4, 6, 1) + b"\x87")
        data = data.replace(b"K\x06K\x01K\x01\x87", longs(6, 1, 1) + b"\x87")
        (tmp_path / "a.pt").write_bytes(data)
    else:
        with zipfile.ZipFile(tmp_path / "new.pt") as old, zipfile.ZipFile(tmp_path / "a.pt", "w") as new:
            for record in old.namelist():
                held = old.read(record).replace(b"K\x04K\x06K\x01\x87", longs(4, 6, 1) + b"\x87")
                new.writestr(record, held.replace(b"K\x06K\x01K\x01\x87", longs(6, 1, 1) + b"\x87"))
    assert longs(4, 6, 1) in (tmp_path / "a.pt").read_bytes()
    converted(tmp_path / "a.pt", tmp_path / "b.pt")
    assert longs(4, 6) + b"\x86" in (tmp_path / "b.pt").read_bytes()
    assert load(tmp_path / "b.pt")["a.weight"].equal(load(tmp_path / "a.pt")["a.weight"][..., 0])
    converted(tmp_path / "b.pt", tmp_path / "c.pt", "Conv1d", names=("a",))
    same = [zipfile.ZipFile(tmp_path / name).read("new/data.pkl") for name in ("a.pt", "c.pt")] if not legacy else []
    assert len(set(same)) <= 1
    assert not legacy or (tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


def test_a_bare_layer_is_called_root(tmp_path: Path) -> None:
    torch.save(nn.Conv1d(6, 4, 1).state_dict(), tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear")
    assert done.stdout.count("(root)") == 2
    assert load(tmp_path / "b.pt")["weight"].shape == (4, 6)


def test_meta_tensors_change_with_the_rest(tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(4, 6, 1), "b.weight": torch.empty(5, 6, 1, device="meta")}
    torch.save(state, tmp_path / "a.pt")
    assert names(converted(tmp_path / "a.pt", tmp_path / "b.pt")) == ["a", "b"]
    after = load(tmp_path / "b.pt")
    assert after["b.weight"].device.type == "meta"
    assert after["b.weight"].shape == (5, 6)
    converted(tmp_path / "b.pt", tmp_path / "c.pt", "Conv1d", names=("a", "b"))
    assert (tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


def test_sparse_tensors_are_left_and_the_rest_is_converted(tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(4, 6, 1), "b.weight": torch.randn(5, 6, 1).to_sparse()}
    torch.save(state, tmp_path / "a.pt")
    planned = converted(tmp_path / "a.pt", tmp_path / "b.pt")
    assert names(planned) == ["a"]
    assert "sparse" in reasons(planned)["b"]


def test_long_names_stay_apart_in_a_narrow_table(tmp_path: Path) -> None:
    keys = [f"model.diffusion_model.input_blocks.{i}.1.transformer_blocks.{j}.attn1.to_out_projection_layer.weight"
            for i in range(3) for j in range(3)]  # fmt: skip
    torch.save({key: torch.randn(4, 6, 1) for key in keys}, tmp_path / "a.pt")
    for width in ("40", "80", "100"):
        for words in (("convert", "--to", "linear", "--dry-run"), ("shapes",)):
            lines = run(words[0], tmp_path / "a.pt", *words[1:], "--width", width).stdout.splitlines()
            # A name is shortened where all stay apart, and else goes on in the next line.
            rows = re.findall(r"model\.dif.*?layer", "".join(lines))
            assert len(set(rows[:9])) == 9, (words, width)


def test_records_beyond_4_gb_note_their_new_place(tmp_path: Path) -> None:
    """Sparse: PyTorch leaves out the numbers, and only the pieces of the new file are looked at.

    The pickle becomes longer than its room, so that all else moves.
    """
    state = {f"{number}.weight": torch.empty(4, 300) for number in range(20)}
    state |= {f"{number}.bias": torch.empty(4) for number in range(20)}
    state |= {"big": torch.empty(1_100_000_000), "b.weight": torch.empty(40, 6), "b.bias": torch.empty(40)}
    with torch.serialization.skip_data():
        torch.save(state, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    planned = plan(find_layers(checkpoint), Request("Conv1d"))
    at, seen = 0, 0
    with File(tmp_path / "a.pt") as file:
        for piece in pieces_for(file, Changes(planned.edits)):
            if isinstance(piece, bytes) and piece[:4] == b"PK\x03\x04" and at > 1 << 32:
                name_length = int.from_bytes(piece[26:28], "little")
                extra = piece[30 + name_length :]
                assert extra[:4] == b"\x01\x00\x08\x00"
                assert int.from_bytes(extra[4:12], "little") == at
                seen += 1
            at += size_of(piece)
    assert seen >= 3


def test_the_command_reports_and_advises(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    torch.save({"c.weight": torch.randn(4, 6, 1), "c.bias": torch.randn(4)}, source)
    before = copy.copy(source.read_bytes())
    dry = run("convert", source, "--to", "linear", "--dry-run", "--format", "json")
    planned = json.loads(dry.stdout)
    assert planned["output"] is None
    assert planned["converted"][0]["new_shape"] == [4, 6]
    assert planned["converted"][0]["assumed"] == ["stride 1", "padding 0", "groups 1"]
    assert planned["unchanged"] == 1
    done = run("convert", source, "--to", "linear", "--in-place")
    assert done.returncode == 0, done.stderr
    assert "nn.Conv1d(6, 4, 1) → nn.Linear(6, 4)" in done.stdout
    assert source.read_bytes() != before
    assert load(source)["c.weight"].shape == (4, 6)
    assert run("convert", source, "--to", "conv1d", "--layer", "c", "--in-place").returncode == 0
    assert source.read_bytes() == before
