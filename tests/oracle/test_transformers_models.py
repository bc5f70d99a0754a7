"""Real architectures in their own code: their pointwise layers become Linear in the file, load strictly into the model
with Linear in their place, and give the same outputs; and back gives the same bytes.

They are built small from configurations, with random weights. Skipped where the package is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.like import plan_like
from convinspect.converting.plan import Request, plan
from convinspect.layers.find import find_layers
from convinspect.writing.same_format import save_edits

transformers = pytest.importorskip("transformers", reason="needs transformers, which CI does not install")


class Turned(nn.Module):
    """A Linear where a Conv1d stood: the model's code hands it (N, C, L)."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.inner = nn.Linear(conv.in_channels, conv.out_channels, conv.bias is not None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned: torch.Tensor = self.inner(x.transpose(1, 2)).transpose(1, 2)
        return turned


def vits() -> tuple[Any, Callable[[Any], torch.Tensor]]:
    config = transformers.VitsConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=24, flow_size=16,
        spectrogram_bins=9, prior_encoder_num_flows=1, posterior_encoder_num_wavenet_layers=1,
        prior_encoder_num_wavenet_layers=1, wavenet_kernel_size=3, upsample_initial_channel=16,
        upsample_rates=[2, 2], upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]], duration_predictor_num_flows=2, duration_predictor_filter_channels=12,
        depth_separable_num_layers=1,
    )  # fmt: skip
    tokens = torch.arange(1, 9)[None]

    def run(model: Any) -> torch.Tensor:
        torch.manual_seed(0)
        return model(input_ids=tokens).waveform  # type: ignore[no-any-return]

    return transformers.VitsModel(config), run


def conformer() -> tuple[Any, Callable[[Any], torch.Tensor]]:
    config = transformers.Wav2Vec2ConformerConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, conv_dim=[8, 8],
        conv_kernel=[4, 3], conv_stride=[2, 2], num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
        conv_depthwise_kernel_size=5,
    )  # fmt: skip
    sound = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    return transformers.Wav2Vec2ConformerModel(config), lambda model: model(sound).last_hidden_state


def pointwise(model: nn.Module) -> dict[str, nn.Conv1d]:
    """What truly is convertible, as the live modules say."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv1d)
        and module.kernel_size == (1,)
        and (module.stride, module.padding, module.groups) == ((1,), (0,), 1)
        and not isinstance(module.weight, property)
    }


@pytest.mark.parametrize("make", [vits, conformer])
def test_conv1d_models_run_on_linear(
    tmp_path: Path, make: Callable[[], tuple[Any, Callable[[Any], torch.Tensor]]]
) -> None:
    torch.manual_seed(0)
    model, run = make()
    model.eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with torch.no_grad():
        expected = run(model)
    true = pointwise(model)
    assert true
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    layers = find_layers(checkpoint)
    planned = plan(layers, Request("Linear", names=tuple(true)))
    assert {one.layer.name for one in planned.conversions} == set(true)
    save_edits(checkpoint, planned.edits, tmp_path / "linear.pt", lambda done: None)

    for name in true:
        parent = model.get_submodule(name.rpartition(".")[0])
        plain = torch.nn.utils.parametrize.is_parametrized(true[name])
        turned = Turned(true[name])
        if plain:
            torch.nn.utils.parametrizations.weight_norm(turned.inner)
        setattr(parent, name.rpartition(".")[2], turned)
    state = torch.load(tmp_path / "linear.pt", weights_only=True)
    renamed = {_inner(key, true): value for key, value in state.items()}
    model.load_state_dict(renamed, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(run(model), expected, rtol=1e-4, atol=1e-4)

    linear = open_checkpoint(tmp_path / "linear.pt")
    back = plan(find_layers(linear), Request("Conv1d", names=tuple(true)))
    save_edits(linear, back.edits, tmp_path / "back.pt", lambda done: None)
    assert (tmp_path / "back.pt").read_bytes() == (tmp_path / "model.pt").read_bytes()


def _inner(key: str, names: Any) -> str:
    """`conv.weight` → `conv.inner.weight` for the layers that were turned."""
    owner = next((name for name in names if key.startswith(f"{name}.")), None)
    return key if owner is None else f"{owner}.inner{key.removeprefix(owner)}"


def test_gpt2_runs_on_linear(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        expected = model(tokens).logits
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    planned = plan(find_layers(checkpoint), Request("Linear", ("Conv1D (transformers)",)))
    convs = {name for name, module in model.named_modules() if type(module).__name__ == "Conv1D"}
    assert {one.layer.name for one in planned.conversions} == convs
    save_edits(checkpoint, planned.edits, tmp_path / "linear.pt", lambda done: None)
    for name in convs:
        old = model.get_submodule(name)
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], nn.Linear(*old.weight.shape))
    model.load_state_dict(torch.load(tmp_path / "linear.pt", weights_only=True), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-4, atol=1e-4)
    linear, original = open_checkpoint(tmp_path / "linear.pt"), open_checkpoint(tmp_path / "model.pt")
    names = {tensor.key: name for name, tensor in linear.tensors.items()}
    back = plan_like(find_layers(linear), names, original.tensors, find_layers(original))
    save_edits(linear, back.edits, tmp_path / "back.pt", lambda done: None)
    assert (tmp_path / "back.pt").read_bytes() == (tmp_path / "model.pt").read_bytes()
