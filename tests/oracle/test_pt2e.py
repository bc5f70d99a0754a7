"""Models of `convert_pt2e`, which keep the float weights that their graph no longer reads beside the integer ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from convinspect.records import Doubt
from support.in_process import run

pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
x86 = pytest.importorskip("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")

X = (torch.randn(2, 6, 4, 4),)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quantized = nn.Conv2d(6, 6, 1)
        self.left = nn.Conv2d(6, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(self.quantized(x))  # type: ignore[no-any-return]


def converted(every: bool) -> Any:
    config = x86.get_default_x86_inductor_quantization_config()
    quantizer = x86.X86InductorQuantizer().set_global(config)
    if not every:
        quantizer = x86.X86InductorQuantizer().set_module_name_qconfig("quantized", config)
    prepared = pt2e.prepare_pt2e(torch.export.export(Model().eval(), X).module(), quantizer)
    prepared(*X)
    return pt2e.convert_pt2e(prepared)


def doubts(path: Path) -> dict[str, bool]:
    layers = {layer.name: layer for layer in find_layers(open_checkpoint(path))}
    return {name: Doubt.SUPERSEDED in layers[name].doubts for name in ("quantized", "left")}


@pytest.mark.parametrize("every", [True, False])
def test_a_weight_that_nothing_reads_is_in_doubt(tmp_path: Path, every: bool) -> None:
    model = converted(every)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    exported = torch.export.export(model, X)
    torch.export.save(exported, tmp_path / "a.pt2")
    read = {node.name: bool(node.users) for node in exported.graph.nodes if node.op == "placeholder"}
    live = {name: read[f"p_{name}_weight"] for name in ("quantized", "left")}
    # The graph tells which weights are read. Two of one shape cannot be told apart in a state_dict, so both are left.
    assert doubts(tmp_path / "a.pt2") == {name: not alive for name, alive in live.items()}
    assert doubts(tmp_path / "a.pt") == {"quantized": True, "left": True}
    done = run("convert", tmp_path / "a.pt", "--to", "linear", "--from", "conv2d", "-o", tmp_path / "b.pt")
    assert (done.returncode, (tmp_path / "b.pt").exists(), "_frozen_param" in done.stderr) == (2, False, True)
