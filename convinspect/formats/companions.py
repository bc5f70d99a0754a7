"""Files that a training run keeps beside its weights, by the names that Trainer, accelerate and others give them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from convinspect.errors import unreadable
from convinspect.remote.addresses import Address

_OPTIMIZER = re.compile(r"optim(izer)?(_\d+)?\.(pt|pth|bin|ckpt)")
_OTHER = re.compile(
    r"(lr_)?scheduler(_\d+)?\.(pt|pth|bin)|scaler(_\d+)?\.(pt|pth|bin)|rng_states?(_\d+)?\.(pt|pth|bin|pkl)"
    r"|training_args\.bin|sampler(_\d+)?\.bin|dl_state_dict(_\d+)?\.bin"
    r"|random_states_\d+\.pkl|custom_checkpoint_\d+\.pkl"
)
_IN_PIECES = re.compile(r"optim(izer)?(_\d+)?|pytorch_model_fsdp(_\d+)?|global_step\d+|iter_\d+")
"""Folders of state in pieces: of FSDP in its distributed format, of DeepSpeed, of Megatron."""
_PIECE = re.compile(r".*\.distcp|.*_optim_states\.pt|distrib_optim\.pt|optim(izer)?(_\d+)?\.safetensors")


class States(NamedTuple):
    """Optimizer state beside weights, by name, in order.

    Attributes:
        files: Files that may hold an optimizer's state_dict.
        pieces: Files and folders that hold a part of a state each, or in a form of their own.
    """

    files: tuple[str, ...] = ()
    pieces: tuple[str, ...] = ()


def is_companion(name: str) -> bool:
    """Whether a file of this name is an optimizer's, or another part of a training run that holds no weights."""
    return bool(_OPTIMIZER.fullmatch(name) or _OTHER.fullmatch(name) or _PIECE.fullmatch(name))


def states_in(folder: Path) -> States:
    """The optimizer state in a folder, from one listing of it; links are left to who follows them.

    Raises:
        BrokenFile: It cannot be listed.
    """
    files, pieces = [], []
    if isinstance(folder, Address):
        # Of what lies elsewhere only what was asked for is fetched.
        return States()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _OPTIMIZER.fullmatch(entry.name) and entry.is_file():
                    files.append(entry.name)
                elif _PIECE.fullmatch(entry.name) or (_IN_PIECES.fullmatch(entry.name) and entry.is_dir()):
                    pieces.append(entry.name)
    except OSError as error:
        raise unreadable(error, folder) from None
    return States(tuple(sorted(files)), tuple(sorted(pieces)))
