"""The shape that a packed weight records is a claim, which its bytes must be able to hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from convinspect.layers.packing import logical_weight


@pytest.mark.parametrize("shape", [(4, 8), (4, 7), (4, 128), (4, 129), (2**30, 2**30), (1, 1)])
def test_a_recorded_shape_must_fit_the_packed_bytes(tmp_path: Path, shape: tuple[int, int]) -> None:
    tensors = {
        "a.weight_packed": torch.zeros(4, 4, dtype=torch.int32),
        "a.weight_scale": torch.ones(4, 1),
        "a.weight_shape": torch.tensor(shape),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    (layer,) = find_layers(open_checkpoint(tmp_path / "a.safetensors"))
    count = shape[0] * shape[1]
    # 16 integers of 32 bits hold as many numbers at least, and 512 at most.
    assert (logical_weight(layer) == count) == (16 <= count <= 512)
