"""`verify`: right conversions pass, whatever their numbers; each kind of fault fails with its cause named."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import convinspect
from convinspect.arrays import error_bound as outputs
from convinspect.arrays.equality import difference, relation, same_bits
from convinspect.arrays.error_bound import Inputs
from convinspect.arrays.forms import Form
from convinspect.checkpoint import open_checkpoint
from convinspect.converting.in_memory import applied
from convinspect.converting.plan import Request, plan
from convinspect.layers.find import find_layers
from convinspect.showing.verify import SENTENCES, sentence, verdict
from convinspect.text import with_article
from convinspect.verifying.causes import Why
from convinspect.verifying.options import VerifyOptions
from convinspect.verifying.verify import verify
from convinspect.writing.same_format import save_edits
from support.in_process import run
from support.paths import FIXTURES
from support.sampling import times
from support.verifying import command, report_of, report_of_objects

State = dict[str, Any]


def net() -> State:
    torch.manual_seed(0)
    layers = OrderedDict(
        conv1=nn.Conv1d(6, 6, 1), conv2=nn.Conv1d(6, 4, 1), conv3=nn.Conv1d(6, 4, 1), bn=nn.BatchNorm1d(4)
    )
    return dict(nn.Sequential(layers).state_dict())


def converted(state: State) -> State:
    return {key: value.squeeze(-1).clone() if value.dim() == 3 else value.clone() for key, value in state.items()}


def edited(change: Callable[[State], None]) -> State:
    state = converted(net())
    change(state)
    return state


# --------------------------------------------------------------------------------------------- what must fail


def one_ulp(state: State) -> None:
    weight = state["conv2.weight"]
    weight[2, 3] = torch.nextafter(weight[2, 3], torch.tensor(9.0))


def one_percent(state: State) -> None:
    state["conv2.weight"] *= 1.01


def one_element_by_one_percent(state: State) -> None:
    state["conv2.weight"][1, 1] *= 1.01


def transposed(state: State) -> None:
    state["conv1.weight"] = state["conv1.weight"].T.contiguous()


def transposed_not_square(state: State) -> None:
    state["conv2.weight"] = state["conv2.weight"].T.contiguous()


def mixed_up(state: State) -> None:
    state["conv2.weight"] = state["conv2.weight"].reshape(6, 4)


def bias_dropped(state: State) -> None:
    del state["conv2.bias"]


def bias_of_a_neighbour(state: State) -> None:
    state["conv2.bias"] = state["conv3.bias"].clone()


def weight_of_a_neighbour(state: State) -> None:
    state["conv2.weight"] = state["conv3.weight"].clone()


def narrowed(state: State) -> None:
    state["conv2.weight"] = state["conv2.weight"].half()


def rows_swapped(state: State) -> None:
    state["conv2.weight"] = state["conv2.weight"].flip(0)


def other_tensor(state: State) -> None:
    state["bn.running_mean"][1] += 1


def counter(state: State) -> None:
    state["bn.num_batches_tracked"] += 1


def sign_of_zero(state: State) -> None:
    state["bn.running_mean"][2] = -0.0


def key_lost(state: State) -> None:
    del state["bn.running_var"]


def key_added(state: State) -> None:
    state["bn.extra"] = torch.zeros(2)


def layer_lost(state: State) -> None:
    del state["conv3.weight"], state["conv3.bias"]


def width_lost(state: State) -> None:
    state["conv2.weight"] = state["conv2.weight"][:, :5].clone()


FAULTS = [
    (one_ulp, "conv2: weight: 1 of 24 numbers differs, at [2, 3]"),
    (one_percent, "multiplied by 1.01"),
    (one_element_by_one_percent, "1 of 24 numbers differs, at [1, 1]"),
    (transposed, "layer conv1: weight: it is transposed"),
    (transposed_not_square, "layer conv2: weight: it is transposed"),
    (mixed_up, "rows are mixed up"),
    (bias_dropped, "layer conv2: its bias was dropped"),
    (bias_of_a_neighbour, "layer conv2: bias: it holds the numbers of conv3.bias"),
    (weight_of_a_neighbour, "layer conv2: weight: it holds the numbers of conv3.weight"),
    (narrowed, "layer conv2: weight: its dtype was narrowed from float32 to float16"),
    (rows_swapped, "its rows are in another order"),
    (other_tensor, "layer bn: running_mean: 1 of 4 numbers differs, at [1]"),
    (counter, "layer bn: num_batches_tracked: 1 of 1 numbers differs, at []: 0 became 1"),
    (sign_of_zero, "0 became -0"),
    (key_lost, "layer bn: its running_var is missing"),
    (key_added, "bn.extra was not there before"),
    (layer_lost, "layer conv3: it is not there any more"),
    (width_lost, "no reshaping explains"),
]


@pytest.mark.parametrize(("fault", "cause"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
@pytest.mark.parametrize("bits_only", [False, True])
def test_each_fault_is_seen_and_named(
    tmp_path: Path, fault: Callable[[State], None], cause: str, bits_only: bool
) -> None:
    found = report_of_objects(tmp_path, net(), edited(fault), **({"bits": True} if bits_only else {}))
    assert not found.equal
    assert cause in verdict(found)


def test_the_same_without_a_fault_passes(tmp_path: Path) -> None:
    found = report_of_objects(tmp_path, net(), converted(net()))
    assert found.equal, verdict(found)
    assert found.strength == "layer"
    assert [one.name for one in found.layers] == ["conv1", "conv2", "conv3"]
    assert found.unchanged == len(net()) - 3


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"stride": 2}, "its stride=2 is ignored"),
        ({"padding": 1}, "its padding=1 is ignored"),
        ({"groups": 2}, "its groups=2 is ignored"),
    ],
)
def test_what_a_whole_model_records_must_not_be_ignored(tmp_path: Path, options: Any, cause: str) -> None:
    model = nn.Sequential(nn.Conv1d(6, 4, 1, **options))
    after = {key.replace("0.", "0."): value.squeeze(-1) for key, value in model.state_dict().items()}
    found = report_of_objects(tmp_path, model, after)
    assert cause in verdict(found)


def test_a_fault_far_below_float32_noise_is_still_beyond_the_bound() -> None:
    """The outputs alone, without the bits, show one ulp of one weight in a layer of 2,048 inputs."""
    torch.manual_seed(0)
    before = torch.randn(16, 2048, 1)
    after = before.squeeze(-1).clone()
    after[3, 5] = torch.nextafter(after[3, 5], torch.tensor(9.0))
    xs = outputs.inputs_for(2048, torch.float32, Inputs())
    found, _ = outputs.compare_outputs((Form("Conv1d"), Form("Linear")), (before, after), (None, None), xs)
    assert found.share > 1


def test_wrong_gradients_are_seen() -> None:
    torch.manual_seed(0)
    before, bias = torch.randn(4, 6, 1), torch.randn(4)
    xs = outputs.inputs_for(6, torch.float32, Inputs())
    forms = (Form("Conv1d"), Form("Linear"))
    found = outputs.compare_gradients(forms, (before, before.squeeze(-1) * 1.0001), (bias, bias), xs)
    assert {name: one.ok for name, one in found.items()} == {"input": False, "weight": True, "bias": True}


# --------------------------------------------------------------------------------------------- what must pass

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


# 10,000 take about a minute: EXAMPLES=10000 pytest tests/verifying/test_verify.py -k no_alarm
EXAMPLES = int(os.environ.get("EXAMPLES", "50"))


@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_right_conversions_raise_no_alarm(data: st.DataObject) -> None:
    """Widths to 4,096, every floating dtype, any magnitude, subnormals, zeros, Inf and NaN in the weights."""
    seed = data.draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    wide_in = data.draw(st.one_of(st.integers(1, 64), st.sampled_from([255, 1024, 4096])))
    wide_out = data.draw(st.integers(1, 9))
    dtype = data.draw(st.sampled_from(DTYPES))
    scale = 10.0 ** data.draw(st.integers(-320, 300) if dtype == torch.float64 else st.integers(-46, 38))
    weight = (torch.randn(wide_out, wide_in, generator=generator, dtype=torch.float64) * scale).to(dtype).float()
    if dtype == torch.float64:
        weight = torch.randn(wide_out, wide_in, generator=generator, dtype=torch.float64) * scale
    for value in data.draw(
        st.lists(st.sampled_from([0.0, -0.0, float("inf"), float("-inf"), float("nan")]), max_size=2)
    ):
        weight[seed % wide_out, seed % wide_in] = value
    weight = weight.to(dtype)
    bias = (
        (torch.randn(wide_out, generator=generator) * min(scale, 1e30)).to(dtype) if data.draw(st.booleans()) else None
    )
    sizes = ((1, 1), (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))))
    xs = outputs.inputs_for(wide_in, dtype, Inputs(sizes, seed))
    dims = data.draw(st.integers(1, 3))
    turned = data.draw(st.booleans())
    forms = (
        Form("Conv1D (transformers)") if turned else Form(f"Conv{dims}d", (1,) * dims, (0,) * dims),
        Form("Linear"),
    )
    before = weight.T if turned else weight.reshape(wide_out, wide_in, *(1,) * dims)
    found, _ = outputs.compare_outputs(forms, (before, weight), (bias, bias), xs)
    assert found.ok, found
    grads = outputs.compare_gradients(forms, (before, weight), (bias, bias), xs)
    assert all(one.ok for one in grads.values()), grads


@settings(deadline=None, max_examples=times(30, 60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_files_converted_by_the_command_verify(tmp_path: Path, data: st.DataObject) -> None:
    """Any bits in any dtype, both containers."""
    dtype = data.draw(st.sampled_from([*DTYPES, torch.int8]))
    wide_in, wide_out = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    size = wide_out * wide_in * dtype.itemsize
    raw = torch.tensor(list(data.draw(st.binary(min_size=size, max_size=size))), dtype=torch.uint8)
    state = {"conv.weight": raw.view(dtype).reshape(wide_out, wide_in, 1), "conv.bias": torch.zeros(wide_out).to(dtype)}
    suffix = data.draw(st.sampled_from([".pt", ".safetensors"]))
    source, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, source)
    one = open_checkpoint(source)
    planned = plan(find_layers(one), Request("Linear", names=("conv",)))
    target.unlink(missing_ok=True)
    save_edits(one, planned.edits, target, lambda done: None)
    found = report_of(source, target)
    assert found.equal, verdict(found)


@pytest.mark.parametrize("name", ["pointnet_stnkd.pt", "weight_norm_old.pt", "weight_norm_parametrized.pt", "tied.pt",
                                  "spectral_norm_old.pt", "spectral_norm_parametrized.pt", "pruned.pt", "dtypes.pt",
                                  "legacy_views.pt", "adamw.pt", "lightning.ckpt", "views.pt"])  # fmt: skip
def test_fixtures_verify_in_memory(name: str) -> None:
    found = report_of(FIXTURES / name, grad=True)
    assert found.equal, verdict(found)


@pytest.mark.parametrize("name", ["gpt2_names.pt", "gpt2_names.safetensors"])
def test_gpt2_verifies_turned_and_fails_when_a_square_one_was_forgotten(tmp_path: Path, name: str) -> None:
    before = open_checkpoint(FIXTURES / name)
    planned = plan(find_layers(before), Request("Linear", kinds=("Conv1D (transformers)",)))
    assert planned.conversions
    found = verify(before, applied(before, planned.edits), VerifyOptions())
    assert found.equal, verdict(found)
    assert {one.before for one in found.layers} == {"Conv1D (transformers)"}


def test_a_square_transposed_layer_that_was_not_turned_is_seen(tmp_path: Path) -> None:
    before = {"c_attn.weight": torch.randn(8, 24), "c_attn.bias": torch.randn(24),
              "c_proj.weight": torch.randn(8, 8), "c_proj.bias": torch.randn(8)}  # fmt: skip
    right = {key: value.T.contiguous() if value.dim() == 2 else value for key, value in before.items()}
    assert report_of_objects(tmp_path, before, right).equal
    wrong = {**right, "c_proj.weight": before["c_proj.weight"]}
    assert "c_proj: weight: it is transposed: still (in, out)" in verdict(report_of_objects(tmp_path, before, wrong))


def test_a_fused_weight_norm_and_groups_written_out_are_right(tmp_path: Path) -> None:
    from convinspect.writing.state_dict import resave

    source = FIXTURES / "weight_norm_old.pt"
    before = open_checkpoint(source)
    layers = find_layers(before)
    resave(
        before, plan(layers, Request("Linear")).edits, {}, [one for one in layers if one.norm], tmp_path / "fused.pt"
    )
    found = report_of(source, tmp_path / "fused.pt")
    assert found.equal, verdict(found)
    assert any(one.outputs is not None for one in found.layers)
    conv = nn.Sequential(nn.Conv1d(6, 4, 1, groups=2))
    block_diag: Any = torch.block_diag
    blocks = block_diag(*conv.state_dict()["0.weight"].squeeze(-1).detach().chunk(2))
    assert report_of_objects(tmp_path, conv, {"0.weight": blocks, "0.bias": conv[0].bias}).equal
    blocks = blocks.clone()
    blocks[0, 5] = 1e-9
    assert not report_of_objects(tmp_path, conv, {"0.weight": blocks, "0.bias": conv[0].bias}).equal


# --------------------------------------------------------------------------------------------- beside the tensors


def test_objects_beside_the_tensors_count(tmp_path: Path) -> None:
    before: Any = {"state_dict": net(), "epoch": 3, "config": {"lr": 0.1, "tags": ["a", float("nan")]}}
    after = {**before, "state_dict": converted(net())}
    assert report_of_objects(tmp_path, before, after).equal
    worse = copy.deepcopy(after)
    worse["config"]["tags"][0] = "b"
    assert "config.tags.0: an object beside the tensors differs: 'a' became 'b'" in verdict(
        report_of_objects(tmp_path, before, worse)
    )
    lost = {key: value for key, value in after.items() if key != "epoch"}
    assert "epoch: an object beside the tensors differs: it is not there any more" in verdict(
        report_of_objects(tmp_path, before, lost)
    )
    more = {**after, "seed": None}
    assert "seed: an object beside the tensors differs: it was not there before" in verdict(
        report_of_objects(tmp_path, before, more)
    )


def test_every_object_that_differs_is_named(tmp_path: Path) -> None:
    before: Any = {
        "state_dict": net(),
        "epoch": 3,
        "config": {"lr": 0.1, "a": [1, {"b": 2}]},
        "history": list(range(30)),
    }
    after = {**before, "state_dict": converted(net()), "epoch": 4, "config": {"lr": 0.2, "a": [1, {"b": 3}]}}
    found = report_of_objects(tmp_path, before, after)
    assert list(found.changed) == ["epoch", "config.lr", "config.a.1.b"]
    found = report_of_objects(tmp_path, before, {**after, "history": list(range(1, 31))})
    assert len(found.changed) == 20
    assert any("33 objects beside the tensors differ; the first 20 are named" in note for note in found.notes)


def test_long_texts_are_compared_to_their_end(tmp_path: Path) -> None:
    text = "x" * 300
    before: Any = {"state_dict": net(), "config": text, "other": text}
    found = report_of_objects(tmp_path, before, {**before, "state_dict": converted(net()), "config": text[:-1] + "y"})
    assert list(found.changed) == ["config"]
    assert "at character 300 of 302" in verdict(found)
    assert verdict(found).count("y") >= 1


class _Turned(set[Any]):
    """Goes from the last member of a set to the first."""

    def __init__(self, members: Iterable[Any]) -> None:
        super().__init__(members)
        self._order = [*members][::-1]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._order)


def _save_set(pickler: Any, members: set[Any]) -> None:
    vars(pickle)["_Pickler"].save_set(pickler, _Turned(members))


class _Backwards(pickle._Pickler):
    """Saves sets the other way round. In which order their members come depends on the process."""

    dispatch: ClassVar[Any] = {**pickle._Pickler.dispatch, set: _save_set}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets and keys of any kind, of which `bb` has its sets in another order, and `ccc` other ones."""
    folder = tmp_path_factory.mktemp("sets")
    keyed: dict[Any, int] = {(1, "a"): 1, (1, "b"): 2, 3: 4, "3": 5, None: 6}
    members = {"a", "bb", "ccc", "d", "e", frozenset({"f", "g", "h", "i"})}
    backwards = types.ModuleType("backwards")
    backwards.__dict__.update(vars(pickle), Pickler=_Backwards)
    saved: dict[str, tuple[Any, Any, Any, Any]] = {
        "a.pt": (net(), members, keyed, pickle),
        "bb.pt": (converted(net()), members, keyed, backwards),
        "ccc.pt": (converted(net()), members - {"bb"} | {"b"}, {**keyed, (1, "b"): 3}, pickle),
    }
    for name, (state, set_members, by, module) in saved.items():
        for protocol in (2, 4):
            content = {"state": state, "set": set_members, "by": by}
            torch.save(content, folder / f"{protocol}{name}", pickle_module=module, pickle_protocol=protocol)
    for protocol in (2, 4):
        orders = []
        for name in ("a", "bb"):
            with zipfile.ZipFile(folder / f"{protocol}{name}.pt") as file:
                pickled = file.read(f"{protocol}{name}/data.pkl")
            orders.append(pickled.find(b"ccc") < pickled.find(b"bb"))
        assert orders[0] != orders[1]
    return folder


@pytest.mark.parametrize("protocol", [2, 4])
def test_sets_have_no_order_and_keys_may_be_of_any_kind(sets: Path, protocol: int) -> None:
    before = sets / f"{protocol}a.pt"
    assert report_of(before, sets / f"{protocol}bb.pt").equal
    found = report_of(before, sets / f"{protocol}ccc.pt")
    assert [name.partition(".")[0] for name in found.changed] == ["set", "by"]
    assert "2 became 3" in sentence(list(found.changed.values())[1])


def test_optimizer_state_counts(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(6, 4, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 6, 5)).sum().backward()
    optimizer.step()
    before = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(before, tmp_path / "a.pt")
    run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear").check_returncode()
    found = report_of(tmp_path / "a.pt", tmp_path / "b.pt")
    assert found.equal, verdict(found)
    assert any("2 tensors of optimizer were converted too" in note for note in found.notes)
    after = torch.load(tmp_path / "b.pt")
    after["optimizer"]["state"][0]["exp_avg"][1, 1] += 1
    torch.save(after, tmp_path / "b.pt")
    found = report_of(tmp_path / "a.pt", tmp_path / "b.pt")
    assert "optimizer.state.0.exp_avg" in verdict(found)


def test_a_plain_state_dict_may_leave_the_rest_and_says_so(tmp_path: Path) -> None:
    found = report_of_objects(tmp_path, {"model": net(), "ema": net()}, converted(net()))
    assert found.equal, verdict(found)
    assert any("ema" in note for note in found.notes)
    assert any("not compared" in note for note in found.notes)


def test_safetensors_metadata_counts(tmp_path: Path) -> None:
    save_file(net(), tmp_path / "a.safetensors", {"who": "me"})
    save_file(converted(net()), tmp_path / "b.safetensors", {"who": "you"})
    assert "metadata" in verdict(report_of(tmp_path / "a.safetensors", tmp_path / "b.safetensors"))


def test_an_embedding_must_keep_its_shape(tmp_path: Path) -> None:
    before = {"emb.weight": torch.randn(9, 4)}
    assert "an Embedding must keep its shape" in verdict(
        report_of_objects(tmp_path, before, {"emb.weight": before["emb.weight"][..., None]})
    )


def test_a_layer_that_only_its_name_calls_an_embedding_is_a_linear_if_it_is_named(tmp_path: Path) -> None:
    """As `convert` takes it."""
    torch.save({"emb.weight": torch.randn(9, 4)}, tmp_path / "a.pt")
    convinspect.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="conv1d", layer="emb")
    assert not convinspect.verify(tmp_path / "a.pt", tmp_path / "b.pt").equal
    report = convinspect.verify(tmp_path / "a.pt", tmp_path / "b.pt", layer="emb")
    assert (report.equal, report.strength) == (True, "layer")


def test_a_layer_that_stays_is_run_with_the_settings_that_the_model_records(tmp_path: Path) -> None:
    """Its state_dict does not record them."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2, padding=1), nn.Linear(4, 3))
    torch.save(model, tmp_path / "a.pt")
    convinspect.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="conv1d", state_dict=True)
    assert convinspect.verify(tmp_path / "a.pt", tmp_path / "b.pt", layer="*").equal


def with_optimizer() -> tuple[State, State]:
    """A checkpoint with Adam's state and an EMA copy, and its right conversion."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(6, 6, 1), nn.Conv1d(6, 4, 1))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 6, 5)).sum().backward()
    optimizer.step()
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    before: State = {"model": state, "ema": copy.deepcopy(state), "optimizer": optimizer.state_dict()}
    after = copy.deepcopy(before)
    for part in (after["model"], after["ema"]):
        for key in ("0.weight", "1.weight"):
            part[key] = part[key].squeeze(-1).clone()
    for number in (0, 2):
        for name in ("exp_avg", "exp_avg_sq"):
            after["optimizer"]["state"][number][name] = after["optimizer"]["state"][number][name].squeeze(-1).clone()
    return before, after


def test_state_and_copies_must_follow(tmp_path: Path) -> None:
    before, right = with_optimizer()
    assert report_of_objects(tmp_path, before, right).equal
    wrong = {**right, "optimizer": before["optimizer"]}
    assert "optimizer.state.0.exp_avg: it did not follow its weight" in verdict(
        report_of_objects(tmp_path, before, wrong)
    )
    wrong = {**right, "ema": before["ema"]}
    assert "ema.0.weight: it did not follow its weight" in verdict(report_of_objects(tmp_path, before, wrong))
    wrong = {**right, "ema": {**right["ema"], "new": torch.ones(1)}}
    assert report_of_objects(tmp_path, before, wrong).unexpected == ("ema.new",)


def gpt2() -> State:
    torch.manual_seed(0)
    return {"c_attn.weight": torch.randn(8, 24), "c_attn.bias": torch.randn(24),
            "c_proj.weight": torch.randn(8, 8), "c_proj.bias": torch.randn(8)}  # fmt: skip


def test_a_square_layer_that_alone_was_turned_is_seen(tmp_path: Path) -> None:
    before = gpt2()
    wrong = {**before, "c_proj.weight": before["c_proj.weight"].T.contiguous()}
    assert "c_proj: weight: it is transposed" in verdict(report_of_objects(tmp_path, before, wrong))


def test_turned_copies_are_right(tmp_path: Path) -> None:
    before = {"model": gpt2(), "ema": gpt2()}
    turned = {key: value.T.contiguous() if value.dim() == 2 else value for key, value in gpt2().items()}
    found = report_of_objects(tmp_path, before, {"model": turned, "ema": copy.deepcopy(turned)})
    assert found.equal, verdict(found)
    assert report_of_objects(tmp_path, before, copy.deepcopy(before)).equal


@pytest.mark.parametrize("shape", [(0, 4, 1), (6, 0, 1), (0, 0, 1)])
def test_empty_layers_are_no_difference(tmp_path: Path, shape: tuple[int, ...]) -> None:
    before = {"a.weight": torch.randn(shape), "a.bias": torch.randn(shape[0])}
    found = report_of_objects(tmp_path, before, {**before, "a.weight": before["a.weight"].squeeze(-1)})
    assert found.equal, verdict(found)


def test_lost_ties_are_told(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    found = report_of_objects(tmp_path, {"a": weight, "b": weight}, {"a": weight, "b": weight.clone()})
    assert found.equal
    assert "tied before and separate now: a, b" in found.notes


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": 1}])
def test_a_whole_model_saved_after_a_swap_is_right(tmp_path: Path, options: Any) -> None:
    from convinspect.modules import swap_pointwise

    model = nn.Sequential(nn.Conv1d(6, 4, 1, **options), nn.ReLU())
    torch.save(model, tmp_path / "a.pt")
    torch.save(swap_pointwise(model).model, tmp_path / "b.pt")
    found = report_of(tmp_path / "a.pt", tmp_path / "b.pt")
    assert found.equal, verdict(found)
    assert any("classes changed" in note for note in found.notes)


def test_a_norm_folded_elsewhere_is_named(tmp_path: Path) -> None:
    conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(64, 32, 1))
    before = {f"c.{key}": value for key, value in conv.state_dict().items()}
    folded = conv.weight.detach().squeeze(-1) * (1 + 2**-20)
    found = report_of_objects(tmp_path, before, {"c.weight": folded, "c.bias": before["c.bias"]})
    assert "weight norm was made plain, in other numbers" in verdict(found)


def test_rounding_through_a_smaller_dtype_is_no_common_factor(tmp_path: Path) -> None:
    before = {"c.weight": torch.randn(32, 16)}
    found = report_of_objects(tmp_path, before, {"c.weight": before["c.weight"].bfloat16().float()})
    assert "multiplied" not in verdict(found)
    zeros = {"a.bias": torch.zeros(4), "c.bias": torch.randn(4)}
    assert "holds the numbers" not in verdict(report_of_objects(tmp_path, zeros, {**zeros, "c.bias": torch.zeros(4)}))


# --------------------------------------------------------------------------------------------- bits


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bits_are_those_that_torch_holds(tmp_path: Path, data: st.DataObject) -> None:
    """Any two views of any dtype: equal bits as PyTorch sees them, whatever strides and storages say."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]))
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    size = data.draw(st.integers(0, 1))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    a = torch.randint(0, 2, shape, generator=generator).to(dtype)
    b = a.clone()
    if size:
        b.view(-1)[data.draw(st.integers(0, a.numel() - 1))] = 1
    order = data.draw(st.permutations(range(len(shape))))
    b = b.permute(*order).contiguous().permute(*[order.index(i) for i in range(len(shape))])
    torch.save({"x": a}, tmp_path / "a.pt")
    torch.save({"x": b}, tmp_path / "b.pt")
    one, other = (open_checkpoint(tmp_path / f"{name}.pt").tensors["x"] for name in "ab")
    assert same_bits(one, other) == torch.equal(a, b)
    found = difference(one, other)
    assert (found.count if found else 0) == int((a != b).sum())


def test_nan_payloads_count_and_equal_nans_do_not_differ(tmp_path: Path) -> None:
    a = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    b = torch.tensor([0x7FC00000, 0x7FC00002], dtype=torch.int32).view(torch.float32)
    assert report_of_objects(tmp_path, {"x": a}, {"x": a.clone()}).equal
    found = report_of_objects(tmp_path, {"x": a}, {"x": b})
    assert "nan (bits 0x7fc00001) became nan (bits 0x7fc00002)" in verdict(found)


def test_a_relation_is_named_only_where_it_holds(tmp_path: Path) -> None:
    torch.save({"a": torch.randn(4, 4), "b": torch.randn(4, 4)}, tmp_path / "x.pt")
    tensors = open_checkpoint(tmp_path / "x.pt").tensors
    assert relation(tensors["a"], tensors["b"]) is None


# --------------------------------------------------------------------------------------------- whole models

CODE = """
import torch
from torch import nn
from convinspect.modules import swap_pointwise

class Net(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.conv = nn.Conv1d(6, 4, 1, **options)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)
    def forward(self, x):
        y = self.norm(self.conv(x)).relu()
        return {"y": self.head(y.mean(-1)), "all": (y, y.argmax(1))}

def linear():
    return swap_pointwise(Net(), where="conv").model

def strided():
    return Net(stride=2)

class Noisy(Net):
    def forward(self, x):
        return super().forward(x + torch.randn_like(x))

class Inner(Net):
    def forward(self, x):
        return self.head(self.norm(self.conv(x)).float().softmax(1).to(x.dtype).mean(-1))

class Cast(Net):
    def forward(self, x):
        return super().forward(x.float())

def wrong():
    net = swap_pointwise(Net(), where="conv").model
    net.norm.eps = 1e-4
    return net

def none():
    return None

class Picky(Net):
    def forward(self, x, mask):
        return x
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "their_code.py").write_text(CODE)
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    torch.manual_seed(3)
    state = namespace["Net"]().state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.save({k: v.squeeze(-1) if v.dim() == 3 else v for k, v in state.items()}, tmp_path / "b.pt")
    return tmp_path


@pytest.mark.parametrize("after", [[], ["--model-after", "their_code:linear"]])
@pytest.mark.parametrize("grad", [[], ["--grad"]])
def test_the_whole_model_is_run(models: Path, after: list[str], grad: list[str]) -> None:
    code, found = command(models, "a.pt", "b.pt", "--model", "their_code:Net", *after, "-i", "2x6x9", *grad)
    assert (code, found["strength"]) == (0, "model"), found
    assert {"y", "all.0", "all.1"} <= {one["name"] for one in found["model"]["outputs"]}
    assert ("gradient of conv.weight" in {one["name"] for one in found["model"]["outputs"]}) == bool(grad)


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--model", "their_code:Net", "--model-after", "their_code:wrong"], "y differs by"),
        (["--model", "their_code:Net", "--model-after", "their_code:Net"], "does not load strictly"),
        (["--model", "their_code:strided"], "has shape"),
    ],
)
def test_a_model_that_computes_something_else_is_seen(models: Path, words: list[str], cause: str) -> None:
    if words[1].endswith("strided"):
        words = [*words, "--model-after", "their_code:linear"]
    code, found = command(models, "a.pt", "b.pt", *words, "-i", "2x6x9")
    assert code == 1
    assert cause in found["cause"]


def test_random_layers_draw_the_same_and_lower_precision_inside_is_said(models: Path) -> None:
    code, found = command(models, "a.pt", "b.pt", "--model", "their_code:Noisy", "-i", "2x6x9")
    assert (code, found["strength"]) == (0, "model")
    code, found = command(models, "a.pt", "b.pt", "--model", "their_code:Cast", "-i", "2x6x9")
    assert (code, found["strength"]) == (0, "model")
    code, found = command(models, "a.pt", "b.pt", "--model", "their_code:Inner", "-i", "2x6x9")
    assert (code, found["strength"]) == (0, "model")
    assert any("float32 inside" in note for note in found["model"]["notes"])


def test_inputs_come_from_files_too(models: Path) -> None:
    import numpy as np

    np.save(models / "x.npy", np.random.default_rng(0).standard_normal((2, 6, 9)).astype("float32"))
    torch.save({"x": torch.randn(2, 6, 9)}, models / "x.pt")
    for name in ("x.npy", "x.pt"):
        assert command(models, "a.pt", "b.pt", "--model", "their_code:Net", "-i", name)[0] == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model", "their_code:Net"], "--input does not say"),
        (["--model", "their_code:Net", "-i", "2y3"], "neither a file nor a shape"),
        (["--model", "their_code:Net", "-i", "2x7x9"], "cannot be run on these inputs"),
        (["--model", "their_code:Picky", "-i", "2x6x9"], "cannot be run on these inputs"),
        (["--model", "their_code:none", "-i", "2x6x9"], "no nn.Module"),
        (["--model", "torch.nn:Identity", "-i", "2x6x9"], "does not load into torch.nn:Identity"),
        (["--model", "their_code:Net", "-i", "gone.npy"], "no such file"),
        (["-i", "2x6x9"], "no --model is given"),
        (["--device", "abacus"], "cannot be used"),
        (["--dtype", "float31"], "no floating dtype"),
        (["--device", "meta"], "cannot be used"),
        (["--bits", "--grad"], "nothing to compare"),
        (["--model", "their_code:Net", "-i", "2x6x9:int64:0"], "neither a file nor a shape"),
        (["--model", "their_code:Net", "-i", "0x6x9"], "no numbers"),
        (["--layer", "nope"], "no layer matches"),
    ],
)
def test_wrong_wishes_get_one_line(models: Path, words: list[str], line: str) -> None:
    code, text = command(models, "a.pt", "b.pt", *words)
    assert code == 2
    assert line in text
    assert text.count("\n") == 1


def test_pointnets_stnkd_goes_there_in_its_own_code(tmp_path: Path) -> None:
    (tmp_path / "their_net.py").write_text(
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('fixture_maker', {str(FIXTURES / 'make.py')!r})\n"
        "maker = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(maker)\n"
        "exec(maker.POINTNET)\n"
        "def stnkd(): return STNkd(8, (16, 24, 40), (24, 12))\n"
    )
    for suffix in (".pt", ".safetensors"):
        words = [str(FIXTURES / f"pointnet_stnkd{suffix}"), "-o", f"after{suffix}", "--to", "linear"]
        run("convert", *words, folder=tmp_path).check_returncode()
        words = [words[0], words[2], "--model", "their_net:stnkd", "-i", "2x8x16", "--grad"]
        code, found = command(tmp_path, *words)
        assert (code, found["strength"], len(found["layers"])) == (0, "model", 3), found


# --------------------------------------------------------------------------------------------- the command


def test_one_file_is_converted_in_memory(tmp_path: Path) -> None:
    code, found = command(FIXTURES, "grouped_module.pt")
    assert code == 0
    assert [one["name"] for one in found["layers"]] == ["plain", "padding_same", "dilation", "circular"]
    assert any("stride=2" in note for note in found["notes"])
    code, found = command(FIXTURES, "vae_attention.safetensors")
    assert code == 0
    assert {one["before"] for one in found["layers"]} == {"Conv2d"}
    assert not any("kernel size" in note for note in found["notes"])
    code, text = command(FIXTURES, "embeddings.pt")
    assert code == 2
    assert "no layer can be converted" in text


def test_a_difference_is_exit_code_one_and_a_damaged_file_two(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "a.pt")
    torch.save(edited(one_ulp), tmp_path / "b.pt")
    assert command(tmp_path, "a.pt", "b.pt")[0] == 1
    (tmp_path / "c.pt").write_bytes((tmp_path / "b.pt").read_bytes()[:900])
    assert command(tmp_path, "a.pt", "c.pt")[0] == 2


def test_bits_alone_need_no_torch(tmp_path: Path) -> None:
    probe = (
        "import sys; sys.argv = ['convinspect', 'verify', sys.argv[1], '--bits']\n"
        "from convinspect.cli.main import main\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", probe, str(FIXTURES / "pointnet_stnkd.pt")], check=True, capture_output=True)


def test_renamed_tensors_are_found_under_their_new_names(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "a.pt")
    words = ["a.pt", "-o", "b.pt", "--to", "linear", "--rename", "conv*=layer*"]
    run("convert", *words, folder=tmp_path).check_returncode()
    assert command(tmp_path, "a.pt", "b.pt")[0] == 1
    code, found = command(tmp_path, "a.pt", "b.pt", "--rename", "conv*=layer*")
    assert (code, found["strength"]) == (0, "layer")
    assert [one["name"] for one in found["layers"]] == ["layer1", "layer2", "layer3"]


def test_a_pruned_bias_may_be_fused(tmp_path: Path) -> None:
    from torch.nn.utils import prune

    conv = nn.Conv1d(6, 4, 1)
    for name in ("weight", "bias"):
        prune.random_unstructured(conv, name, 0.5)  # type: ignore[no-untyped-call]
    torch.save({f"conv.{key}": value for key, value in conv.state_dict().items()}, tmp_path / "a.pt")
    words = ["a.pt", "-o", "b.pt", "--to", "linear", "--fuse"]
    run("convert", *words, folder=tmp_path).check_returncode()
    code, found = command(tmp_path, "a.pt", "b.pt")
    assert (code, found["missing"], found["unexpected"]) == (0, [], []), found


def test_the_same_root_is_taken_on_both_sides(tmp_path: Path) -> None:
    torch.save({"model": net(), "ema": net()}, tmp_path / "a.pt")
    torch.save({"model": converted(net()), "ema": converted(net())}, tmp_path / "b.pt")
    torch.save(converted(net()), tmp_path / "plain.pt")
    code, found = command(tmp_path, "a.pt", "b.pt", "--root", ".")
    assert (code, len(found["layers"]), found["missing"], found["unexpected"]) == (0, 6, [], []), found
    assert not any("converted too" in note for note in found["notes"])
    code, found = command(tmp_path, "a.pt", "b.pt", "--root", "ema")
    assert (code, len(found["layers"])) == (0, 3)
    assert command(tmp_path, "a.pt", "plain.pt", "--root", "ema")[0] == 0


def test_every_cause_has_a_sentence() -> None:
    assert set(SENTENCES) == set(Why)


def test_a_parameter_of_its_own_is_told_as_a_layer(tmp_path: Path) -> None:
    before: Any = {**net(), "scale": torch.randn(4, 3)}
    after = {**converted(net()), "scale": before["scale"].half()}
    found = report_of_objects(tmp_path, before, after, bits=True)
    assert [layer.name for layer in found.layers] == ["conv1", "conv2", "conv3", "scale"]
    assert verdict(found) == "layer scale: it: its dtype was narrowed from float32 to float16"


def test_layers_are_chosen(tmp_path: Path) -> None:
    code, found = command(FIXTURES, "pointnet_stnkd.pt", "--layer", "conv1", "--grad", "--batch", "3", "--length", "2")
    assert code == 0
    assert [one["name"] for one in found["layers"]] == ["conv1"]
    assert set(found["layers"][0]["gradients"]) == {"input", "weight", "bias"}
    assert found["layers"][0]["rounding"]["dtype"] == "float32"


@pytest.mark.filterwarnings("ignore")
def test_what_could_not_be_read_is_not_called_equal(tmp_path: Path) -> None:
    """Only shapes are known of tensors on the meta device; the same in another root of the file."""
    hollow = [torch.empty(4, 4, device="meta")] * 2
    before: Any = {"model": {**net(), "mask": hollow[0]}, "ema": {**net(), "mask": hollow[0]}}
    after: Any = {"model": {**converted(net()), "mask": hollow[1]}, "ema": {**converted(net()), "mask": hollow[1]}}
    torch.save(before, tmp_path / "a.pt")
    torch.save(after, tmp_path / "b.pt")
    code, found = command(tmp_path, "a.pt", "b.pt")
    assert (code, found["ok"], found["not_compared"]) == (0, True, ["mask", "ema.mask"])
    text = run("verify", "a.pt", "b.pt", "--bits", folder=tmp_path).stdout
    assert "equal as far as it was compared · strength: bits" in text
    assert "not compared: mask, ema.mask" in text


def test_one_thing_is_counted_as_one(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.randn(4, 6, 1), "b": torch.randn(4)}, tmp_path / "a.pt")
    text = run("verify", "a.pt", "--bits", folder=tmp_path).stdout
    assert "1 layer converted: every number is the same · 1 tensor unchanged" in text


@pytest.mark.parametrize(
    ("noun", "wanted"),
    [("Embedding", "an Embedding"), ("Linear", "a Linear"), ("LSTM", "an LSTM"), ("GRU", "a GRU"), ("", "a "),
     ("MultiheadAttention", "a MultiheadAttention"), ("L1Loss", "an L1Loss")],
)  # fmt: skip
def test_articles(noun: str, wanted: str) -> None:
    assert with_article(noun) == wanted


def test_keys_of_any_size_cost_little_and_are_all_looked_at(tmp_path: Path) -> None:
    """A tuple of a thousand times a tuple of a thousand is a few kilobytes and a million parts."""
    key: Any = ("a",)
    for _ in range(2):
        key = (key,) * 1000

    class Named:
        """A key whose text is that of its like."""

    keys = [Named() for _ in range(3)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys.modules[__name__], "Named", Named, raising=False)
        Named.__qualname__ = "Named"
        before: Any = {"state": net(), "by": dict(zip((key, *keys), range(4), strict=True))}
        after: Any = {"state": converted(net()), "by": {**before["by"], keys[2]: 9}}
        found = report_of_objects(tmp_path, before, after)
    assert [cause for cause in found.changed.values() if "3 became 9" in sentence(cause)]
    assert len(found.changed) == 1


def test_tags_of_tensors_are_told_and_no_fault(tmp_path: Path) -> None:
    """Where a tensor is loaded to, and whether it wants gradients, no number shows."""
    model = nn.Sequential(nn.Conv1d(6, 4, 1))
    state = dict(model.named_parameters())
    frozen = {key: one.squeeze(-1).detach().clone() if one.dim() == 3 else one.detach() for key, one in state.items()}
    found = report_of_objects(tmp_path, state, frozen)
    assert found.equal
    assert "requires_grad is not the same on 2 tensors: True became False" in found.notes
    assert not any("requires_grad" in note for note in report_of_objects(tmp_path, frozen, frozen).notes)
    before = open_checkpoint(tmp_path / "before.pt")
    moved = {name: one._replace(device="cuda:0") for name, one in before.tensors.items()}
    after = open_checkpoint(tmp_path / "after.pt")
    before.tensors = moved
    assert (
        "device is not the same on 2 tensors: cuda:0 became cpu"
        in verify(before, after, VerifyOptions(bits=True)).notes
    )


def test_state_and_copies_must_not_change_without_their_weight(tmp_path: Path) -> None:
    before, right = with_optimizer()
    for part, name in (("optimizer", "optimizer.state.0.exp_avg"), ("ema", "ema.0.weight")):
        found = report_of_objects(tmp_path, before, {**before, part: right[part]})
        assert found.verdict == "different"
        assert f"{name}: it was reshaped from " in verdict(found)


def test_state_must_have_the_shape_of_its_weight(tmp_path: Path) -> None:
    before, right = with_optimizer()
    right["optimizer"]["state"][0]["exp_avg"] = before["optimizer"]["state"][0]["exp_avg"].unsqueeze(-1).clone()
    found = report_of_objects(tmp_path, before, right)
    assert "optimizer.state.0.exp_avg: it was reshaped from " in verdict(found)


def test_one_of_two_tied_weights_must_not_change_alone(tmp_path: Path) -> None:
    weight = torch.randn(4, 6, 1)
    before = {"a.weight": weight, "b.weight": weight}
    alone = {"a.weight": weight.squeeze(-1), "b.weight": weight}
    both = dict.fromkeys(before, weight.squeeze(-1))
    assert report_of_objects(tmp_path, before, both).equal
    found = verdict(report_of_objects(tmp_path, before, alone))
    assert "a.weight: it is (4, 6), and b.weight, which is the same weight, is (4, 6, 1)" in found
