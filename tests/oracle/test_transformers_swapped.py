"""transformers' `Conv1D`, whose weight is transposed: it becomes a Linear exactly, or is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from convinspect.errors import CannotConvert
from convinspect.modules import swap_pointwise, transformers_to_linear

Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D
PRUNE: Any = prune
SIZES = [(6, 4), (4, 6), (6, 6), (1, 5), (5, 1), (1, 1)]


def drawn(wide_in: int, wide_out: int) -> Any:
    layer = Conv1D(wide_out, wide_in).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


@settings(deadline=None, max_examples=60)
@given(wide_in=st.integers(1, 7), wide_out=st.integers(1, 7), square=st.booleans(), alone=st.booleans())
def test_it_computes_the_same_with_the_same_gradients(wide_in: int, wide_out: int, square: bool, alone: bool) -> None:
    layer = drawn(wide_in, wide_in if square else wide_out)
    x = torch.randn(2, 3, wide_in, dtype=torch.float64, requires_grad=True)
    layer(x).square().sum().backward()
    linear: Any = transformers_to_linear(layer) if alone else swap_pointwise(nn.Sequential(layer)).model[0]  # type: ignore[index]
    assert type(linear) is nn.Linear
    assert linear.weight.is_contiguous()
    assert torch.equal(linear.weight, layer.weight.T)
    torch.testing.assert_close(linear.weight.grad, layer.weight.grad.T, rtol=0, atol=0)
    torch.testing.assert_close(linear(x), layer(x), rtol=1e-12, atol=1e-13)
    g = torch.randn_like(layer(x))
    before = torch.autograd.grad(layer(x), [x, layer.weight], g)
    after = torch.autograd.grad(linear(x), [x, linear.weight], g)
    torch.testing.assert_close(after[0], before[0], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(after[1], before[1].T, rtol=1e-12, atol=1e-13)


def test_a_shared_square_weight_is_transposed_once_and_stays_shared() -> None:
    model = nn.Sequential(drawn(5, 5), nn.ReLU(), drawn(5, 5))
    model[2].weight = model[0].weight
    x = torch.randn(3, 5, dtype=torch.float64)
    wanted = model(x)
    assert len(swap_pointwise(model).swapped) == 2
    assert model[0].weight is model[2].weight
    torch.testing.assert_close(model(x), wanted, rtol=1e-12, atol=1e-13)


def test_a_whole_gpt2_computes_the_same() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=16, vocab_size=50, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).double().eval()
    words = torch.randint(0, 50, (2, 7))
    wanted = model(words).logits
    assert len(swap_pointwise(model).swapped) == 4
    torch.testing.assert_close(model(words).logits, wanted, rtol=1e-10, atol=1e-12)


NORMS: list[Callable[[Any], Any]] = [
    weight_norm,
    lambda layer: weight_norm(layer, dim=1),
    spectral_norm,
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("sizes", [(6, 4), (6, 6)])
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_is_refused_by_name(norm: Callable[[Any], Any], sizes: tuple[int, int]) -> None:
    layer = norm(drawn(*sizes)).eval()
    x = torch.randn(3, 6, dtype=torch.float64)
    wanted = layer(x)
    model = nn.Sequential(layer)
    (left,) = swap_pointwise(model).left
    assert "norm" in left.reason
    assert "transpos" in left.reason
    assert torch.equal(model(x), wanted)
    with pytest.raises(CannotConvert, match="transpos"):
        transformers_to_linear(layer)


@pytest.mark.parametrize("sizes", SIZES)
def test_pruning_is_transposed_with_its_mask(sizes: tuple[int, int]) -> None:
    layer = drawn(*sizes)
    PRUNE.ln_structured(layer, "weight", 0.5, n=2, dim=0)
    PRUNE.random_unstructured(layer, "weight", 0.3)
    x = torch.randn(3, sizes[0], dtype=torch.float64)
    wanted = layer(x)
    linear = swap_pointwise(nn.Sequential(layer)).model[0]  # type: ignore[index]
    assert torch.equal(linear.weight_mask, layer.weight_mask.T)
    torch.testing.assert_close(linear(x), wanted, rtol=1e-12, atol=1e-13)
    PRUNE.remove(linear, "weight")
    torch.testing.assert_close(linear(x), wanted, rtol=1e-12, atol=1e-13)


def with_child() -> Any:
    layer = drawn(6, 6)
    layer.more = nn.Linear(6, 6)
    return layer


def with_hook() -> Any:
    layer = drawn(6, 6)
    layer.weight.register_hook(lambda grad: grad)
    return layer


def patched() -> Any:
    layer = drawn(6, 6)
    layer.forward = lambda x: x
    return layer


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (with_child, "modules of its own"),
        (with_hook, "hook of its own"),
        (patched, "forward was replaced"),
        (lambda: parametrizations.orthogonal(drawn(6, 6)), "computed by"),
    ],
)
def test_what_cannot_be_carried_is_refused_alone_too(make: Callable[[], Any], word: str) -> None:
    layer = make()
    keys = list(layer.state_dict())
    with pytest.raises(CannotConvert, match=word):
        transformers_to_linear(layer)
    assert list(layer.state_dict()) == keys
    assert parametrize.is_parametrized(layer) == ("parametrizations" in dict(layer.named_children()))


def test_both_live_on_after_converting_one() -> None:
    layer = drawn(6, 6)
    linear = transformers_to_linear(layer)
    seen: list[str] = []
    linear.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    x = torch.randn(3, 6, dtype=torch.float64)
    layer(x)
    linear(x)
    assert seen == ["Linear"]
    assert torch.equal(copy.deepcopy(linear)(x), linear(x))


def test_transformers_layers_are_listed_where_convolutions_are_wanted() -> None:
    net = nn.Sequential(Conv1D(4, 3))
    (skipped,) = swap_pointwise(net, "conv1d").left
    assert (skipped.name, skipped.kind) == ("0", "Conv1D")
    assert 'to="linear" first' in skipped.reason
    assert len(swap_pointwise(swap_pointwise(net).model, "conv1d").swapped) == 1


def test_transformers_conv1d() -> None:
    layer = Conv1D(4, 6).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    wanted = layer(x)
    linear = transformers_to_linear(layer)
    assert linear.weight.shape == (4, 6)
    assert linear.weight.is_contiguous()
    torch.testing.assert_close(linear(x), wanted, rtol=1e-12, atol=1e-13)
    swaps = swap_pointwise(nn.Sequential(layer))
    assert type(swaps.model[0]) is nn.Linear  # type: ignore[index]
    torch.testing.assert_close(swaps.model(x), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["Llama", "GPTNeoX"])
def test_transformers_models_run_on_convolutions(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config).double().eval()
    words = torch.randint(0, 50, (2, 7))
    wanted = model(words, labels=words)
    assert swap_pointwise(model, "conv1d").swapped
    found = model(words, labels=words)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-9, atol=1e-11)
    found.loss.backward()
