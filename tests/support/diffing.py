"""Two objects that `diff` is asked about, and PyTorch's own word on them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from support.in_process import command

State = dict[str, Any]
SHAPES = st.sampled_from(
    [(8, 6), (8, 6, 1), (6, 8), (8, 6, 1, 1), (8, 8), (8, 8, 1), (8,), (1,), (), (0, 6), (2, 3, 3)]
)


def zeros(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> State:
    return {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}


def typed(folder: Path, *words: object, stdin: str | None = None) -> list[str]:
    """The commands that `diff` gives, after each was run by a shell in `folder`."""
    result = command(folder, "diff", *words, "--format", "json", stdin=stdin)
    assert result.returncode == 1, result.stderr
    commands: list[str] = json.loads(result.stdout)["commands"]
    for line in commands:
        assert line.startswith("convinspect convert ")
        # The shell splits the line into words; the program takes these without being started anew.
        splitting = line.replace("convinspect", "printf '%s\\0'", 1)
        split = subprocess.run(["bash", "-c", splitting], cwd=folder, check=True, capture_output=True).stdout
        command(folder, *map(os.fsdecode, split.split(b"\0")[:-1])).check_returncode()
    return commands


class Holder(nn.Module):
    """A module whose state_dict has the keys and shapes that are given."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for key, shape in shapes.items():
            place: nn.Module = self
            *path, leaf = key.split(".")
            for part in path:
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place._modules[part]  # type: ignore[assignment]
            place.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))
