"""Along which dimension a spectral norm takes its weight as a matrix, and whether a parametrization is PyTorch's norm.

`spectral_norm(layer, dim=d)` keeps u, as long as the weight's dimension d, and v, as long as all others together. A
state_dict does not record d, and where several dimensions are of one size the shapes do not tell it.
"""

from __future__ import annotations

from collections.abc import Mapping

from convinspect.records import Doubt, Layer, Module, Tensor

_STEPS = "parametrizations.weight"
_CLASSES = {"spectral_norm": "_SpectralNorm", "weight_norm": "_WeightNorm"}
_MODULE = "torch.nn.utils.parametrizations."
_UNKNOWN = "the kernel is computed by {classes}, which is not known here"


def with_norm_dims(layer: Layer, modules: Mapping[str, Module]) -> Layer:
    """The layer with the dimensions that its spectral norm may have, the likeliest first.

    Args:
        layer: One whose kernel is computed from several tensors.
        modules: What the file, or the model's code, says of the modules, by name.
    """
    if layer.norm not in _CLASSES:
        return layer
    own, steps = modules.get(layer.name), _steps(layer.name, modules)
    if steps and layer.norm in _CLASSES and not _is_norm(steps, layer.norm):
        classes = ", ".join(step.class_name for step in steps)
        note = _UNKNOWN.format(classes=classes)
        tags = tuple("parametrized" if tag == layer.norm.replace("_", "-") else tag for tag in layer.tags)
        return layer._replace(norm="parametrized", tags=tags, notes=(*layer.notes, note))
    if layer.norm != "spectral_norm":
        return layer
    fitting = spectral_dims(layer)
    recorded = steps[0].attributes.get("dim") if steps else own and own.attributes.get("spectral_norm.dim")
    if type(recorded) is int:
        recorded %= len(layer.weight.shape) or 1
        return layer._replace(norm_dims=(recorded,)) if recorded in fitting else layer
    layer = layer._replace(norm_dims=fitting)
    if len(fitting) < 2:
        return layer
    doubt = Doubt.NORM_DIM
    return layer._replace(notes=(*layer.notes, doubt.value), doubts=(*layer.doubts, doubt))


def _steps(name: str, modules: Mapping[str, Module]) -> list[Module]:
    """The parametrizations of a layer's weight, in the order in which they are computed."""
    path = f"{name}.{_STEPS}" if name else _STEPS
    if path not in modules:
        return []
    found = (modules.get(f"{path}.{number}") for number in range(16))
    return [module for module in found if module is not None]


def _is_norm(steps: list[Module], norm: str) -> bool:
    """Whether the only parametrization is PyTorch's norm of this name."""
    return len(steps) == 1 and steps[0].class_name == _MODULE + _CLASSES[norm]


def spectral_dims(layer: Layer) -> tuple[int, ...]:
    """Dimensions of the weight that u is as long as; PyTorch's default first where it is among them."""
    u: Tensor | None = layer.tensors.get("weight_u") or layer.tensors.get(f"{_STEPS}.0._u")
    length = u.shape[0] if u is not None and len(u.shape) == 1 else -1
    fitting = [dim for dim, size in enumerate(layer.weight.shape) if size == length]
    default = 1 if layer.kind.startswith("ConvTranspose") else 0
    return tuple(sorted(fitting, key=lambda dim: dim != default))
