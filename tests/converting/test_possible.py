"""What layers could become. The oracle is `convert` itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import convinspect
from convinspect.converting.possible import Change, asked_with, possible
from convinspect.errors import ConvInspectError
from convinspect.kinds import option_of
from convinspect.records import Layer
from support.paths import FIXTURES

FILES = ["convs.pt", "tied.pt", "lora.safetensors", "qwen2_vl.safetensors", "gpt2_names.pt", "weight_norm_old.pt"]


def as_any(name: str) -> Any:
    """A kind's name, which the annotations of `convert` want as one of a few."""
    return name


def asked_of(path: Path, name: str) -> tuple[Layer, dict[int, tuple[Change, ...]], str]:
    """One layer, what each could become, and why this one stays."""
    checkpoint = convinspect.open(path)
    layers = convinspect.find_layers(checkpoint)
    (layer,) = (each for each in layers if each.name == name)
    found = possible(checkpoint, layers, [layer])
    return layer, dict(found.changes), found.reasons.get(id(layer), "")


@pytest.mark.parametrize("name", FILES)
def test_one_layer_is_answered_as_all_are(name: str) -> None:
    """So `browse`, which asks when a layer is looked at, and `report`, which asks for all, cannot disagree."""
    checkpoint = convinspect.open(FIXTURES / name)
    layers = convinspect.find_layers(checkpoint)
    every = possible(checkpoint, layers)
    for layer in layers:
        for asked in ([layer], asked_with(layer, layers)):
            one = possible(checkpoint, layers, asked)
            assert one.changes.get(id(layer)) == every.changes.get(id(layer))
            assert one.reasons.get(id(layer)) == every.reasons.get(id(layer))
    assert every.changes


@pytest.mark.parametrize("name", FILES)
def test_each_change_is_what_convert_makes(name: str) -> None:
    checkpoint = convinspect.open(FIXTURES / name)
    layers = convinspect.find_layers(checkpoint)
    for layer in layers:
        for change in possible(checkpoint, layers, [layer]).changes.get(id(layer), ()):
            way = change.way
            to, origins = as_any(option_of(way.to)), [as_any(option_of(kind)) for kind in way.kinds]
            job = convinspect.convert(
                checkpoint, None, to=to, from_=origins, layer=[layer.name or "(root)", *way.along],
                patches=way.patches, dry_run=True,
            )  # fmt: skip
            made = {each.layer.name: each for each in job.plan.conversions}
            assert made[layer.name].new_shape == change.shape
            assert set(made) == {layer.name, *way.along}


def test_what_must_change_together_is_named_together() -> None:
    layer, changes, reason = asked_of(FIXTURES / "tied.pt", "first")
    assert [change.way.along for change in changes[id(layer)]] == [("second",)] * 2
    assert not reason
    layer, changes, reason = asked_of(FIXTURES / "lora.safetensors", "lora_unet_proj_in.lora_up")
    assert {change.way.along for change in changes[id(layer)]} == {("lora_unet_proj_in.lora_down",)}


def test_what_is_tied_to_another_kind_or_to_many_says_so(tmp_path: Path) -> None:
    _, changes, reason = asked_of(FIXTURES / "tied.pt", "head")
    assert not changes
    assert "embed (Embedding)" in reason
    weight = torch.randn(4, 3, 1)
    torch.save({f"c{number}.weight": weight for number in range(9)}, tmp_path / "many.pt")
    _, changes, reason = asked_of(tmp_path / "many.pt", "c0")
    assert not changes
    assert "tied to c1.weight" in reason


def test_what_convert_refuses_of_a_file_is_refused_of_its_layers(tmp_path: Path) -> None:
    """Of state that belongs to no parameter a plan of the layers alone knows nothing."""
    conv = nn.Conv1d(4, 4, 1, bias=False)
    state = {"state": {0: {"momentum_buffer": torch.zeros(3, 5)}}, "param_groups": [{"params": [0], "lr": 0.1}]}
    torch.save({"model": conv.state_dict(), "optimizer": state}, tmp_path / "odd.pt")
    checkpoint = convinspect.open(tmp_path / "odd.pt")
    layers = convinspect.find_layers(checkpoint)
    with pytest.raises(ConvInspectError) as caught:
        convinspect.convert(checkpoint, None, to="linear", dry_run=True)
    found = possible(checkpoint, layers, layers)
    assert not found.changes
    assert found.refused is not None
    assert found.refused.problem == caught.value.problem
