"""A converted file, changed in a way that `verify` must find, or in one that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file

from support.drawing.truth import same_bits

State = dict[str, torch.Tensor]


def _keys(state: State, random: Random, test: Callable[[torch.Tensor], bool]) -> str | None:
    keys = [
        key
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and not value.is_quantized and test(value)
    ]
    return random.choice(keys) if keys else None


def _element(state: State, random: Random) -> None:
    key = _keys(state, random, lambda value: value.numel() > 0)
    if key:
        flat = state[key].detach().reshape(-1).clone()
        at = random.randrange(len(flat))
        flat[at] = ~flat[at] if flat.dtype == torch.bool else flat[at] + 1
        state[key] = flat.reshape(state[key].shape)


def _last_bit(state: State, random: Random) -> None:
    key = _keys(state, random, lambda value: value.numel() > 0)
    if key:
        flat = state[key].detach().reshape(-1).clone()
        octets = flat.view(torch.uint8)
        octets[random.randrange(len(flat)) * flat.element_size()] ^= 1
        state[key] = flat.reshape(state[key].shape)


def _transposed(state: State, random: Random) -> None:
    key = _keys(state, random, lambda value: value.dim() >= 2 and value.shape[0] == value.shape[1])
    if key:
        state[key] = state[key].detach().transpose(0, 1).contiguous()


def _zeroed(state: State, random: Random) -> None:
    key = _keys(state, random, lambda value: value.dim() == 1)
    if key:
        state[key] = torch.zeros_like(state[key])


def _dropped(state: State, random: Random) -> None:
    key = _keys(state, random, lambda value: True)
    if key:
        del state[key]


def _added(state: State, random: Random) -> None:
    state["another.weight"] = torch.zeros(2, 2)


def _renamed(state: State, random: Random) -> None:
    key = _keys(state, random, lambda value: True)
    if key:
        state[f"{key}_"] = state.pop(key)


def _dtype(state: State, random: Random) -> None:
    key = _keys(state, random, lambda value: value.dtype == torch.float32)
    if key:
        state[key] = state[key].detach().half()


def _swapped(state: State, random: Random) -> None:
    key = _keys(state, random, lambda value: value.numel() > 1)
    if key:
        flat = state[key].detach().reshape(-1)
        state[key] = flat.roll(1).reshape(state[key].shape).clone()


def _rank(state: State, random: Random) -> None:
    key = _keys(state, random, lambda value: value.dim() >= 2)
    if key:
        state[key] = state[key].detach().unsqueeze(random.choice((0, 1))).clone()


def _flattened(state: State, random: Random) -> None:
    key = _keys(state, random, lambda value: value.dim() >= 2)
    if key:
        state[key] = state[key].detach().reshape(-1).clone()


def _saved_anew(state: State, random: Random) -> None:
    """Changes nothing."""


CORRUPTIONS: dict[str, Callable[[State, Random], None]] = {
    function.__name__[1:]: function
    for function in (
        _element, _last_bit, _transposed, _zeroed, _dropped, _added, _renamed, _dtype, _swapped, _rank, _flattened,
        _saved_anew,
    )
}  # fmt: skip


def corrupted(source: Path, target: Path, random: Random) -> tuple[str, Path, bool] | None:
    """A changed copy of a state_dict's file.

    Returns:
        What was done, the copy, and whether it differs from the source; None where the file is no plain state_dict.
    """
    is_safetensors = source.suffix == ".safetensors"
    state = load_file(source) if is_safetensors else torch.load(source, weights_only=False)
    if not isinstance(state, dict):
        return None
    before = dict(state)
    what = random.choice(tuple(CORRUPTIONS))
    CORRUPTIONS[what](state, random)
    if is_safetensors:
        save_file({key: value.contiguous() for key, value in state.items()}, target, metadata={"format": "pt"})
    else:
        torch.save(state, target)
    return what, target, not _same(before, state)


def _same(before: State, after: State) -> bool:
    """Whether every tensor is the same, or a pointwise layer's of another kind, as a right conversion leaves it."""
    if set(before) != set(after):
        return False
    return all(
        after[key] is value or (isinstance(value, torch.Tensor) and same_bits(_bare(value), _bare(after[key])))
        for key, value in before.items()
    )


def _bare(tensor: torch.Tensor) -> torch.Tensor:
    """A matrix without the kernel's dimensions of size 1."""
    while tensor.dim() > 2 and tensor.shape[-1] == 1:
        tensor = tensor.squeeze(-1)
    return tensor
