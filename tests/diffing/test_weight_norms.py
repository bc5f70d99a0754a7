"""The two names of a weight norm's halves, under prefixes: the renaming that `diff` gives, carried out and loaded."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import convinspect
from convinspect.showing.verdict import commands
from support.in_process import run

FUNCTIONS: dict[str, Any] = {"old": nn.utils.weight_norm, "new": nn.utils.parametrizations.weight_norm}


def model(made_by: str) -> nn.Module:
    norm = FUNCTIONS[made_by]
    layers = [norm(nn.Conv1d(4, 6, 1)), norm(nn.Linear(6, 3)), nn.LayerNorm(3)]
    return nn.ModuleDict({"dec": nn.Sequential(*layers), "rnn": norm(nn.LSTM(3, 3), "weight_hh_l0")})


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("prefixes", [("", ""), ("module.", ""), ("", "net."), ("gen.", "net."), ("net.", "")])
@pytest.mark.parametrize("made_by", [("old", "new"), ("new", "old")])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_the_renaming_makes_it_load(
    tmp_path: Path, made_by: tuple[str, str], prefixes: tuple[str, str], suffix: str
) -> None:
    models = [model(which) for which in made_by]
    paths = [tmp_path / f"{side}.{suffix}" for side in "ab"]
    for each, prefix, path in zip(models, prefixes, paths, strict=True):
        sd = {prefix + key: tensor.contiguous() for key, tensor in each.state_dict().items()}
        _save(sd, path)
    report = convinspect.diff(*paths)
    assert not report.obstacles
    typed = commands(report)
    result = paths[0]
    for command in typed:
        done = run(*shlex.split(command)[1:])
        assert done.returncode == 0, done.stderr
        result = tmp_path / f"a_converted.{suffix}"
    holder = models[1]
    for part in reversed(prefixes[1].rstrip(".").split(".") if prefixes[1] else []):
        holder = nn.ModuleDict({part: holder})
    assert str(holder.load_state_dict(_load(result))) == "<All keys matched successfully>"
    weights = [_effective(each) for each in models]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name])


def _effective(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that the modules compute with, which both functions make of their halves."""
    found = {}
    for name, each in module.named_modules():
        for hook in getattr(each, "_forward_pre_hooks", {}).values():
            hook(each, ())
        for leaf in ("weight", "weight_hh_l0"):
            if isinstance(value := getattr(each, leaf, None), torch.Tensor):
                found[f"{name}.{leaf}"] = value.detach()
    return found


def _save(sd: dict[str, torch.Tensor], path: Path) -> None:
    if path.suffix == ".pt":
        torch.save(sd, path)
    else:
        from safetensors.torch import save_file

        save_file(sd, path)


def _load(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".pt":
        return dict(torch.load(path))
    from safetensors.torch import load_file

    return dict(load_file(path))
