"""Keys that peft names differently in a model and in what it saves: the rename that `diff` gives, carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import convinspect
from support.diffing import Holder, typed

ROOT = "base_model.model."
SAVED: dict[str, dict[str, tuple[int, ...]]] = {
    "lora": {f"{layer}.lora_{half}.weight": (4, 4) for layer in ("a.q", "a.v", "b.q") for half in "AB"},
    "magnitudes": {"q.lora_A.weight": (2, 4), "q.lora_B.weight": (4, 2), "q.lora_magnitude_vector": (4,)},
    "parameters": {f"q.hada_w{one}_{two}": (4, 2) for one in "12" for two in "ab"},
    "embedding": {"e.lora_embedding_A": (2, 9), "e.lora_embedding_B": (4, 2)},
    "ia3": {"q.ia3_l": (4, 1), "q.bias": (4,)},
    "rotation": {"q.oft_R.weight": (2, 6)},
}


def named(key: str, adapter: str) -> str:
    """A saved key as peft's model has it (`_insert_adapter_name_into_state_dict`, and DoRA's ending)."""
    if key.endswith("magnitude_vector"):
        return f"{key}.{adapter}.weight"
    word, _, leaf = key.rpartition(".")
    if leaf == "weight" and ("lora_" in word or "oft_" in word):
        return f"{word}.{adapter}.weight"
    return f"{key}.{adapter}" if "_" in leaf else key


def converted(folder: Path, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """A after the one command that `diff` gives to have B's keys."""
    torch.save(a, folder / "a.pt")
    torch.save(b, folder / "b.pt")
    assert len(typed(folder, "a.pt", "b.pt")) == 1
    after: dict[str, Any] = torch.load(folder / "a_converted.pt")
    assert after.keys() == b.keys()
    (folder / "a_converted.pt").unlink()
    return after


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("adapters", [(None, "default"), ("default", None), ("default", "my_style")])
def test_the_name_of_an_adapter_is_put_in_taken_out_or_exchanged(
    tmp_path: Path, kind: str, adapters: tuple[str | None, str | None]
) -> None:
    sides = [
        {ROOT + (named(key, adapter) if adapter else key): torch.rand(shape) for key, shape in SAVED[kind].items()}
        for adapter in adapters
    ]
    after = converted(tmp_path, sides[0], sides[1])
    assert all(torch.equal(one, other) for one, other in zip(after.values(), sides[0].values(), strict=True))
    Holder({key: tuple(value.shape) for key, value in sides[1].items()}).load_state_dict(after)


def test_the_command_is_a_rule_for_each_word_whatever_the_number_of_layers(tmp_path: Path) -> None:
    saved = {f"{ROOT}layers.{i}.q.lora_{half}.weight": torch.rand(2, 2) for i in range(12) for half in "AB"}
    torch.save(saved, tmp_path / "a.pt")
    torch.save({named(key, "default"): value for key, value in saved.items()}, tmp_path / "b.pt")
    report = convinspect.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    rules = ("*.lora_A.weight=*.lora_A.default.weight", "*.lora_B.weight=*.lora_B.default.weight")
    assert (report.verdict, report.rules) == ("loads after converting", rules)


def test_a_wrapped_layer_and_one_that_is_trained_whole(tmp_path: Path) -> None:
    plain = {f"{layer}.{leaf}": torch.rand(4) for layer in ("a.q", "a.v", "b.q", "head") for leaf in ("weight", "bias")}
    within = {"q": "base_layer.", "v": "", "head": "modules_to_save.default."}
    wrapped = {}
    for key, value in plain.items():
        layer, leaf = key.rsplit(".", 1)
        wrapped[f"{ROOT}{layer}.{within[layer.rpartition('.')[2]]}{leaf}"] = value
    converted(tmp_path, plain, wrapped)
    converted(tmp_path, wrapped, plain)


def test_two_adapters_for_one_name_are_left_apart(tmp_path: Path) -> None:
    saved = {f"{ROOT}q.lora_A.weight": torch.rand(2, 4)}
    torch.save(saved, tmp_path / "a.pt")
    both = {named(key, adapter): value for key, value in saved.items() for adapter in ("default", "other")}
    torch.save(both, tmp_path / "b.pt")
    for pair in (("a.pt", "b.pt"), ("b.pt", "a.pt")):
        report = convinspect.diff(*(tmp_path / name for name in pair))
        assert (report.verdict, len(report.obstacles)) == ("does not load", 3)


@pytest.mark.parametrize("kind", ["LoraConfig", "dora", "LoHaConfig", "LoKrConfig", "saved", "embedding", "OFTConfig"])
def test_peft_loads_what_the_command_made_of_its_own_file(tmp_path: Path, kind: str) -> None:
    peft = pytest.importorskip("peft")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.conv, self.emb = nn.Linear(8, 6), nn.Conv2d(8, 6, 1), nn.Embedding(10, 8)

    words: dict[str, Any] = {"target_modules": ["q", "conv"]}
    if kind == "saved":
        words = {"target_modules": ["conv"], "modules_to_save": ["q"]}
    elif kind == "embedding":
        words = {"target_modules": ["emb", "q"]}
    elif kind == "dora":
        words["use_dora"] = True
    elif kind == "OFTConfig":
        words |= {"oft_block_size": 2, "r": 0}
    config = getattr(peft, kind if kind.endswith("Config") else "LoraConfig")
    model = peft.get_peft_model(Model(), config(**({"r": 2} | words)))
    saved = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    whole = model.state_dict()
    stored = {value.data_ptr() for value in saved.values()}
    full = {key: value for key, value in whole.items() if value.data_ptr() in stored}
    assert len(full) == len(saved)
    fresh = {key: torch.rand_like(value) for key, value in saved.items()}
    after = converted(tmp_path, fresh, full)
    model.load_state_dict(whole | after)
    for key, value in peft.get_peft_model_state_dict(model, save_embedding_layers=False).items():
        assert torch.equal(value, fresh[key]), key
    converted(tmp_path, full, fresh)
