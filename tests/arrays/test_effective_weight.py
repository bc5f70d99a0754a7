"""The kernel of a weight-normed, spectral-normed or pruned layer, against PyTorch's forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, prune

from convinspect.arrays.effective import effective_weight
from convinspect.errors import BrokenFile, CannotShow
from convinspect.layers.norms import with_norm_dims
from convinspect.records import Layer, Storage, Tensor

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> None:
    torch.manual_seed(0)


def stored(file: Path, values: torch.Tensor) -> Tensor:
    raw = values.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    file.write_bytes(raw)
    dtype, contiguous = str(values.dtype).removeprefix("torch."), values.contiguous()
    storage = Storage(file, "0", len(raw), len(raw), 0)
    return Tensor(file.name, dtype, tuple(values.shape), contiguous.stride(), 0, storage)


def layer_of(folder: Path, module: torch.nn.Module, norm: str | None, **changes: object) -> Layer:
    tensors = {key: stored(folder / f"{norm}.{key}", v) for key, v in module.state_dict().items()}
    carriers = ["weight", "weight_v", "weight_orig"]
    carriers += ["parametrizations.weight.original1", "parametrizations.weight.original"]
    # In spectral norm `weight_v` is the vector, so the largest is the kernel.
    weight = max((tensors[k] for k in carriers if k in tensors), key=lambda t: t.numel)
    kind = type(module).__name__.removeprefix("Parametrized")
    layer = Layer("conv", kind, "module", tensors, weight, norm=norm)
    layer = with_norm_dims(layer, {})
    return layer._replace(**changes)  # type: ignore[arg-type]


def inputs(module: torch.nn.Module) -> torch.Tensor:
    weight = next(iter(module.parameters()))
    if isinstance(module, torch.nn.Linear):
        return torch.ones(1, module.in_features, dtype=weight.dtype)
    assert isinstance(module.in_channels, int)
    return torch.ones(1, module.in_channels, 9, dtype=weight.dtype)


def check_effective(folder: Path, module: torch.nn.Module, norm: str | None) -> None:
    """Our kernel is the one that a forward pass in eval mode computes."""
    x = inputs(module)
    for _ in range(3):
        module(x)
    module.eval()(x)
    expected = module.weight
    assert isinstance(expected, torch.Tensor)
    ours = effective_weight(layer_of(folder, module, norm))
    assert ours.shape == tuple(expected.shape)
    bound = 16 * torch.finfo(expected.dtype).eps
    torch.testing.assert_close(torch.from_numpy(ours.copy()), expected.detach(), rtol=bound, atol=bound)


MODULES: dict[str, Callable[[], torch.nn.Module]] = {
    "pointwise": lambda: torch.nn.Conv1d(6, 4, 1),
    "k = 3": lambda: torch.nn.Conv1d(6, 4, 3),
    "Linear": lambda: torch.nn.Linear(6, 4),
    "transposed": lambda: torch.nn.ConvTranspose1d(6, 4, 3),
    "float64": lambda: torch.nn.Conv1d(6, 4, 1).double(),
    "square": lambda: torch.nn.ConvTranspose1d(5, 5, 1),
}


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("wrap", [torch.nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("name", MODULES)
def test_weight_norm(tmp_path: Path, name: str, wrap: Callable[..., torch.nn.Module], dim: int | None) -> None:
    module = wrap(MODULES[name](), dim=dim)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    check_effective(tmp_path, module, "weight_norm")


@pytest.mark.parametrize("wrap", [torch.nn.utils.spectral_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("name", MODULES)
def test_spectral_norm(tmp_path: Path, name: str, wrap: Callable[..., torch.nn.Module]) -> None:
    check_effective(tmp_path, wrap(MODULES[name]()), "spectral_norm")


@pytest.mark.parametrize("name", MODULES)
def test_pruned_and_plain(tmp_path: Path, name: str) -> None:
    check_effective(tmp_path, MODULES[name](), None)
    module = MODULES[name]()
    prune.RandomUnstructured.apply(module, "weight", 0.4)  # type: ignore[no-untyped-call]
    check_effective(tmp_path, module, "pruned")


def test_spectral_norm_before_v_was_stored(tmp_path: Path) -> None:
    module = torch.nn.utils.spectral_norm(torch.nn.Conv1d(6, 4, 1), n_power_iterations=60)
    module(torch.zeros(1, 6, 2))
    module.eval()
    layer = layer_of(tmp_path, module, "spectral_norm")
    old = {key: tensor for key, tensor in layer.tensors.items() if key != "weight_v"}
    expected = module.weight.detach().numpy()
    np.testing.assert_allclose(effective_weight(layer._replace(tensors=old)), expected, rtol=1e-4)
    kept = stored(tmp_path / "weight", torch.full((4, 6, 1), 7.0))
    assert np.all(effective_weight(layer._replace(tensors={**old, "weight": kept})) == 7)


def test_half_precision_is_rounded_once(tmp_path: Path) -> None:
    module = torch.nn.utils.weight_norm(torch.nn.Conv1d(6, 4, 1).to(torch.bfloat16))
    ours = effective_weight(layer_of(tmp_path, module, "weight_norm"))
    state = module.state_dict()
    g, v = state["weight_g"].double(), state["weight_v"].double()
    expected = torch._weight_norm(v, g, 0).to(torch.bfloat16)
    assert ours.tobytes() == expected.view(torch.uint8).numpy().tobytes()


def test_incomplete_layers_are_named(tmp_path: Path) -> None:
    normed = layer_of(tmp_path, torch.nn.utils.weight_norm(torch.nn.Conv1d(6, 4, 1)), "weight_norm")
    spectral = layer_of(tmp_path, torch.nn.utils.spectral_norm(torch.nn.Conv1d(6, 4, 1)), "spectral_norm")
    for layer, change in (
        (normed, {"weight_v": None}),
        (normed, {"weight_g": spectral.tensors["weight_u"]}),
        (spectral, {"weight_u": None}),
        (spectral, {"weight_u": normed.tensors["bias"], "weight_v": normed.tensors["bias"]}),
        (spectral, {"weight_u": spectral.tensors["weight_v"], "weight_v": spectral.tensors["weight_v"]}),
        (spectral._replace(norm="pruned"), {"weight_mask": normed.tensors["weight_g"]}),
    ):
        tensors = {key: t for key, t in {**layer.tensors, **change}.items() if t is not None}
        with pytest.raises(BrokenFile, match="layer conv"):
            effective_weight(layer._replace(tensors=tensors))
    with pytest.raises(CannotShow, match="not recorded"):
        effective_weight(normed._replace(norm="parametrized"))
