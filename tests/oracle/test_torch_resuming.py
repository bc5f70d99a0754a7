"""Training resumed after a conversion with every optimizer of `torch.optim`, in all settings that change its state."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support.resuming import MOVES, PATCH_MOVES, End, outcome
from support.sampling import EVERY_CASE

optim: Any = torch.optim

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "ASGD": [{}, {"weight_decay": 0.1, "t0": 1}, {"foreach": True}, {"maximize": True}],
    "Adadelta": [{}, {"weight_decay": 0.1}, {"foreach": True}, {"capturable": False, "maximize": True}],
    "Adafactor": [{}, {"lr": 0.1, "weight_decay": 0.1}, {"foreach": True}, {"maximize": True}],
    "Adagrad": [{}, {"lr_decay": 0.1, "weight_decay": 0.1}, {"foreach": True}, {"fused": True},
                {"initial_accumulator_value": 0.1}],
    "Adam": [{}, {"amsgrad": True}, {"fused": True}, {"foreach": True, "amsgrad": True}, {"weight_decay": 0.1},
             {"decoupled_weight_decay": True, "weight_decay": 0.1}, {"lr": torch.tensor(0.01), "foreach": False}],
    "AdamW": [{}, {"amsgrad": True, "maximize": True}, {"fused": True}, {"foreach": True}, {"differentiable": False}],
    "Adamax": [{}, {"weight_decay": 0.1}, {"foreach": True}, {"maximize": True}],
    "LBFGS": [{"max_iter": 3}, {"line_search_fn": "strong_wolfe", "max_iter": 3}, {"history_size": 2, "max_iter": 2}],
    "Muon": [{}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw"}],
    "NAdam": [{}, {"decoupled_weight_decay": True, "weight_decay": 0.1}, {"foreach": True}],
    "RAdam": [{}, {"decoupled_weight_decay": True, "weight_decay": 0.1}, {"foreach": True}, {"betas": (0.5, 0.5)}],
    "RMSprop": [{}, {"centered": True}, {"momentum": 0.9}, {"centered": True, "momentum": 0.9, "foreach": True},
                {"weight_decay": 0.1, "maximize": True}],
    "Rprop": [{}, {"etas": (0.4, 1.3)}, {"foreach": True}, {"maximize": True}],
    "SGD": [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.9, "nesterov": True},
            {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1}, {"lr": 0.1, "fused": True},
            {"lr": 0.1, "momentum": 0.9, "foreach": True, "maximize": True}],
    "SparseAdam": [{}],
}  # fmt: skip

REFUSED = {"Adafactor": set(MOVES), "Muon": {("Linear", "Conv1d")}}
"""What cannot go on in the other form."""

UNBUILT = {"Muon": {("Conv1d", "Linear"), ("Conv2d", "Linear")}, "SparseAdam": set(MOVES)}
"""What torch itself does not take: Muon matrices alone, SparseAdam sparse gradients alone."""

WIDTHS = {"matrices": (16, 24, 8), "squares": (8, 8, 8), "one channel": (1, 8, 1), "numbers": (1, 1)}


def test_every_optimizer_of_torch_is_here() -> None:
    base = optim.Optimizer
    kinds = {name for name, one in vars(optim).items() if inspect.isclass(one) and issubclass(one, base)}
    assert kinds - {"Optimizer"} == set(SETTINGS)


def _all(name: str) -> Callable[..., Any]:
    def make(model: nn.Module, **settings: Any) -> Any:
        parameters = [one for one in model.parameters() if name != "Muon" or one.ndim > 1]
        return getattr(optim, name)(parameters, **settings)

    return make


TRIED = [
    (move, widths)
    for move in MOVES
    for at, widths in enumerate(WIDTHS)
    if widths == "matrices" or move is MOVES[at % 2] or (EVERY_CASE and move in MOVES[:2])
]
"""Convolutions of one and two dimensions differ in the number of their ones alone. Other widths go one way."""


def _settings(name: str, move: tuple[str, str], widths: str) -> list[dict[str, Any]]:
    """All of them with matrices, to and from Linear by turns, since a move knows nothing of settings; else one."""
    every, number = SETTINGS[name], list(WIDTHS).index(widths) + MOVES.index(move)
    if EVERY_CASE:
        return every
    if widths == "matrices" and move in MOVES[:2]:
        return every[number % 2 :: 2] or every
    return [every[number % len(every)]]


@pytest.mark.parametrize(("move", "widths"), TRIED, ids=str)
@pytest.mark.parametrize("name", SETTINGS)
def test_training_goes_on_or_is_refused(tmp_path: Path, name: str, move: tuple[str, str], widths: str) -> None:
    make = _all(name)
    for settings in _settings(name, move, widths):
        end = outcome(partial(make, **settings), move, tmp_path, WIDTHS[widths])
        if end is None:
            assert move in UNBUILT.get(name, ()), settings
        else:
            wanted = End.REFUSED if move in REFUSED.get(name, ()) else End.SAME
            assert (end.end, settings) == (wanted, settings), end.words


@pytest.mark.parametrize("move", PATCH_MOVES, ids=" to ".join)
@pytest.mark.parametrize("name", SETTINGS)
def test_training_on_patches_goes_on_or_is_refused(tmp_path: Path, name: str, move: tuple[str, str]) -> None:
    """Muon takes matrices alone, so that it is refused on the way to convolutions."""
    every = SETTINGS[name]
    for settings in every[:2] if EVERY_CASE else [every[PATCH_MOVES.index(move) % min(2, len(every))]]:
        end = outcome(partial(_all(name), **settings), move, tmp_path, (16, 24, 8))
        refused = name == "Adafactor" or (name, move[0]) == ("Muon", "Linear")
        assert end is None or end.end is (End.REFUSED if refused else End.SAME), end
