"""Lines of PyTorch that `diff` gives, carried out: what it promises of them comes true."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import convinspect
from convinspect.showing.load_error import error_typed
from convinspect.showing.verdict import pytorch_lines


class Weight(nn.Module):
    """A module with one buffer."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.clone())


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("packed_in_a", [True, False])
def test_packed_float4_against_bytes_is_viewed(tmp_path: Path, suffix: str, packed_in_a: bool) -> None:
    """PyTorch 2.13 copies neither into the other, and takes the same bytes once they are viewed."""
    sides = [torch.arange(32, dtype=torch.uint8).reshape(4, 8)]
    sides.insert(0 if packed_in_a else 1, sides[0].view(torch.float4_e2m1fn_x2))
    paths = [tmp_path / f"{side}.{suffix}" for side in "ab"]
    for tensor, path in zip(sides, paths, strict=True):
        save_file({"weight": tensor}, path) if suffix == "safetensors" else torch.save({"weight": tensor}, path)
    report = convinspect.diff(*paths)
    assert report.loads_by_hand
    (line,) = pytorch_lines(report)
    sd = {"weight": sides[0]}
    with pytest.raises(RuntimeError, match="not implemented"):
        Weight(sides[1]).load_state_dict(sd)
    exec(line, {"torch": torch}, {"sd": sd})
    module = Weight(sides[1])
    assert str(module.load_state_dict(sd)) == "<All keys matched successfully>"
    assert torch.equal(module.state_dict()["weight"].view(torch.uint8), sides[0].view(torch.uint8))


def test_an_error_of_a_transposed_matrix_is_answered_with_the_line(tmp_path: Path) -> None:
    """Without a bias nothing but the shapes says that it is transposed, and that is said."""
    model = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 7, bias=False))
    sd = {key: tensor.t().contiguous() for key, tensor in model.state_dict().items()}
    torch.save(sd, tmp_path / "a.pt")
    with pytest.raises(RuntimeError) as raised:
        model.load_state_dict(sd)
    report = convinspect.diff(tmp_path / "a.pt", error=raised.value)
    assert report.loads_by_hand
    assert all("if it is the same matrix transposed" in str(answer.reason) for answer in report.answers)
    wanted = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for line in error_typed(report):
        if line.startswith("  "):
            exec(line.strip(), {}, {"sd": sd})
    assert str(model.load_state_dict(sd)) == "<All keys matched successfully>"
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in model.state_dict().items())
