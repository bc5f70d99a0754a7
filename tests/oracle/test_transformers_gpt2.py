"""GPT-2, whose square matrices are stored (in, out): turned to Linear it loads and gives the same outputs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support.in_process import run
from support.verifying import report_of

transformers = pytest.importorskip("transformers", reason="needs transformers")

NEUTRAL = {"c_attn": "first", "c_proj": "second", "c_fc": "third", "lm_head": "last"}
"""Names that say nothing of how a matrix lies."""


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=8, n_inner=8, vocab_size=11, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def with_linear(model: nn.Module) -> nn.Module:
    """The same network with Linear where it has transformers' Conv1D, and other numbers."""
    for name, child in model.named_children():
        if type(child).__name__ == "Conv1D":
            weight: Any = child.weight
            setattr(model, name, nn.Linear(weight.shape[0], weight.shape[1]))
        else:
            with_linear(child)
    return model


def renamed(state: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {".".join(names.get(part, part) for part in key.split(".")): value for key, value in state.items()}


@pytest.mark.parametrize("names", [{}, NEUTRAL], ids=["own", "neutral"])
def test_turned_gpt2_loads_and_gives_the_same_outputs(tmp_path: Path, names: dict[str, str]) -> None:
    model = gpt2()
    linear = with_linear(copy.deepcopy(model))
    torch.save(renamed(model.state_dict(), names), tmp_path / "a.pt")
    torch.save(renamed(linear.state_dict(), names), tmp_path / "b.pt")
    tokens = torch.arange(10)[None]
    same = {}
    for words in ((), ("--turn-square",)):
        done = run(
            "convert", "a.pt", "--like", "b.pt", "-o", "c.pt", "--force", *words, "--format", "json", folder=tmp_path
        )
        assert done.returncode == 0, done.stderr
        state = renamed(torch.load(tmp_path / "c.pt"), {new: old for old, new in names.items()})
        linear.load_state_dict(state, strict=True)
        with torch.no_grad():
            same[words] = torch.allclose(linear(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-5)
        # Its own names tell that the square ones lie as the others do, others' names do not.
        assert len(json.loads(done.stdout)["maybe_transposed"]) == (6 if names and not words else 0)
        assert report_of(tmp_path / "a.pt", tmp_path / "c.pt").equal
    assert same == {(): not names, ("--turn-square",): True}
