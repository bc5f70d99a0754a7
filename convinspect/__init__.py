"""See and change the pointwise layers of a saved PyTorch model, without running the model.

import convinspect

checkpoint = convinspect.open("model.pt")
for layer in convinspect.find_layers(checkpoint):
    print(layer.name, layer.kind, layer.weight.shape, layer.evidence)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convinspect import modules
    from convinspect.api import (
        Checkpoint,
        ConvInspectError,
        Layer,
        Tensor,
        check,
        compare,
        convert,
        diff,
        explain,
        find_layers,
        module_tree,
        open,
        recover,
        report,
        select,
        sort_layers,
        verify,
    )

__version__ = "0.1.0"
__all__ = [
    "Checkpoint",
    "ConvInspectError",
    "Layer",
    "Tensor",
    "check",
    "compare",
    "convert",
    "diff",
    "explain",
    "find_layers",
    "module_tree",
    "modules",
    "open",
    "recover",
    "report",
    "select",
    "sort_layers",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Names are looked up when first used, so that a command imports no more than it needs."""
    from importlib import import_module

    if name == "modules":
        return import_module("convinspect.modules")
    if name not in __all__:
        raise AttributeError(f"module 'convinspect' has no attribute {name!r}")
    value = getattr(import_module("convinspect.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
