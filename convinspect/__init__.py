"""See and change the pointwise layers of a saved PyTorch model, without running the model.

import convinspect

checkpoint = convinspect.open("model.pt")
for layer in convinspect.find_layers(checkpoint):
    print(layer.name, layer.kind, layer.weight.shape, layer.evidence)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convinspect.checkpoint import Checkpoint
    from convinspect.checkpoint import open_checkpoint as open
    from convinspect.errors import ConvInspectError
    from convinspect.layers.find import find_layers
    from convinspect.layers.select import select
    from convinspect.records import Layer, Tensor

__version__ = "0.1.0"
__all__ = ["Checkpoint", "ConvInspectError", "Layer", "Tensor", "find_layers", "open", "select"]

_HOMES = {
    "Checkpoint": ("checkpoint", "Checkpoint"),
    "ConvInspectError": ("errors", "ConvInspectError"),
    "Layer": ("records", "Layer"),
    "Tensor": ("records", "Tensor"),
    "find_layers": ("layers.find", "find_layers"),
    "open": ("checkpoint", "open_checkpoint"),
    "select": ("layers.select", "select"),
}


def __getattr__(name: str) -> Any:
    """Names are looked up when first used, so that `convinspect --help` need not import what it does not show."""
    from importlib import import_module

    if name == "modules":
        return import_module("convinspect.modules")
    if name not in _HOMES:
        raise AttributeError(f"module 'convinspect' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(import_module(f"convinspect.{module}"), attribute)
    globals()[name] = value
    return value
