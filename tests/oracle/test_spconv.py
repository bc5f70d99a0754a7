"""Files of spconv's sparse convolutions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convinspect.layouts import KnownFrom, Maker
from support.makers import facts, layers_at


def test_a_whole_model_of_spconv_names_its_layout(tmp_path: Path) -> None:
    spconv = pytest.importorskip("spconv.pytorch")
    model = torch.nn.Sequential(spconv.SubMConv3d(4, 16, 3, bias=False), spconv.SubMConv3d(16, 16, 1))
    torch.save(model, tmp_path / "m.pt")
    layers = layers_at(tmp_path / "m.pt")
    assert facts(layers["0"]) == ("Conv3d", 4, 16, (3, 3, 3))
    assert layers["1"].layout == (Maker.SPCONV_2, KnownFrom.CLASS)
    assert layers["1"].evidence == "module"
