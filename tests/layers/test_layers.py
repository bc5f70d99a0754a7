"""Which tensors make up a layer, which layers are tied or views, and how a user names them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from convinspect.checkpoint import open_checkpoint
from convinspect.errors import NotThere
from convinspect.kinds import LISTED
from convinspect.layers.find import find_layers
from convinspect.layers.select import select, select_one
from convinspect.records import Layer
from support.sampling import times
from support.saving import State, layer_of, layers_in, opened, zeros

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


# ------------------------------------------------------------------------------------ kinds beyond conv and Linear

MODULES: list[tuple[nn.Module, str, str, str, str | None, tuple[str, ...]]] = [
    # module, then as a state_dict: kind, evidence, weight, bias, tags
    (nn.Embedding(5, 3), "Linear", "ambiguous", "weight", None, ("ambiguous",)),
    (nn.BatchNorm1d(4), "BatchNorm", "shape", "weight", "bias", ()),
    (nn.BatchNorm2d(4, affine=False), "BatchNorm", "shape", "running_mean", None, ()),
    (nn.BatchNorm3d(4, track_running_stats=False), "Norm", "ambiguous", "weight", "bias", ()),
    (nn.LayerNorm(4), "Norm", "ambiguous", "weight", "bias", ()),
    (nn.LayerNorm(4, bias=False), "Norm", "ambiguous", "weight", None, ()),
    (nn.LayerNorm((4, 4)), "LayerNorm", "shape", "weight", "bias", ()),
    (nn.LayerNorm((4, 5, 1)), "LayerNorm", "shape", "weight", "bias", ()),
    (nn.GroupNorm(2, 4), "Norm", "ambiguous", "weight", "bias", ()),
    (nn.PReLU(4), "Norm", "ambiguous", "weight", None, ()),
    (nn.PReLU(), "PReLU", "ambiguous", "weight", None, ()),
    (nn.MultiheadAttention(8, 2), "MultiheadAttention", "shape", "in_proj_weight", "in_proj_bias", ("packed",)),
    (nn.MultiheadAttention(8, 2, bias=False), "MultiheadAttention", "shape", "in_proj_weight", None, ("packed",)),
    (
        nn.MultiheadAttention(8, 2, kdim=5, vdim=6, add_bias_kv=True),
        "MultiheadAttention",
        "shape",
        "q_proj_weight",
        "in_proj_bias",
        ("packed",),
    ),
    (nn.LSTM(5, 8, 2), "LSTM", "shape", "weight_ih_l0", "bias_ih_l0", ("recurrent",)),
    (nn.LSTM(5, 8, bidirectional=True), "LSTM", "shape", "weight_ih_l0", "bias_ih_l0", ("recurrent",)),
    (nn.LSTM(5, 8, proj_size=2), "LSTM", "shape", "weight_ih_l0", "bias_ih_l0", ("recurrent",)),
    (nn.LSTM(5, 8, proj_size=3), "LSTM", "shape", "weight_ih_l0", "bias_ih_l0", ("recurrent",)),
    (nn.GRU(5, 8, bias=False), "GRU", "shape", "weight_ih_l0", None, ("recurrent",)),
    (nn.RNN(5, 8), "RNN", "shape", "weight_ih_l0", "bias_ih_l0", ("recurrent",)),
    (nn.LSTMCell(5, 8), "LSTMCell", "shape", "weight_ih", "bias_ih", ("recurrent",)),
    (nn.GRUCell(5, 8), "GRUCell", "shape", "weight_ih", "bias_ih", ("recurrent",)),
    (nn.RNNCell(5, 8), "RNNCell", "shape", "weight_ih", "bias_ih", ("recurrent",)),
    (weight_norm(nn.GRU(5, 8), "weight_hh_l0"), "GRU", "shape", "weight_ih_l0", "bias_ih_l0", ("recurrent",)),
    (weight_norm(nn.LSTM(5, 8), "weight_ih_l0"), "LSTM", "shape", "weight_ih_l0_v", "bias_ih_l0", ("recurrent",)),
]  # fmt: skip


@pytest.mark.parametrize(("module", "kind", "evidence", "weight", "bias", "tags"), MODULES, ids=str)
def test_other_modules(
    folder: Path, module: nn.Module, kind: str, evidence: str, weight: str, bias: str | None, tags: tuple[str, ...]
) -> None:
    layer = layer_of(folder, module)
    assert (layer.kind, layer.evidence, layer.tags) == (kind, evidence, tags)
    own = {key for key in module.state_dict() if not key.startswith("out_proj.")}
    assert set(layer.tensors) == own
    assert layer.weight is layer.tensors[weight]
    assert layer.bias is (None if bias is None else layer.tensors[bias])
    assert (layer.kernel_size, layer.pointwise) == ((), False)
    whole = layer_of(folder, module, whole=True)
    assert (whole.kind, whole.evidence) == (type(module).__name__, "module")
    assert set(whole.tensors) == own


class OwnAttention(nn.MultiheadAttention):
    """A subclass, which may compute something else."""


def test_a_subclass_keeps_its_kind_and_is_named(folder: Path) -> None:
    layer = layer_of(folder, OwnAttention(8, 2), whole=True)
    assert (layer.kind, layer.evidence) == ("MultiheadAttention", "shape")
    assert layer.notes[-1] == "its class is test_layers.OwnAttention"


def test_attention_in_a_file_that_sorts_its_names(folder: Path) -> None:
    attention = nn.MultiheadAttention(8, 2, kdim=5, vdim=6, add_bias_kv=True)
    save_file({f"a.{key}": value for key, value in attention.state_dict().items()}, folder / "model.safetensors")
    layer = find_layers(open_checkpoint(folder / "model.safetensors"))[0]
    assert layer.weight.key == "a.q_proj_weight"


@pytest.mark.parametrize("hidden", [(20, 8), (8, 0), (8,), None])
def test_a_recurrent_layer_of_unknown_gates_is_ambiguous(folder: Path, hidden: tuple[int, ...] | None) -> None:
    state = zeros(r__weight_ih_l0=(20, 5)) | (zeros(r__weight_hh_l0=hidden) if hidden else {})
    layer = layers_in(folder, state)["r"]
    assert (layer.kind, layer.evidence) == ("RNN", "ambiguous")


# ------------------------------------------------------------------------------------------ cases 14 and 16, quantized


def test_case_14_look_alikes(folder: Path) -> None:
    layers = layers_in(
        folder,
        nn.ModuleDict({"up": nn.ConvTranspose1d(6, 4, 1)}).state_dict()
        | zeros(cls_token=(1, 1, 16), pos=(1, 16, 1), gamma=(16, 1, 1))
        | zeros(**{"out.weight": (1, 6, 1), "out.bias": (1,), "in.weight": (5, 1, 1)})
        | zeros(patch_embed__weight=(32, 3, 16, 16)),
    )
    assert {name: layer.kind for name, layer in layers.items()} == {
        "up": "ConvTranspose1d",
        "cls_token": "Parameter",
        "pos": "Parameter",
        "gamma": "Parameter",
        "out": "Conv1d",
        "in": "Conv1d",
        "patch_embed": "Conv2d",
    }
    assert [name for name, layer in layers.items() if layer.pointwise] == ["up", "out", "in"]
    assert "(5, 1, 1) reads as depthwise (groups = 5) as well as 1 → many" in layers["in"].notes
    assert not any("depthwise" in note for note in layers["out"].notes)


def test_case_16_biases(folder: Path) -> None:
    layers = layers_in(
        folder,
        zeros(with__weight=(4, 6, 1), with__bias=(4,), without__weight=(4, 6, 1), alone__bias=(4,))
        | zeros(wrong__weight=(4, 6, 1), wrong__bias=(5,), flat__weight=(4, 6), flat__bias=(5,)),
    )
    assert layers["with"].bias is not None
    assert layers["without"].bias is None
    assert (layers["alone"].kind, layers["alone"].evidence, layers["alone"].bias) == ("Bias", "ambiguous", None)
    for name, weight in (("wrong", "(4, 6, 1)"), ("flat", "(4, 6)")):
        assert layers[name].evidence == "ambiguous"
        assert "bias?" in layers[name].tags
        assert f"its bias (5,) does not fit its weight {weight}" in layers[name].notes
        assert layers[name].bias is not None


INT, HALF = torch.int32, torch.float16
QUANTIZED: dict[str, tuple[State, str, str | None]] = {
    "GPTQ": (
        {"qweight": torch.zeros(2, 8, dtype=INT), "qzeros": torch.zeros(1, 1, dtype=INT)}
        | {"scales": torch.zeros(1, 8, dtype=HALF), "g_idx": torch.zeros(16, dtype=INT), "bias": torch.zeros(8)},
        "qweight",
        "bias",
    ),
    "bitsandbytes 8 bit": ({"weight": torch.zeros(8, 6, dtype=torch.int8), "SCB": torch.zeros(8)}, "weight", None),
    "bitsandbytes 4 bit": (
        {"weight": torch.zeros(24, 1, dtype=torch.uint8), "weight.absmax": torch.zeros(1)}
        | {"weight.quant_map": torch.zeros(16), "weight.quant_state.bitsandbytes__nf4": torch.zeros(9).byte()},
        "weight",
        None,
    ),
    "float8": (
        {"weight": torch.zeros(8, 6).to(torch.float8_e4m3fn), "bias": torch.zeros(8), "weight_scale": torch.ones(1)},
        "weight",
        "bias",
    ),
    "float8, other name": (
        {"weight": torch.zeros(8, 6).to(torch.float8_e4m3fn), "scale_weight": torch.ones(())},
        "weight",
        None,
    ),
    "integers": ({"weight": torch.zeros(8, 6, dtype=torch.int8), "bias": torch.zeros(8)}, "weight", "bias"),
}  # fmt: skip


@pytest.mark.parametrize("how", QUANTIZED)
def test_quantized_layers_are_listed_as_such(folder: Path, how: str) -> None:
    state, weight, bias = QUANTIZED[how]
    layer = layers_in(folder, {f"fc.{key}": value for key, value in state.items()})["fc"]
    assert (layer.kind, layer.tags) == ("Linear (quantized)", ("quantized",))
    assert set(layer.tensors) == set(state)
    assert layer.weight is layer.tensors[weight]
    assert layer.bias is (None if bias is None else layer.tensors[bias])


@pytest.mark.parametrize("below", ["fc.", ""])
def test_dynamically_quantized(folder: Path, below: str) -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})  # type: ignore[no-untyped-call]
    state = quantized[0].state_dict()
    layer = layers_in(folder, {below + key: value for key, value in state.items()})[below.rstrip(".")]
    assert (layer.kind, layer.weight.shape) == ("Linear (quantized)", (4, 6))
    assert layer.bias is not None
    assert layer.bias.shape == (4,)


@pytest.mark.parametrize("old", [False, True])
def test_dynamically_quantized_whole_module(folder: Path, old: bool) -> None:
    """Weight and bias lie in an object of PyTorch's C++, whose state the pickle holds."""
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Conv1d(4, 2, 1))
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})  # type: ignore[no-untyped-call]
    path = folder / "quantized.pt"
    torch.save(quantized, path, _use_new_zipfile_serialization=not old)
    layer, conv = find_layers(open_checkpoint(path))
    assert (layer.name, layer.kind, layer.evidence) == ("0", "Linear (quantized)", "module")
    assert (layer.in_width, layer.out_width, layer.weight.shape) == (6, 4, (4, 6))
    assert layer.bias is not None
    assert layer.bias.shape == (4,)
    assert (conv.kind, conv.pointwise) == ("Conv1d", True)


def test_integers_that_are_no_matrix_are_not_quantized(folder: Path) -> None:
    layer = layers_in(folder, {"loss.weight": torch.arange(4)})["loss"]
    assert (layer.kind, layer.tags) == ("Parameter", ())


@pytest.mark.parametrize(("one", "other"), [("lora_A", "lora_B"), ("lora_down", "lora_up")])
@pytest.mark.parametrize("adapter", ["", ".default"])
def test_lora_pairs(folder: Path, one: str, other: str, adapter: str) -> None:
    a, b = f"q.{one}{adapter}", f"q.{other}{adapter}"
    layers = layers_in(folder, zeros(**{f"{a}.weight": (2, 8), f"{b}.weight": (6, 2), f"k.{one}.weight": (2, 8)}))
    assert all("LoRA" in layer.tags for layer in layers.values())
    assert layers[a].notes[-1] == f"one half of a LoRA pair with {b}"
    assert layers[b].notes[-1] == f"one half of a LoRA pair with {a}"
    assert layers[f"k.{one}"].notes[-1] == f"one half of a LoRA pair with k.{other}, which is not in the file"


# ------------------------------------------------------------------------------------------------- grouping

LEAVES: list[Callable[[], nn.Module]] = [
    lambda: nn.Conv1d(6, 4, 1),
    lambda: nn.Linear(3, 3, bias=False),
    lambda: nn.Embedding(5, 3),
    lambda: nn.BatchNorm1d(4),
    lambda: nn.LayerNorm((2, 3)),
    lambda: nn.MultiheadAttention(8, 2, kdim=5),
    lambda: nn.LSTM(3, 4),
    lambda: nn.Bilinear(2, 3, 4),
    lambda: weight_norm(nn.Conv1d(6, 4, 1)),
    lambda: spectral_norm(nn.Linear(6, 4)),
    lambda: parametrizations.weight_norm(nn.Linear(6, 4)),
    lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    lambda: nn.TransformerEncoderLayer(8, 2, 8),
]
MODELS = st.recursive(
    st.sampled_from(LEAVES).map(lambda make: make()),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: nn.Sequential(*parts)),
    max_leaves=8,
)


def _owners(layers: tuple[Layer, ...]) -> Counter[str]:
    return Counter(tensor.key for layer in layers for tensor in layer.tensors.values())


@settings(max_examples=40, deadline=None)
@given(MODELS, st.sampled_from(["", "module.", "_orig_mod.module."]))
def test_each_tensor_belongs_to_one_layer(folder: Path, model: nn.Module, prefix: str) -> None:
    state = {prefix + key: value for key, value in model.state_dict().items()}
    layers = find_layers(opened(folder, state))
    assert _owners(layers) == Counter(list(state))
    modules = {name for name, _ in model.named_modules()}
    assert {layer.name for layer in layers} <= modules
    assert all(layer.weight in layer.tensors.values() for layer in layers)
    assert all(layer.bias is None or layer.bias in layer.tensors.values() for layer in layers)


WORDS = st.sampled_from(["weight", "bias", "weight_g", "weight_v", "weight_orig", "weight_mask", "0", "a", "xweight"])
MORE = st.sampled_from(["parametrizations", "original0", "original1", "original", "qweight", "_packed_params", "scale"])
KEYS = st.lists(WORDS | MORE | st.text(max_size=3), min_size=1, max_size=5).map(".".join)
SHAPES = st.lists(st.integers(0, 3), max_size=6).map(tuple)


@settings(max_examples=times(40, 100), deadline=None)
@given(st.dictionaries(KEYS, SHAPES, min_size=1, max_size=8))
@example({"weight": (), ".weight": (), ".parametrizations.weight.original": (), "a.": (), "a": (), "": ()})
def test_each_tensor_of_any_name_belongs_to_one_layer(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    layers = find_layers(opened(folder, state))
    assert _owners(layers) == Counter(list(state))


def test_only_a_whole_part_of_a_name_is_a_weight(folder: Path) -> None:
    layers = layers_in(folder, zeros(**{"a.xweight": (2,), "a.xweight.b": (2,)}))
    assert set(layers) == {"a.xweight", "a.xweight.b"}


# --------------------------------------------------------------------------------------------------- ties and views


def test_case_19_tied_weights(folder: Path) -> None:
    model = nn.ModuleDict({"wte": nn.Embedding(6, 4), "head": nn.Conv1d(4, 6, 1), "again": nn.Conv1d(4, 6, 1)})
    state = model.state_dict()
    state["again.weight"] = state["head.weight"]
    state["wte.weight"] = state["head.weight"].view(6, 4)
    layers = layers_in(folder, state)
    assert layers["head"].tied_to == ("wte.weight", "again.weight")
    assert layers["again"].tied_to == ("wte.weight", "head.weight")
    assert layers["wte"].tied_to == ("head.weight", "again.weight")
    assert all("tied" in layer.tags for layer in layers.values())
    assert opened(folder, state).totals().numel == 24 + 6 + 6


def test_views_are_tagged_with_both_sizes(folder: Path) -> None:
    big, bias = torch.zeros(1000, 6, 1), torch.zeros(4)
    layers = layers_in(folder, {"a.weight": big[:4], "a.bias": bias, "b.weight": torch.zeros(4, 6, 1), "b.bias": bias})
    assert layers["a"].tags == ("assumed", "tied", "view")
    assert layers["a"].notes[-1] == "a view of 96 bytes in a storage of 24,000"
    assert "view" not in layers["b"].tags


def test_all_that_share_a_storage_say_so(folder: Path) -> None:
    base = torch.zeros(50, 8)
    layers = layers_in(
        folder, {"emb.weight": base, "head.weight": base[:40], "tail.weight": base[40:], "x.weight": base + 0}
    )
    assert {name for name, layer in layers.items() if "view" in layer.tags} == {"emb", "head", "tail"}
    assert layers["emb"].notes[-1] == "in one storage with head.weight, tail.weight"
    assert layers["tail"].notes[-1] == "in one storage with emb.weight, head.weight"
    flat = torch.zeros(60)
    own = layers_in(folder, {"a.weight": flat[:4].view(2, 2), "a.bias": flat[4:6], "b.weight": flat[6:10].view(2, 2)})
    assert own["a"].notes[-1] == "in one storage with b.weight"
    assert own["b"].notes[-1] == "in one storage with a.weight, a.bias"
    many = layers_in(folder, {f"l{i}.weight": flat[6 * i : 6 * i + 6].view(3, 2) for i in range(9)})
    assert many["l0"].notes[-1] == "in one storage with l1.weight, l2.weight, l3.weight and others"


# ------------------------------------------------------------------------------------------------------ choosing

CHOICE = zeros(
    **{"module.conv[0].weight": (4, 6, 1), "module.conv0.weight": (4, 6, 1), "module.conv0.bias": (4,)},
    **{"module.up.weight": (6, 4, 3), "module.up.bias": (4,), "module.norm.weight": (4,), "module.token": (1, 1, 4)},
    **{"module.fc.parametrizations.weight.original0": (4, 1), "module.fc.parametrizations.weight.original1": (4, 6)},
)


@pytest.fixture(scope="module")
def choice(folder: Path) -> tuple[Layer, ...]:
    return find_layers(opened(folder, CHOICE))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("conv*", ["conv[0]", "conv0"]),
        ("*", ["conv[0]", "conv0", "up", "norm", "token", "fc"]),
        ("conv[0]", ["conv[0]"]),
        ("module.conv[0]", ["conv[0]"]),
        ("conv?", ["conv0"]),
        ("up", ["up"]),
        ("module.up", ["up"]),
        ("module.*", ["conv[0]", "conv0", "up", "norm", "token", "fc"]),
        ("module.fc", ["fc"]),
        ("fc.parametrizations.weight.original0", ["fc"]),
        ("conv0.bias", ["conv0"]),
        ("module.conv0.weight", ["conv0"]),
        ("token", ["token"]),
        ("module.tok*", ["token"]),
    ],
)
def test_choosing_by_name(choice: tuple[Layer, ...], pattern: str, names: list[str]) -> None:
    assert [layer.name for layer in select(choice, [pattern])] == names


def test_several_names_keep_the_stored_order(choice: tuple[Layer, ...]) -> None:
    assert [layer.name for layer in select(choice, ["up", "conv0", "up"])] == ["conv0", "up"]


def test_choosing_by_kind(choice: tuple[Layer, ...]) -> None:
    assert [layer.name for layer in select(choice, kinds=["CONV1D"])] == ["conv[0]", "conv0"]
    assert [layer.name for layer in select(choice, kinds=["convt*", "norm"])] == ["up", "norm"]
    assert [layer.name for layer in select(choice, ["*0*"], kinds=["linear", "conv*"])] == ["conv[0]", "conv0"]
    assert [layer.name for layer in select(choice, pointwise=True)] == ["conv[0]", "conv0"]
    assert [layer.name for layer in select(choice)] == [layer.name for layer in choice if layer.kind in LISTED]
    assert select(choice, everything=True) == list(choice)
    assert select(choice, ["up"], pointwise=True) == []


def test_what_is_not_there(choice: tuple[Layer, ...]) -> None:
    with pytest.raises(NotThere, match=r"no layer matches 'conv1'; the closest are: conv0"):
        select(choice, ["conv1"])
    with pytest.raises(NotThere, match=r"no layer matches 'conv'; layer='\*conv\*' matches 2 layers: conv\[0\], conv0"):
        select(choice, ["conv"])
    assert len(select(choice, ["*conv*"])) == 2
    with pytest.raises(NotThere, match=r"no layer matches '\*conv'; the closest are: conv\[0\]"):
        select(choice, ["*conv"])
    with pytest.raises(NotThere, match=r"no layer matches 'conv'; the closest are: conv\[0\]"):
        select_one(choice, "conv")
    with pytest.raises(NotThere, match=r"no layer matches 'to\[x\]'; "):
        select(choice, ["conv0", "to[x]"])
    with pytest.raises(NotThere, match=r"no layer is of kind 'conv9d'; the kinds are: Conv1d, ConvTranspose1d, Norm"):
        select(choice, kinds=["Conv9d"])


def test_the_root_module_has_names_too(folder: Path) -> None:
    layers = find_layers(opened(folder, nn.Linear(6, 4).state_dict()))
    for name in ("(root)", ".", "weight"):
        assert [layer.name for layer in select(layers, [name])] == [""]
    with pytest.raises(NotThere, match=r"the closest are: \(root\)"):
        select(layers, ["nothing"])


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("module.conv.weight", "conv"),
        ("module._orig_mod.0.weight", "0"),
        ("_orig_mod.module.0.weight", "0"),
        ("model._orig_mod.conv.weight", "model.conv"),
        ("net.module.conv.weight", "net.module.conv"),
    ],
)
def test_case_6_wrapped_names(folder: Path, key: str, name: str) -> None:
    layers = find_layers(opened(folder, zeros(**{key: (4, 6, 1), "bare.weight": (4, 6, 1)})))
    assert [layer.name for layer in layers] == [name, "bare"]
    for way in (name, key, key.removesuffix(".weight")):
        assert [layer.name for layer in select(layers, [way])] == [name]
