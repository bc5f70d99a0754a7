"""`verify` on what conversions and swaps write: whatever a layer is called, groups, positions, coarse dtypes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from convinspect import verify
from convinspect.arrays import error_bound as outputs
from convinspect.arrays.error_bound import Inputs
from convinspect.arrays.forms import Form
from convinspect.comparing.claims import claims
from convinspect.comparing.measure import Setting, measure
from convinspect.comparing.subjects import pointnet
from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.kinds import TRANSFORMERS_CONV1D
from convinspect.modules import PointwiseLinear, swap_pointwise
from convinspect.showing.verify import verdict
from convinspect.verifying.findings import Report
from support.paths import FIXTURES
from support.sampling import times
from support.verifying import command, report_of, report_of_objects

NAMES = ("c_attn", "c_proj", "c_fc", "q_attn", "proj", "fc")


# ------------------------------------------------------------------------- what a layer is called decides nothing


@settings(deadline=None, max_examples=times(30, 60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_convolution_becomes_a_linear_whatever_it_is_called(tmp_path: Path, data: st.DataObject) -> None:
    """The names of GPT-2's transposed layers are those of many convolutions too."""
    sizes = {
        name: (data.draw(st.sampled_from([3, 5])), data.draw(st.sampled_from([3, 5])), data.draw(st.booleans()))
        for name in data.draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    }
    before: dict[str, torch.Tensor] = {}
    for name, (rows, columns, bias) in sizes.items():
        before[f"h.{name}.weight"] = torch.randn(rows, columns, 1)
        if bias:
            before[f"h.{name}.bias"] = torch.randn(rows)
    after = {key: one.squeeze(-1) if one.dim() == 3 else one for key, one in before.items()}
    found = report_of_objects(tmp_path, before, after)
    assert found.equal, verdict(found)
    assert {one.after for one in found.layers} == {"Linear"}
    name = data.draw(st.sampled_from(sorted(sizes)))
    turned = after | {f"h.{name}.weight": after[f"h.{name}.weight"].T.contiguous()}
    for wish in ({}, {"bits": True}):
        found = report_of_objects(tmp_path, before, turned, **wish)
        assert not found.equal
        assert "transposed" in verdict(found) or "rows are mixed up" in verdict(found)


def test_gpt2_may_be_turned_back(tmp_path: Path) -> None:
    state = torch.load(FIXTURES / "gpt2_names.pt")
    turned = {
        key: one.T.contiguous() if one.dim() == 2 and "c_" in key and key.endswith("weight") else one
        for key, one in state.items()
    }
    for before, after in ((state, turned), (turned, state)):
        found = report_of_objects(tmp_path, before, after)
        assert found.equal, verdict(found)
    key = "transformer.h.0.attn.c_proj.weight"
    found = report_of_objects(tmp_path, turned, state | {key: turned[key]})
    assert "c_proj" in verdict(found)
    assert "transposed" in verdict(found)


# ------------------------------------------------------------------------------------------- groups, positions


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_groups_written_out_of_a_state_dict_verify(tmp_path: Path, groups: int) -> None:
    conv = nn.Conv1d(8, 8, 1, groups=groups)
    rows, columns = 8 // groups, 8 // groups
    large = torch.zeros(8, 8)
    for group in range(groups):
        block = slice(group * rows, (group + 1) * rows)
        large[block, group * columns : (group + 1) * columns] = conv.weight.detach()[block, :, 0]
    before = {"g." + key: one for key, one in conv.state_dict().items()}
    found = report_of_objects(tmp_path, before, before | {"g.weight": large}, grad=True)
    assert found.equal, verdict(found)
    assert found.strength == "layer"
    assert found.layers[0].assumed == ("stride 1", "padding 0")
    large[0, 7] += 1e-6
    assert not report_of_objects(tmp_path, before, before | {"g.weight": large}).equal


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": 1}, {"stride": 2, "padding": 3}])
@pytest.mark.parametrize(("name", "value"), [("stride", (1,)), ("stride", (3,)), ("padding", (0,)), ("padding", (2,))])
def test_a_stand_in_must_do_the_same_to_positions(tmp_path: Path, options: Any, name: str, value: Any) -> None:
    model = nn.Sequential(nn.Conv1d(6, 4, 1, **options))
    swapped = swap_pointwise(copy.deepcopy(model)).model
    back = swap_pointwise(copy.deepcopy(swapped), "conv1d").model
    for one, other in ((model, swapped), (swapped, model), (swapped, back), (model, back)):
        found = report_of_objects(tmp_path, one, other)
        assert found.equal, verdict(found)
    stand_in: Any = swapped[0]  # type: ignore[index]
    assert isinstance(stand_in, PointwiseLinear)
    if getattr(stand_in, name) != value:
        setattr(stand_in, name, value)
        for one, other in ((model, swapped), (swapped, model)):
            for wish in ({}, {"bits": True}):
                assert f"its {name}=" in verdict(report_of_objects(tmp_path, one, other, **wish))


def test_a_linear_has_stride_1(tmp_path: Path) -> None:
    linear, conv = nn.Linear(6, 4), nn.Conv1d(6, 4, 1, stride=2)
    conv.load_state_dict({"weight": linear.weight.detach()[..., None], "bias": linear.bias.detach()})
    found = report_of_objects(tmp_path, nn.Sequential(linear), nn.Sequential(conv), bits=True)
    assert verdict(found) == "layer 0: its stride=1 became 2"


def test_more_dimensions_of_positions_are_no_difference(tmp_path: Path) -> None:
    one, two = nn.Conv1d(6, 4, 1), nn.Conv2d(6, 4, 1)
    assert one.bias is not None
    two.load_state_dict({"weight": one.weight.detach()[..., None], "bias": one.bias.detach()})
    for before, after in ((one, two), (two, one)):
        found = report_of_objects(tmp_path, nn.Sequential(before), nn.Sequential(after))
        assert found.equal, verdict(found)


# ------------------------------------------------------------------------------------------------ what is not run


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.int8, torch.int64])
def test_numbers_that_are_no_plain_floats_are_compared_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    weight = torch.arange(1, 13).to(dtype).reshape(4, 3, 1)
    before = {"conv.weight": weight, "conv.bias": torch.zeros(4, dtype=dtype)}
    after = before | {"conv.weight": weight.squeeze(-1)}
    found = report_of_objects(tmp_path, before, after, layer=("conv",))
    assert found.equal, verdict(found)
    assert all(one.rounding is None for one in found.layers)
    assert not report_of_objects(
        tmp_path, before, after | {"conv.weight": weight.squeeze(-1) + 1}, layer=("conv",)
    ).equal


def test_a_bias_of_the_wrong_length_is_said_and_no_fault(tmp_path: Path) -> None:
    before = {"conv.weight": torch.randn(4, 6, 1), "conv.bias": torch.randn(5)}
    found = report_of_objects(tmp_path, before, before | {"conv.weight": before["conv.weight"].squeeze(-1)})
    assert found.equal, verdict(found)
    assert "5 numbers for 4 outputs" in found.layers[0].note


def test_a_converted_layer_without_numbers_is_not_verified(tmp_path: Path) -> None:
    before = {"conv.weight": torch.empty(4, 6, 1, device="meta"), "fc.weight": torch.randn(3, 3)}
    found = report_of_objects(tmp_path, before, before | {"conv.weight": torch.empty(4, 6, device="meta")})
    assert (found.verdict, found.equal) == ("not verified", False)
    assert report_of_objects(tmp_path, before, before).equal
    assert not report_of_objects(tmp_path, before, before | {"conv.weight": torch.empty(6, 4, device="meta")}).equal


def test_metadata_of_a_state_dict_is_told_and_no_fault(tmp_path: Path) -> None:
    """A state_dict made by hand has none of PyTorch's module versions, or those of another model's modules."""
    model = nn.Sequential(OrderedDict(conv=nn.Conv1d(6, 4, 1), norm=nn.BatchNorm1d(4)))
    other = nn.Sequential(OrderedDict(conv=nn.Linear(6, 4), act=nn.ReLU(), norm=nn.BatchNorm1d(4)))
    state = model.state_dict()
    after = {key: one.squeeze(-1) if one.dim() == 3 else one for key, one in state.items()}
    other.load_state_dict(after)
    for one in (after, OrderedDict(after), other.state_dict()):
        found = report_of_objects(tmp_path, {"state": state, "epoch": 3}, {"state": one, "epoch": 3})
        assert found.equal, verdict(found)
        assert any("_metadata of state" in note for note in found.notes)
    assert not report_of_objects(tmp_path, {"state": state, "epoch": 3}, {"state": after, "epoch": 4}).equal
    found = report_of_objects(tmp_path, state, state)
    assert not found.notes


# --------------------------------------------------------------------------------- models that round coarsely inside

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(8, 16, 1), nn.Conv1d(16, 8, 1)

class Autocast(Net):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.head(torch.relu(self.conv(x.float())))

class Sharp(Net):
    def forward(self, x):
        return self.head(torch.softmax(50 * self.conv(x.float()), 1))

class Failing(Net):
    def forward(self, x):
        return 1 / 0
"""


@pytest.mark.parametrize("name", ["Autocast", "Sharp"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_models_that_round_coarsely_inside_raise_no_alarm(tmp_path: Path, name: str, seed: int) -> None:
    (tmp_path / "coarse_code.py").write_text(CODE)
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    torch.manual_seed(seed)
    state = namespace[name]().state_dict()
    after = {key: one.squeeze(-1) if one.dim() == 3 else one for key, one in state.items()}
    torch.save(state, tmp_path / "a.pt")
    torch.save(after, tmp_path / "b.pt")
    words = ["--model", f"coarse_code:{name}", "-i", "2x8x9", "--grad"]
    code, found = command(tmp_path, "a.pt", "b.pt", *words)
    assert (code, found["strength"]) == (0, "model"), found
    torch.save(after | {"head.bias": after["head.bias"] + 0.5}, tmp_path / "c.pt")
    code, found = command(tmp_path, "a.pt", "c.pt", *words)
    assert code == 1
    assert "rounding explains" in found["model"]["cause"]


def test_whatever_the_users_code_raises_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "coarse_code.py").write_text(CODE)
    torch.save(nn.Conv1d(8, 16, 1).state_dict(), tmp_path / "a.pt")
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    torch.save(namespace["Net"]().state_dict(), tmp_path / "a.pt")
    code, said = command(tmp_path, "a.pt", "--model", "coarse_code:Failing", "-i", "2x8x9")
    assert code == 2
    assert "ZeroDivisionError" in said
    assert said.count("\n") == 1


def test_float64_cannot_be_its_own_judge() -> None:
    for dtype in ("float32", "float64"):
        found = measure(pointnet()[:1], Setting(1, (4,), (dtype,), repeats=1, threads=torch.get_num_threads()))
        said = next(one for one in claims(found) if "precise" in one.text)
        assert (said.verdict == "not told") == (dtype == "float64")


# ------------------------------------------------------------------------------------------------ some rows at a time

FORMS = [
    (Form("Conv1d"), Form("Linear"), (40, 6, 1), (40, 6)),
    (Form("Conv2d", (1, 1), (0, 0)), Form("Linear"), (40, 6, 1, 1), (40, 6)),
    (Form("Linear"), Form(TRANSFORMERS_CONV1D), (40, 6), (6, 40)),
    (Form("Conv1d", (2,), (1,)), Form("Conv1d", (2,), (1,)), (40, 6, 1), (40, 6, 1)),
    (Form("Conv1d", groups=2), Form("Conv1d", groups=2), (40, 3, 1), (40, 3, 1)),
]


@pytest.mark.parametrize(("before", "after", "shape", "other"), FORMS, ids=lambda one: getattr(one, "kind", ""))
@pytest.mark.parametrize("row", [0, 17, 39])
def test_few_rows_at_a_time_give_what_all_at_once_do(
    monkeypatch: pytest.MonkeyPatch, before: Form, after: Form, shape: Any, other: Any, row: int
) -> None:
    torch.manual_seed(row)
    one, bias = torch.randn(shape), torch.randn(40)
    two = one.reshape(40, -1).T.contiguous() if other[0] == 6 else one.reshape(other).clone()
    xs = outputs.inputs_for(6, torch.float32, Inputs(((2, 1), (1, 5))))

    def found(chunk: int, results: int) -> tuple[outputs.Agreement, torch.Tensor]:
        monkeypatch.setattr(outputs, "_CHUNK", chunk)
        monkeypatch.setattr(outputs, "_RESULTS", results)
        return outputs.compare_outputs((before, after), (one, two), (bias, bias), xs)

    whole, exact = found(1 << 18, 1 << 18)
    assert whole.ok
    (two if two.shape[0] == 40 else two.T)[row].mul_(1 + 2.0**-23)
    for chunk, results in ((6, 0), (18, 40), (1 << 18, 0), (1 << 18, 1 << 18)):
        apart, last = found(chunk, results)
        assert not apart.ok
        torch.testing.assert_close(last, exact, rtol=1e-13, atol=0)


# ------------------------------------------------------------------------------- keys, partial conversions, settings


def squeezed(state: Any) -> dict[str, Any]:
    return {key: one.squeeze(-1).clone() if one.dim() == 3 else one for key, one in state.items()}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(("a", "b"), [("module.", ""), ("", "module."), ("_orig_mod.", ""), ("module.", "_orig_mod.")])
def test_keys_must_keep_their_prefix(tmp_path: Path, a: str, b: str, suffix: str) -> None:
    state = nn.Sequential(nn.Conv1d(6, 6, 1), nn.Conv1d(6, 4, 1)).state_dict()
    write: Any = torch.save if suffix == ".pt" else save_file
    names = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    for path, front, held_state in zip(names, (a, b), (dict(state), squeezed(state)), strict=True):
        write({front + key: one for key, one in held_state.items()}, path)
    found = report_of(*names)
    assert not found.equal
    assert verdict(found).startswith("keys: 4 ")
    assert "load_state_dict takes none off" in verdict(found)
    write({a + key: one for key, one in squeezed(state).items()}, names[1])
    assert report_of(*names).equal
    write({b + key: one for key, one in squeezed(state).items()}, names[1])
    rule = f"{a}*={b}*"
    if a:
        code, told = command(tmp_path, names[0].name, names[1].name, "--rename", rule)
        assert code == 0, told


def test_prefixes_of_roots_and_of_whole_models_are_no_difference(tmp_path: Path) -> None:
    model = nn.DataParallel(nn.Sequential(nn.Conv1d(6, 6, 1)))
    state = model.state_dict()
    for before, after in (
        (model, squeezed(state)),
        ({"module": model.module.state_dict()}, squeezed(model.module.state_dict())),
        ({"state_dict": state, "epoch": 1}, squeezed(state)),
        ({"model": state, "ema": state}, {"model": squeezed(state), "ema": squeezed(state)}),
    ):
        found = report_of_objects(tmp_path, before, after)
        assert found.equal, verdict(found)
    bare = squeezed(model.module.state_dict())
    found = report_of_objects(tmp_path, {"model": state, "ema": state}, {"model": squeezed(state), "ema": bare})
    assert "keys of ema" in found.changed


def transformer(blocks: int) -> dict[str, torch.Tensor]:
    sizes = {"attn.c_attn": (8, 24), "attn.c_proj": (8, 8), "mlp.c_fc": (8, 32), "mlp.c_proj": (32, 8)}
    state = {"wte.weight": torch.randn(11, 8), "lm_head.weight": torch.randn(11, 8)}
    for block in range(blocks):
        for name, (wide_in, wide_out) in sizes.items():
            state[f"h.{block}.{name}.weight"] = torch.randn(wide_in, wide_out)
            state[f"h.{block}.{name}.bias"] = torch.randn(wide_out)
    return state


@settings(deadline=None, max_examples=times(30, 60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_layers_that_were_left_as_they_are_are_no_difference(tmp_path: Path, data: st.DataObject) -> None:
    state = transformer(2)
    names = [key for key in state if key.endswith("weight") and "c_" in key]
    square = [key for key in names if state[key].shape[0] == state[key].shape[1]]
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    after = {key: one.T.contiguous() if key in chosen else one for key, one in state.items()}
    layers = tuple(key.removesuffix(".weight") for key in chosen)
    for before, there in ((state, after), (after, state)):
        found = report_of_objects(tmp_path, before, there, layer=layers, bits=True)
        assert found.equal, (verdict(found), chosen)
    others = [key for key in names if key not in square]
    found = report_of_objects(tmp_path, state, after, bits=True)
    if set(chosen) <= set(square) or (set(others) <= set(chosen) and not set(square) <= set(chosen)):
        # Only the user can tell this from a mistake.
        assert not found.equal
        assert "transposed" in verdict(found)
    else:
        assert found.equal, (verdict(found), chosen)


def test_how_a_convolution_pads_must_stay(tmp_path: Path) -> None:
    def model(mode: Any, padding: int = 1, wide: int = 3) -> nn.Module:
        return nn.Sequential(nn.Conv1d(6, 6, 1), nn.Conv1d(6, 4, wide, padding=padding, padding_mode=mode))

    one, other = model("zeros"), model("reflect")
    other.load_state_dict(one.state_dict())
    for before, after in ((one, other), (one, swap_pointwise(copy.deepcopy(other)).model)):
        assert "padding_mode" in verdict(report_of_objects(tmp_path, before, after))
    assert report_of_objects(tmp_path, one, swap_pointwise(copy.deepcopy(one)).model).equal
    one, other = model("zeros", wide=1), model("reflect", wide=1)
    other.load_state_dict(one.state_dict())
    assert "padding_mode" in verdict(report_of_objects(tmp_path, one, swap_pointwise(copy.deepcopy(other)).model))
    one, other = model("zeros", 0, 1), model("reflect", 0, 1)
    other.load_state_dict(one.state_dict())
    assert report_of_objects(tmp_path, one, swap_pointwise(copy.deepcopy(other)).model).equal


# ------------------------------------------------------------------------------------------ sparse and quantized


def packed() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    dense = torch.randn(6, 4) * (torch.rand(6, 4) > 0.5)
    found: dict[str, Any] = {
        "tensor": torch.quantize_per_tensor(dense, 0.1, 3, torch.quint8),
        "tensor32": torch.quantize_per_tensor(dense, 0.1, 3, torch.qint32),
        "channel": torch.quantize_per_channel(dense, torch.full((6,), 0.1), torch.zeros(6), 0, torch.qint8),
        "coo": dense.to_sparse(),
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "bsr": dense.to_sparse_bsr((2, 2)),
    }
    return found


def with_other(name: str, how: str) -> Any:
    """The tensor with other numbers, or read otherwise."""
    one: Any = packed()[name]
    if not one.is_quantized:
        if how == "numbers":
            return one * 2
        dense = one.to_dense().roll(1, 0)
        return getattr(dense, f"to_sparse_{name}")(*[(2, 2)] * (name == "bsr")) if name != "coo" else dense.to_sparse()
    whole = one.int_repr()
    whole[1, 2] += how == "numbers"
    if name == "channel":
        scales = one.q_per_channel_scales().clone()
        scales[3] *= 1.0000001 if how == "reading" else 1
        return torch._make_per_channel_quantized_tensor(whole, scales, one.q_per_channel_zero_points(), 0)
    zero_point = one.q_zero_point() + (how == "reading")
    return torch._make_per_tensor_quantized_tensor(whole, one.q_scale(), zero_point)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["tensor", "tensor32", "channel", "coo", "csr", "csc", "bsr"])
def test_sparse_and_quantized_tensors_are_compared(tmp_path: Path, name: str, legacy: bool) -> None:
    conv = nn.Conv1d(6, 4, 1).state_dict()
    before = {**conv, "odd.weight": packed()[name]}

    def found(odd: torch.Tensor) -> Report:
        for path, state in (("a.pt", before), ("b.pt", {**squeezed(conv), "odd.weight": odd})):
            torch.save(state, tmp_path / path, _use_new_zipfile_serialization=not legacy)
        return report_of(tmp_path / "a.pt", tmp_path / "b.pt")

    same = found(packed()[name])
    assert same.equal, verdict(same)
    assert not same.unread
    for how in ("numbers", "reading"):
        other = found(with_other(name, how))
        assert not other.equal, how
        assert "odd" in verdict(other)


def test_lazy_views_of_one_kind_are_compared(tmp_path: Path) -> None:
    one, other = torch.tensor([1 + 2j, 3 - 1j]), torch.tensor([1 + 2j, 3 - 2j])
    conv = nn.Conv1d(6, 4, 1).state_dict()
    changes: list[Callable[[torch.Tensor], torch.Tensor]] = [torch.conj, lambda it: torch.conj(it).imag]
    for change in changes:
        before, after = ({**conv, "view": change(it)} for it in (one, other))
        assert report_of_objects(tmp_path, before, {**squeezed(conv), "view": change(one)}).equal
        assert "view" in verdict(report_of_objects(tmp_path, before, {**squeezed(conv), "view": after["view"]}))


# ------------------------------------------------------------------------------------------------------- wording


def test_an_empty_matrix_of_another_shape_is_not_called_transposed(tmp_path: Path) -> None:
    before = {"a.weight": torch.randn(0, 3, 1), "b.weight": torch.randn(4, 3, 1)}
    found = report_of_objects(
        tmp_path, before, {"a.weight": torch.randn(3, 0), "b.weight": before["b.weight"].squeeze(-1)}
    )
    assert "its shape (0, 3, 1) became (3, 0)" in verdict(found)


@pytest.mark.parametrize("place", [(0, 0), (0, 7)])
def test_one_wrong_number_of_groups_written_out_is_named(tmp_path: Path, place: tuple[int, int]) -> None:
    conv = nn.Conv1d(8, 8, 1, groups=2)
    block_diag: Any = torch.block_diag
    large = block_diag(*conv.weight.detach().squeeze(-1).chunk(2))
    before = {f"g.{key}": one for key, one in conv.state_dict().items()}
    assert report_of_objects(tmp_path, before, {**before, "g.weight": large}).equal
    large[place] += 0.5
    found = report_of_objects(tmp_path, before, {**before, "g.weight": large})
    assert f"its groups were written out, and 1 of 64 numbers differs, at {list(place)}" in verdict(found)
    found = report_of_objects(tmp_path, before, {**before, "g.weight": torch.randn(8, 8)})
    assert "no reshaping explains" in verdict(found)


def test_pruning_that_was_undone_is_called_so(tmp_path: Path) -> None:
    conv = nn.Conv1d(6, 4, 1)
    before = {"a.weight_orig": conv.weight.detach(), "a.weight_mask": torch.ones(4, 6, 1), "a.bias": conv.bias}
    plain = {"a.weight": conv.weight.detach().squeeze(-1) * 1.5, "a.bias": conv.bias}
    found = report_of_objects(tmp_path, before, plain)
    assert "its pruning was made plain" in verdict(found)


@pytest.mark.parametrize("shape", [(6, 6, 1), (4, 6, 1), (6, 4, 1, 1), (1, 6, 1)])
@pytest.mark.parametrize("layer", [(), ("h.c_attn",), ("*",)])
def test_a_convolution_of_gpt2s_names_is_out_in_once_converted(
    tmp_path: Path, shape: tuple[int, ...], layer: tuple[str, ...]
) -> None:
    """A named layer counts as transformers' Conv1D only where it may be one."""
    torch.save({"h.c_attn.weight": torch.randn(shape)}, tmp_path / "a.pt")
    options = Options(to="linear", from_=("conv1d", "conv2d"), layer=("h.c_attn",))
    convert(tmp_path / "a.pt", tmp_path / "b.pt", options)
    assert verify(tmp_path / "a.pt", tmp_path / "b.pt", layer=layer).equal
    torch.save({"h.c_attn.weight": torch.randn(shape[:2])}, tmp_path / "b.pt")
    assert not verify(tmp_path / "a.pt", tmp_path / "b.pt", layer=layer).equal


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_lies_at_the_top_beside_the_model_is_not_the_plain_state_dict(tmp_path: Path, suffix: str) -> None:
    """Both are roots without a path."""
    net = nn.Sequential(nn.Conv1d(3, 4, 1))
    torch.save({"model": net.state_dict(), "mean": torch.zeros(3), "std": torch.ones(3)}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / f"b{suffix}", Options(to="linear", state_dict=True))
    report = verify(tmp_path / "a.pt", tmp_path / f"b{suffix}")
    assert report.equal, report
    assert f"root . (2 tensors) is not in b{suffix}, a plain state_dict" in report.notes
