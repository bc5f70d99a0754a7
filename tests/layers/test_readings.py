"""What a layer is and how sure that is, against the PyTorch modules that made the file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from convinspect.records import Layer
from support.sampling import times
from support.saving import layer_of, layers_in, zeros

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

CONV1D = "Conv1D (transformers)"
ASSUMED_GROUPS = "stride, padding and groups are not recorded; groups 1 is assumed"
ASSUMED = "stride, padding and groups are not recorded; stride 1, padding 0 and groups 1 are assumed"
PLAIN: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


# ------------------------------------------------------------------------------------------- convolutions


@st.composite
def convolutions(draw: st.DrawFn) -> Conv:
    dims = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    small = st.integers(1, 3)

    def each() -> tuple[int, ...]:
        return tuple(draw(st.lists(small, min_size=dims, max_size=dims)))

    kernel = draw(st.sampled_from([(1,) * dims, each()]))
    make = draw(st.sampled_from([PLAIN, TRANSPOSED]))[dims]
    conv: Conv = make(
        groups * draw(small),
        groups * draw(small),
        kernel,
        stride=each(),
        padding=tuple(n - 1 for n in each()),
        dilation=each(),
        groups=groups,
        bias=draw(st.booleans()),
    )
    return conv


@settings(max_examples=times(30, 60), deadline=None)
@given(convolutions())
def test_a_pickled_convolution_tells_everything(folder: Path, conv: Conv) -> None:
    layer = layer_of(folder, conv, whole=True)
    assert (layer.kind, layer.evidence) == (type(conv).__name__, "module")
    assert (layer.in_width, layer.out_width) == (conv.in_channels, conv.out_channels)
    assert (layer.kernel_size, layer.stride, layer.padding) == (conv.kernel_size, conv.stride, conv.padding)
    assert (layer.dilation, layer.groups) == (conv.dilation, conv.groups)
    adds = conv.transposed and (set(conv.stride) != {1} or any(conv.output_padding))
    assert layer.pointwise == (set(conv.kernel_size) == {1} and not adds)
    assert (layer.bias is not None) == (conv.bias is not None)
    assert not {"assumed", "ambiguous"} & set(layer.tags)
    assert ("stride" in " ".join(layer.tags)) == (layer.pointwise and set(conv.stride) != {1})


@settings(max_examples=times(40, 80), deadline=None)
@given(convolutions())
@example(nn.ConvTranspose1d(6, 4, 1))
@example(nn.ConvTranspose1d(4, 4, 1))
@example(nn.ConvTranspose2d(6, 4, 1, groups=2))
@example(nn.Conv1d(8, 16, 1, groups=4))
def test_a_state_dict_of_a_convolution_tells_what_its_shapes_tell(folder: Path, conv: Conv) -> None:
    layer = layer_of(folder, conv)
    assert (layer.stride, layer.padding, layer.dilation, layer.groups) == (None,) * 4
    dims = len(conv.kernel_size)
    assert layer.kernel_size == conv.kernel_size
    if not conv.transposed or conv.bias is None or conv.in_channels == conv.out_channels:
        # A transposed one without a bias, or of equal widths, looks like a convolution in every way.
        assert (layer.kind, layer.evidence) == (f"Conv{dims}d", "shape")
        assert (layer.in_width, layer.out_width) == (None, conv.weight.shape[0])
        assert layer.pointwise == (set(conv.kernel_size) == {1})
        assert "assumed" in layer.tags
        assert (ASSUMED in layer.notes) == layer.pointwise
        assert (ASSUMED_GROUPS in layer.notes) == (not layer.pointwise)
        return
    told = conv.groups == 1 and set(conv.kernel_size) == {1}
    assert (layer.kind, layer.pointwise) == (f"ConvTranspose{dims}d", told)
    assert layer.evidence == ("shape" if conv.groups == 1 else "ambiguous")
    assert (layer.in_width, layer.out_width) == (conv.in_channels, conv.out_channels)


@settings(max_examples=times(40, 80), deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.none() | st.integers(1, 12))
def test_no_false_certainty_of_convolutions(folder: Path, first: int, second: int, k: int, bias: int | None) -> None:
    def fits(make: Callable[..., nn.Module], *widths: int, groups: int) -> bool:
        with torch.device("meta"):
            made = make(*widths, k, groups=groups, bias=bias is not None).state_dict()
        return {name: tuple(t.shape) for name, t in made.items()} == shapes

    shapes: dict[str, tuple[int, ...]] = {"weight": (first, second, k)} | ({"bias": (bias,)} if bias else {})
    conv = any(fits(nn.Conv1d, second * g, first, groups=g) for g in range(1, first + 1) if first % g == 0)
    transposed = any(
        fits(nn.ConvTranspose1d, first, second * g, groups=g) for g in range(1, first + 1) if first % g == 0
    )
    layer = layers_in(folder, {f"layer.{name}": torch.zeros(shape) for name, shape in shapes.items()})["layer"]
    if conv:
        assert (layer.kind, layer.evidence) == ("Conv1d", "shape")
    elif transposed:
        assert layer.kind == "ConvTranspose1d"
        assert layer.pointwise == (bias == second and k == 1)
        assert layer.evidence == ("shape" if bias == second else "ambiguous")
    else:
        assert layer.evidence == "ambiguous"
        assert "bias?" in layer.tags
        assert f"its bias ({bias},) does not fit its weight ({first}, {second}, {k})" in layer.notes


@pytest.mark.parametrize(
    ("conv", "tags"),
    [
        (nn.Conv1d(6, 6, 1, stride=2), ("stride 2",)),
        (nn.Conv1d(6, 6, 1, padding=1), ("padding 1",)),
        (nn.Conv1d(6, 6, 1, groups=2), ("groups 2",)),
        (nn.Conv1d(6, 6, 1, dilation=3), ()),
        (nn.Conv1d(6, 12, 1, groups=6), ("depthwise",)),
        (nn.Conv2d(6, 6, 1, stride=(1, 2)), ("stride 1×2",)),
        (nn.Conv1d(6, 6, 1, padding="same"), ()),
        (nn.Conv1d(6, 6, 3, stride=2, padding=1), ()),
        (nn.ConvTranspose1d(6, 6, 1, stride=2), ()),
    ],
    ids=str,
)
def test_what_keeps_a_pointwise_layer_from_being_linear(folder: Path, conv: Conv, tags: tuple[str, ...]) -> None:
    assert layer_of(folder, conv, whole=True).tags == tags


def test_larger_kernels_may_be_depthwise_too_and_may_have_any_stride(folder: Path) -> None:
    layers = layers_in(folder, zeros(**{"downsample.weight": (6, 4, 3, 3), "dw.weight": (6, 1, 3), "dw.bias": (6,)}))
    assert layers["downsample"].tags == ("assumed",)
    assert layers["dw"].tags == ("assumed", "depthwise?")
    assert layers_in(folder, zeros(**{"up.weight": (6, 1, 3), "up.bias": (1,)}))["up"].tags == ("assumed",)


def test_a_bilinear_has_the_shapes_of_a_convolution(folder: Path) -> None:
    state = nn.ModuleDict({"bilinear": nn.Bilinear(3, 4, 5), "conv": nn.Conv1d(3, 5, 4)}).state_dict()
    layers = layers_in(folder, state)
    assert [layers[name].evidence for name in ("bilinear", "conv")] == ["ambiguous", "shape"]
    assert "it may be a Bilinear" in " ".join(layers["bilinear"].notes)


def test_a_prelu_is_told_by_its_name_or_by_its_one_number(folder: Path) -> None:
    state = zeros(
        **{"prelu1.weight": (6,), "act.weight": (1,), "norm.weight": (6,), "one.weight": (1,), "one.bias": (1,)}
    )
    kinds = {name: layer.kind for name, layer in layers_in(folder, state).items()}
    assert kinds == {"prelu1": "PReLU", "act": "PReLU", "norm": "Norm", "one": "Norm"}


@pytest.mark.parametrize("name", ["layer1.0.downsample.0", "nin_shortcut"])
def test_names_that_usually_mean_stride_two(folder: Path, name: str) -> None:
    layers = layers_in(folder, zeros(**{f"{name}.weight": (6, 4, 1, 1), "conv1.weight": (6, 4, 1, 1)}))
    assert layers[name].notes == (ASSUMED, "layers of this name usually have stride 2")
    assert layers["conv1"].notes == (ASSUMED,)


# --------------------------------------------------------------------------------------------- Linear and like it


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), st.booleans())
def test_linear(folder: Path, wide_in: int, wide_out: int, bias: bool, whole: bool) -> None:
    layer = layer_of(folder, nn.Linear(wide_in, wide_out, bias=bias), whole)
    evidence = "module" if whole else "shape" if bias else "ambiguous"
    assert (layer.kind, layer.evidence) == ("Linear", evidence)
    assert (layer.in_width, layer.out_width, layer.kernel_size) == (wide_in, wide_out, ())
    assert (layer.bias is not None, layer.pointwise) == (bias, False)
    assert ("ambiguous" in layer.tags) == (evidence == "ambiguous")


NAMES = st.sampled_from(["fc", "c_attn", "c_proj", "c_fc", "q_attn", "wte", "tok_emb"])


@settings(max_examples=times(40, 80), deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.none() | st.integers(1, 5), NAMES)
@example(4, 4, 4, "c_proj")
def test_no_false_certainty_of_matrices(folder: Path, rows: int, columns: int, bias: int | None, name: str) -> None:
    gpt2 = name.startswith(("c_", "q_"))
    fitting = set()
    if bias in (None, rows):
        fitting.add("Linear")
    if (bias == columns and bias != rows) or (gpt2 and bias in (None, columns)):
        fitting.add(CONV1D)
    if bias is None and name != "fc":
        # Such a name is evidence by itself.
        fitting.add("Embedding")
    state = {f"{name}.weight": torch.zeros(rows, columns)} | ({f"{name}.bias": torch.zeros(bias)} if bias else {})
    layer = layers_in(folder, state)[name]
    if layer.evidence == "shape":
        assert fitting == {layer.kind}
    else:
        assert (len(fitting) > 1 and layer.kind in fitting) or (not fitting and "bias?" in layer.tags)
        assert layer.notes
    assert (layer.in_width, layer.out_width) == {
        "Linear": (columns, rows),
        CONV1D: (rows, columns),
        "Embedding": (None, None),
    }[layer.kind]


class Conv1D(nn.Module):
    """As transformers has it: the weight is stored transposed."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.nx = nx
        self.weight = nn.Parameter(torch.zeros(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))


@pytest.mark.parametrize("nx", [8, 24])
def test_transformers_conv1d_by_its_class(folder: Path, nx: int) -> None:
    layer = layer_of(folder, Conv1D(24, nx), whole=True)
    assert (layer.kind, layer.evidence, layer.in_width, layer.out_width) == (CONV1D, "module", nx, 24)


class Filters(nn.Module):
    """A class of somebody's own that counts filters as `nf`."""

    def __init__(self) -> None:
        super().__init__()
        self.nf = 4
        self.weight = nn.Parameter(torch.zeros(4, 6))
        self.bias = nn.Parameter(torch.zeros(4))


def test_an_attribute_alone_makes_no_transformers_conv1d(folder: Path) -> None:
    layer = layer_of(folder, Filters(), whole=True)
    assert (layer.kind, layer.evidence) == ("Linear", "shape")
    assert layer.notes == ("its class test_readings.Filters keeps no hyperparameters known here",)


GPT2 = {
    "wte.weight": (50, 8),
    "wpe.weight": (16, 8),
    "h.0.attn.c_attn.weight": (8, 24),
    "h.0.attn.c_attn.bias": (24,),
    "h.0.attn.c_proj.weight": (8, 8),
    "h.0.attn.c_proj.bias": (8,),
    "h.0.mlp.c_fc.weight": (8, 32),
    "h.0.mlp.c_fc.bias": (32,),
    "score.weight": (8, 8),
    "score.bias": (8,),
    "lm_head.weight": (50, 8),
}


def test_case_13_gpt2(folder: Path) -> None:
    state = zeros(**GPT2)
    state["lm_head.weight"] = state["wte.weight"]
    layers = layers_in(folder, state)
    for name, wide_in, wide_out in (("attn.c_attn", 8, 24), ("attn.c_proj", 8, 8), ("mlp.c_fc", 8, 32)):
        layer = layers[f"h.0.{name}"]
        assert (layer.kind, layer.evidence) == (CONV1D, "shape")
        assert (layer.in_width, layer.out_width) == (wide_in, wide_out)
    assert (layers["score"].kind, layers["score"].evidence) == ("Linear", "ambiguous")
    for name in ("wte", "wpe"):
        assert (layers[name].kind, layers[name].evidence) == ("Embedding", "ambiguous")
    assert (layers["lm_head"].kind, layers["lm_head"].evidence) == ("Linear", "shape")
    assert layers["lm_head"].tied_to == ("wte.weight",)
    assert layers["wte"].tied_to == ("lm_head.weight",)


def test_nanogpt_stores_the_same_names_as_linear(folder: Path) -> None:
    block = nn.ModuleDict({"c_attn": nn.Linear(8, 24), "c_proj": nn.Linear(8, 8), "c_fc": nn.Linear(8, 32)})
    layers = layers_in(folder, nn.ModuleDict({"h": nn.ModuleList([block])}).state_dict())
    for name, wide_out in (("c_attn", 24), ("c_proj", 8), ("c_fc", 32)):
        layer = layers[f"h.0.{name}"]
        assert (layer.kind, layer.evidence) == ("Linear", "shape")
        assert (layer.in_width, layer.out_width) == (8, wide_out)


@pytest.mark.parametrize(("shape", "kind"), [((24, 8), "Linear"), ((8, 24), CONV1D)])
def test_gpt2_names_without_a_bias_follow_the_known_ratio(folder: Path, shape: tuple[int, int], kind: str) -> None:
    layers = layers_in(folder, zeros(c_attn__weight=shape, c_proj__weight=(8, 8)))
    assert {layer.kind for layer in layers.values()} == {kind}
    assert {layer.evidence for layer in layers.values()} == {"ambiguous"}


def test_gpt2_names_both_ways_in_one_file(folder: Path) -> None:
    both = zeros(a__c_fc__weight=(8, 32), a__c_fc__bias=(32,), b__c_fc__weight=(32, 8), b__c_fc__bias=(32,))
    layers = layers_in(folder, both | zeros(a__c_proj__weight=(8, 8), a__c_proj__bias=(8,)))
    assert [layers[name].kind for name in ("a.c_fc", "b.c_fc")] == [CONV1D, "Linear"]
    assert layers["a.c_proj"].evidence == "ambiguous"


# ---------------------------------------------------------------------------------------------- norm wrappers


def _pruned(module: nn.Module, *names: str) -> nn.Module:
    for name in names:
        prune.random_unstructured(module, name, 0.5)  # type: ignore[no-untyped-call]
    return module


WRAPPED: dict[str, tuple[Callable[[nn.Module], nn.Module], str, str]] = {
    "weight_norm 0": (weight_norm, "weight_norm", "weight_v"),
    "weight_norm None": (lambda m: weight_norm(m, dim=None), "weight_norm", "weight_v"),  # type: ignore[arg-type]
    "weight_norm 1": (lambda m: weight_norm(m, dim=1), "weight_norm", "weight_v"),
    "new weight_norm 0": (parametrizations.weight_norm, "weight_norm", "original1"),
    "new weight_norm None": (
        lambda m: parametrizations.weight_norm(m, dim=None),  # type: ignore[arg-type]
        "weight_norm",
        "original1",
    ),
    "new weight_norm 1": (lambda m: parametrizations.weight_norm(m, dim=1), "weight_norm", "original1"),
    "spectral_norm": (spectral_norm, "spectral_norm", "weight_orig"),
    "new spectral_norm": (parametrizations.spectral_norm, "spectral_norm", "original"),
    "pruned": (lambda m: _pruned(m, "weight"), "pruned", "weight_orig"),
    "pruned, bias too": (lambda m: _pruned(m, "weight", "bias"), "pruned", "weight_orig"),
}


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize("base", [nn.Conv1d(6, 4, 1), nn.Linear(6, 4), nn.Conv2d(6, 4, 3)], ids=str)
def test_case_15_a_computed_kernel_is_one_layer(folder: Path, base: nn.Module, how: str) -> None:
    wrap, norm, leaf = WRAPPED[how]
    module = wrap(copy.deepcopy(base))
    layer = layer_of(folder, module)
    assert set(layer.tensors) == set(module.state_dict())
    assert (layer.kind, layer.evidence, layer.norm) == (type(base).__name__, "shape", norm)
    assert layer.weight.key.endswith(f".{leaf}")
    assert layer.weight.shape == tuple(module.weight.shape)  # type: ignore[arg-type]
    assert layer.bias is not None
    assert layer.bias.shape == (4,)
    assert layer.tags[0] == norm.replace("_", "-")
    assert "bias" not in layer.notes[0]
    if "new" not in how:
        whole = layer_of(folder, module, whole=True)
        assert (whole.kind, whole.evidence, whole.norm) == (type(base).__name__, "module", norm)
        assert whole.tensors.keys() == layer.tensors.keys()


class _Product(nn.Module):
    """A low-rank kernel: the product of two matrices."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    def right_inverse(self, w: Tensor) -> tuple[Tensor, Tensor]:
        return w[:, :2].clone(), w[:2].clone()


def test_other_parametrizations_are_not_read_as_a_norm(folder: Path) -> None:
    low_rank = nn.Linear(6, 4)
    parametrize.register_parametrization(low_rank, "weight", _Product(), unsafe=True)
    layer = layer_of(folder, low_rank)
    assert (layer.kind, layer.evidence, layer.norm) == ("Parametrized", "ambiguous", "parametrized")
    assert "bias?" not in layer.tags
    orthogonal = layer_of(folder, parametrizations.orthogonal(nn.Linear(6, 4)))
    assert (orthogonal.kind, orthogonal.evidence, orthogonal.norm) == ("Linear", "ambiguous", "parametrized")


@pytest.mark.parametrize("norm", ["old", "new"])
@pytest.mark.parametrize("missing", [0, 1])
def test_half_of_a_pair_is_incomplete(folder: Path, norm: str, missing: int) -> None:
    wrap = weight_norm if norm == "old" else parametrizations.weight_norm
    state = wrap(nn.Conv1d(6, 4, 1)).state_dict()
    gone = [key for key in state if key != "bias"][missing]
    del state[gone]
    layer = layers_in(folder, {f"layer.{key}": value for key, value in state.items()})["layer"]
    assert (layer.kind, layer.evidence, layer.pointwise) == ("Incomplete", "ambiguous", False)
    assert layer.tags == ("incomplete",)
    assert set(layer.tensors) == set(state)


@pytest.mark.parametrize("left", ["weight_orig", "weight_mask", "weight_u"])
def test_half_of_a_pruned_or_spectral_pair(folder: Path, left: str) -> None:
    layer: Layer = layers_in(folder, zeros(**{f"layer.{left}": (4, 6, 1), "layer.bias": (4,)}))["layer"]
    assert layer.kind == "Incomplete"
    assert set(layer.tensors) == {left, "bias"}


def test_a_bias_that_is_computed_is_a_bias(folder: Path) -> None:
    pruned = layer_of(folder, _pruned(nn.Linear(6, 4), "bias"))
    assert pruned.bias is pruned.tensors["bias_orig"]
    linear = nn.Linear(6, 4)
    parametrize.register_parametrization(linear, "bias", nn.Identity())
    layer = layer_of(folder, linear)
    assert (layer.kind, layer.evidence) == ("Linear", "shape")
    assert layer.bias is layer.tensors["parametrizations.bias.original"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_no_floating_dtype_of_one_number_an_element_is_quantized(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {"conv.weight": torch.zeros(4, 6, 1, dtype=dtype), "conv.bias": torch.zeros(4, dtype=dtype)}
    assert layers_in(tmp_path, state)["conv"].kind == "Conv1d"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["kernel_size", "stride", "padding", "dilation", "groups", "in_channels", "out_channels"]
)
def test_settings_that_pytorch_would_not_take_are_not_known_of_a_quantized_convolution(
    tmp_path: Path, name: str
) -> None:
    """A file may say anything of a layer."""
    from torch.ao.nn import quantized

    assert layer_of(tmp_path, quantized.Conv1d(4, 6, 1), whole=True).evidence == "module"
    for value in (
        "training",
        (1, 1),
        (),
        1.5,
        None,
        (1, "a"),
        True,
        (True,),
        ("same",),
        b"same",
        -3,
        (-3,),
        5,
        10**40,
        (10**40,),
    ):
        conv = quantized.Conv1d(4, 6, 1)
        vars(conv)[name] = value
        found = layer_of(tmp_path, conv, whole=True)
        assert (found.evidence, found.kernel_size, found.stride, found.groups) == ("shape", (), None, None), value
