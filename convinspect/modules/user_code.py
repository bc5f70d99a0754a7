"""The user's own model code, asked what a state_dict does not record. This is the user's code, never a file's."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from convinspect.errors import CannotConvert, Option, Wording
from convinspect.records import Module
from convinspect.text import with_article

if TYPE_CHECKING:
    from torch import nn

_PLAIN = (bool, int, float, str, type(None))


def described(spec: str) -> tuple[dict[str, Module], frozenset[str]]:
    """Every module of the model that `package.module:Class_or_factory` makes, by name, and its parameters' names.

    The model is built on the meta device, so that it costs no memory for its weights.

    Raises:
        CannotConvert: There is no such module or name, or calling it fails.
    """
    model = built(spec)
    modules = {name: _record(name, module) for name, module in model.named_modules()}
    return modules, frozenset(name for name, _ in model.named_parameters(remove_duplicate=False))


def built(spec: str, meta: bool = True) -> nn.Module:
    """The model itself, on the meta device unless it is to be run.

    Raises:
        CannotConvert: As `described`.
    """
    import torch

    where, colon, name = spec.partition(":")
    if not colon or not where or not name:
        raise CannotConvert(_of_model(spec, "names no class"), "write it as package.module:Class")
    if os.getcwd() not in sys.path:
        # As for `python -m`: what lies in the current folder can be imported.
        sys.path.insert(0, os.getcwd())
    try:
        # What it prints is no part of the answer.
        with redirect_stdout(sys.stderr):
            make: Any = importlib.import_module(where)
            for part in name.split("."):
                make = getattr(make, part)
            with torch.device("meta" if meta else "cpu"):
                model = make()
    except (Exception, SystemExit) as error:
        # It is the user's code, which may fail in any way, and may want to end the program.
        raise CannotConvert(_of_model(spec, f"cannot be built ({type(error).__name__}: {error})")) from None
    if not isinstance(model, torch.nn.Module):
        raise CannotConvert(_of_model(spec, f"gives {with_article(type(model).__name__)}, which is no nn.Module"))
    return model


def _of_model(spec: str, problem: str) -> Wording:
    return Wording(Option("model", None), f" {spec!r} {problem}")


def _record(name: str, module: nn.Module) -> Module:
    """A live module as the readers describe those in files."""
    cls = type(module)
    plain = {key: value for key, value in vars(module).items() if _is_plain(value)} | _norm_dims(module)
    return Module(name, f"{cls.__module__}.{cls.__qualname__}", plain)


def _norm_dims(module: nn.Module) -> dict[str, int]:
    """`dim` of the spectral norm that a hook of PyTorch's applies to the weight."""
    from torch.nn.utils.spectral_norm import SpectralNorm

    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm) and hook.name == "weight":
            return {"spectral_norm.dim": hook.dim}
    return {}


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(part, _PLAIN) for part in value))
