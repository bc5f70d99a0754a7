"""Norms and pruning of what a weight is computed from, and hooks on a parametrization: such layers stay, named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from convinspect.modules import swap_patches, swap_pointwise

pytestmark = pytest.mark.filterwarnings("ignore")

PRUNE: Any = prune


def inside(layer: Any, change: Callable[[Any], Any]) -> Any:
    """The layer under a norm whose list of parametrizations is changed."""
    change(parametrizations.weight_norm(layer).parametrizations.weight)
    return layer


NESTED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "weight_norm, pruned": (lambda layer: PRUNE.l1_unstructured(weight_norm(layer), "weight_v", 0.5), "weight_v"),
    "weight_norm, its lengths pruned": (
        lambda layer: PRUNE.l1_unstructured(weight_norm(layer), "weight_g", 0.5), "weight_g",
    ),
    "pruned, then weight_norm": (
        lambda layer: weight_norm(PRUNE.l1_unstructured(layer, "weight", 0.5), "weight_orig"), "weight_orig",
    ),
    "pruned, then spectral_norm": (
        lambda layer: spectral_norm(PRUNE.l1_unstructured(layer, "weight", 0.5), "weight_orig"), "weight_orig",
    ),
    "spectral_norm, pruned": (
        lambda layer: PRUNE.l1_unstructured(spectral_norm(layer), "weight_orig", 0.5), "weight_orig",
    ),
    "weight_norm, then spectral_norm": (lambda layer: spectral_norm(weight_norm(layer), "weight_v"), "weight_v"),
    "a parametrization, pruned": (
        lambda layer: inside(layer, lambda listed: PRUNE.l1_unstructured(listed, "original1", 0.5)), "original1_mask",
    ),
    "a parametrization, its lengths pruned": (
        lambda layer: inside(layer, lambda listed: PRUNE.l1_unstructured(listed, "original0", 0.5)), "original0_mask",
    ),
    "a hook on a parametrization": (
        lambda layer: inside(layer, lambda listed: listed.register_forward_hook(lambda *results: results[2] * 2)),
        "_forward_hooks",
    ),
    "a buffer in a parametrization": (
        lambda layer: inside(layer, lambda listed: listed.register_buffer("kept", torch.ones(1))), "kept",
    ),
}  # fmt: skip
LAYERS: dict[str, tuple[Callable[[], Any], Callable[[nn.Module], Any], tuple[int, ...]]] = {
    "patches": (lambda: nn.Conv2d(3, 4, 2, 2), swap_patches, (2, 3, 4, 4)),
    "pointwise": (lambda: nn.Conv1d(3, 4, 1), swap_pointwise, (2, 3, 5)),
    "a Linear": (lambda: nn.Linear(3, 4), lambda model: swap_pointwise(model, "conv2d"), (2, 3)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("nested", NESTED)
def test_what_is_computed_in_two_steps_stays(nested: str, layer: str) -> None:
    (make, swap, shape), (wrap, word) = LAYERS[layer], NESTED[nested]
    wrapped = wrap(make().double()).eval()
    x = torch.randn(shape, dtype=torch.float64)
    # Twice, since a hook of PyTorch's may take what another computed one step before.
    wrapped(x)
    wanted = wrapped(x)
    swaps = swap(nn.Sequential(wrapped))
    assert swaps.swapped == ()
    assert word in swaps.left[0].reason
    # Where pruning leaves a vector of zeros, its direction is no number.
    torch.testing.assert_close(swaps.model(x), wanted, rtol=0, atol=0, equal_nan=True)
