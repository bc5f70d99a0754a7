"""A drawn model, and the file that it is saved in: every container that a checkpoint comes in."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from support.drawing.leaves import LEAVES, MISLEADING, NAMES, Inputs

State = dict[str, torch.Tensor]


class Drawn(nn.Module):
    """Modules beside each other; each is run by itself."""


class One(nn.Module):
    """One module, under a graph."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: torch.Tensor) -> Any:
        return self.first(x)


class Two(nn.Module):
    """Two modules, under a graph."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.first(x), self.second(y)


@dataclass(frozen=True)
class Model:
    """A live model.

    Attributes:
        module: All of it.
        inputs: Arguments of each child's `forward`, by the child's name; those that are not run have none.
        kinds: What was drawn, keys of `LEAVES`.
    """

    module: nn.Module
    inputs: dict[str, Inputs]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Saved:
    """A model in a file.

    Attributes:
        path: The file or folder.
        state: What the file holds: the model's state_dict, under its own names.
        container: Its key in `CONTAINERS`.
        is_graph: A program stands beside the tensors.
        holds_modules: The file says what its modules are.
        load: The state_dict in a file of this container, under the model's own names.
    """

    path: Path
    state: State
    container: str
    is_graph: bool = False
    holds_modules: bool = False
    load: Callable[[Path], State] = field(default=lambda path: _load(path))


def _load(path: Path) -> State:
    """The state_dict in a file of `torch.save`, whatever is around it."""
    loaded = torch.load(path, weights_only=False)
    if isinstance(loaded, nn.Module):
        return loaded.state_dict()
    return dict(loaded.get("state_dict", loaded))


def draw_model(random: Random) -> Model:
    """One to five leaves under names that people give, or numbers, one or two levels deep."""
    module, inputs, kinds = Drawn(), {}, []
    for number in range(random.randint(1, 5)):
        kind = random.choice(tuple(LEAVES))
        leaf, arguments = LEAVES[kind](random)
        name = random.choice((*NAMES.get(kind, ()), f"m{number}", f"layer{number}", f"blocks_{number}"))
        if random.random() < 0.1:
            name = random.choice(MISLEADING)
        if name in dict(module.named_children()):
            name = f"m{number}"
        if len(arguments) < 2 and random.random() < 0.3:
            leaf = nn.Sequential(leaf)
        module.add_module(name, leaf)
        inputs[name] = arguments
        kinds.append(kind)
    if random.random() < 0.5:
        module.eval()
    return Model(module, inputs, tuple(kinds))


def draw_graph(random: Random) -> Model:
    """One or two leaves of one input each, under a `forward`."""
    leaves: list[tuple[str, nn.Module, Inputs]] = []
    while len(leaves) < 2:
        kind = random.choice(tuple(LEAVES))
        module, inputs = LEAVES[kind](random)
        if len(inputs) == 1:
            leaves.append((kind, module, inputs))
    kept = leaves[: random.choice((1, 1, 2))]
    whole = One(kept[0][1]) if len(kept) == 1 else Two(kept[0][1], kept[1][1])
    names = ("first", "second")
    return Model(
        whole.eval(), {name: leaf[2] for name, leaf in zip(names, kept, strict=False)}, tuple(leaf[0] for leaf in kept)
    )


# --------------------------------------------------------------------------------------------------- containers


def _plain(model: Model, path: Path, **options: Any) -> Saved:
    state = model.module.state_dict()
    torch.save(state, path, **options)
    return Saved(path, state, "")


def _whole(model: Model, path: Path, **options: Any) -> Saved:
    torch.save(model.module, path, **options)
    return Saved(path, model.module.state_dict(), "", holds_modules=True)


def _wrapped(model: Model, path: Path) -> Saved:
    state = model.module.state_dict()
    torch.save({"epoch": 3, "state_dict": state, "hyper_parameters": {"lr": 0.1}}, path)
    return Saved(path, state, "")


def _parallel(model: Model, path: Path) -> Saved:
    state = model.module.state_dict()
    torch.save({f"module.{key}": value for key, value in state.items()}, path)

    def load(path: Path) -> State:
        return {key.removeprefix("module."): value for key, value in torch.load(path, weights_only=False).items()}

    return Saved(path, state, "", load=load)


def _tensors(model: Model) -> State:
    """The state_dict as safetensors can hold it: tensors alone, contiguous, each with bytes of its own."""
    return {
        key: value.detach().contiguous().clone()
        for key, value in model.module.state_dict().items()
        if isinstance(value, torch.Tensor) and not value.is_quantized
    }


def _safetensors(model: Model, path: Path) -> Saved:
    from safetensors.torch import load_file

    state = _tensors(model)
    save_file(state, path, metadata={"format": "pt"})
    return Saved(path, state, "", load=lambda path: load_file(path))


def _sharded(model: Model, path: Path) -> Saved:
    from safetensors.torch import load_file

    state = _tensors(model)
    path.mkdir()
    keys = list(state)
    if len(keys) < 2:
        raise ValueError("one tensor fills no two shards")
    parts = [keys[: len(keys) // 2], keys[len(keys) // 2 :]]
    files = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    for part, file in zip(parts, files, strict=True):
        save_file({key: state[key] for key in part}, path / file, metadata={"format": "pt"})
    weight_map = {key: file for part, file in zip(parts, files, strict=True) for key in part}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    def load(path: Path) -> State:
        return {key: value for file in files for key, value in load_file(path / file).items()}

    return Saved(path, state, "", load=load)


def _program(module: torch.jit.ScriptModule, path: Path) -> Saved:
    torch.jit.save(module, path)
    return Saved(
        path,
        dict(module.state_dict()),
        "",
        True,
        True,
        load=lambda path: dict(torch.jit.load(path).state_dict()),  # type: ignore[no-untyped-call]
    )


def _arguments(model: Model) -> Inputs:
    return tuple(inputs[0] for inputs in model.inputs.values())


def _exported(model: Model, path: Path) -> Saved:
    program = torch.export.export(model.module, _arguments(model), strict=False)
    torch.export.save(program, path)
    return Saved(
        path, dict(program.state_dict), "", True, True, load=lambda path: dict(torch.export.load(path).state_dict)
    )


CONTAINERS: dict[str, tuple[str, Callable[[Model, Path], Saved]]] = {
    "state_dict": (".pt", _plain),
    "state_dict of before 1.6": (".pth", lambda m, p: _plain(m, p, _use_new_zipfile_serialization=False)),
    "whole model": (".pt", _whole),
    "whole model of before 1.6": (".pt", lambda m, p: _whole(m, p, _use_new_zipfile_serialization=False)),
    "wrapped": (".ckpt", _wrapped),
    "DataParallel": (".pt", _parallel),
    "safetensors": (".safetensors", _safetensors),
    "sharded safetensors": ("", _sharded),
}

GRAPHS: dict[str, tuple[str, Callable[[Model, Path], Saved]]] = {
    "scripted": (".pt", lambda m, p: _program(torch.jit.script(m.module), p)),
    "traced": (".pt", lambda m, p: _program(torch.jit.trace(m.module, _arguments(m), check_trace=False), p)),  # type: ignore[no-untyped-call]
    "exported": (".pt2", _exported),
}


def save(model: Model, folder: Path, container: str) -> Saved | None:
    """The model in a file; None where PyTorch itself cannot write it so."""
    suffix, write = (CONTAINERS | GRAPHS)[container]
    path = folder / f"source{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            saved = write(model, path)
        except Exception:
            # Not every model can be scripted, traced, exported or pickled, nor each dtype kept.
            return None
    if not any(isinstance(value, torch.Tensor) for value in saved.state.values()):
        return None
    return Saved(path, dict(saved.state), container, saved.is_graph, saved.holds_modules, saved.load)


def copied(module: nn.Module) -> nn.Module:
    """A copy that shares nothing; of weight norm's old form too, whose computed weight `deepcopy` refuses."""
    for part in module.modules():
        for name in ("weight", "bias"):
            value = part.__dict__.get(name)
            if isinstance(value, torch.Tensor):
                part.__dict__[name] = value.detach()
    return deepcopy(module)
