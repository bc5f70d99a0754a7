"""Keys of one side alone that do not prevent loading, since PyTorch supplies, renames or computes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from convinspect.checkpoint import Checkpoint
from convinspect.formats.torch.objects import read_objects, versions
from convinspect.keys.others import Other
from convinspect.keys.pairing import COUNT, Pairing
from convinspect.records import Tensor

Side: TypeAlias = Tensor | Other


def what_pytorch_supplies(a: Checkpoint, pairing: Pairing, sides: tuple[Sequence[Side], ...]) -> dict[str, str]:
    """Unpaired keys that do not prevent loading, since PyTorch supplies or renames them, by name."""
    unpaired = zip(sides, (pairing.only_a, pairing.only_b), strict=True)
    only_a, only_b = (
        {name: tensor for name, place in places if isinstance(tensor := side[place], Tensor)}
        for side, places in unpaired
    )
    keys = {name: sides[0][place].key for name, place, _ in pairing.pairs}
    return (
        _supplied_counts(a, only_b, keys)
        | _loaded_weight_norms(only_a, only_b)
        | _old_spectral_norms(a, only_a, only_b, keys)
    )


_COUNTING = 2
"""Version of batch norms from which on they keep a count (`_NormBase._load_from_state_dict` in PyTorch's
torch/nn/modules/batchnorm.py, which supplies it for older ones and where no version is recorded)."""


def _supplied_counts(a: Checkpoint, only_b: Iterable[str], keys: Mapping[str, str]) -> dict[str, str]:
    """Keys `num_batches_tracked` that A lacks although it has the batch norm's statistics."""
    means = {name: name.removesuffix(COUNT) + "running_mean" for name in only_b if name.endswith(COUNT)}
    modules = {name: keys[mean].rpartition(".")[0] for name, mean in means.items() if mean in keys}
    if not modules or a.holds_modules:
        return {}
    recorded = _versions(a)
    return {
        name: "PyTorch supplies it"
        for name, module in modules.items()
        if (recorded.get(module, {}).get("version") or 0) < _COUNTING
    }


_PACKED = "_packed_params._packed_params."
_PACKED_TOGETHER = 3
"""Version of quantized Linears from which on weight and bias are one value (`LinearPackedParams` in PyTorch's
torch/ao/nn/quantized/modules/linear.py, which raises a KeyError where no version is recorded)."""


def unversioned(a: Checkpoint) -> frozenset[str]:
    """Keys of quantized Linears that PyTorch does not load, since A does not record their version."""
    packed = [side.key for side in a.tensors.values() if _PACKED in side.key]
    if not packed or a.holds_modules:
        return frozenset()
    recorded = _versions(a)
    modules = {key: key.rpartition(_PACKED)[0] + "_packed_params" for key in packed}
    return frozenset(
        key for key, module in modules.items() if (recorded.get(module, {}).get("version") or 0) < _PACKED_TOGETHER
    )


_PARTS = {"_g": "original0", "_v": "original1"}


def _loaded_weight_norms(only_a: Mapping[str, Tensor], only_b: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensors of an old weight norm that PyTorch loads into the parametrization (`_weight_norm_compat_hook` in its
    torch/nn/utils/parametrizations.py).
    """
    supplied: dict[str, str] = {}
    for name in (name.removesuffix("_g") for name in only_a if name.endswith("_g")):
        module, dot, leaf = name.rpartition(".")
        new = {end: f"{module}{dot}parametrizations.{leaf}.{part}" for end, part in _PARTS.items()}
        old = {end: only_a.get(name + end) for end in _PARTS}
        if all(
            half is not None and new[end] in only_b and only_b[new[end]].shape == half.shape
            for end, half in old.items()
        ):
            for end, part in new.items():
                supplied |= {name + end: f"PyTorch loads it as {part}", part: f"PyTorch takes {name + end} for it"}
    return supplied


def _versions(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """`_metadata` of the root in use by module; {} where none is recorded."""
    objects = read_objects(checkpoint.path)
    return (versions(objects, checkpoint.root.path) if objects is not None else None) or {}


def _old_spectral_norms(
    a: Checkpoint, only_a: Mapping[str, Tensor], only_b: Iterable[str], keys: Mapping[str, str]
) -> dict[str, str]:
    """The vector v that PyTorch computes for a spectral norm of before 1.1, which kept the weight itself instead
    (`SpectralNormLoadStateDictPreHook` in its torch/nn/utils/spectral_norm.py).
    """
    names = [name.removesuffix("_v") for name in only_b if name.endswith("_v")]
    old = [name for name in names if name in only_a and name + "_orig" in keys and name + "_u" in keys]
    if not old or a.holds_modules:
        return {}
    recorded, supplied = _versions(a), dict[str, str]()
    for name in old:
        module, _, leaf = only_a[name].key.rpartition(".")
        norm = recorded.get(module, {}).get("spectral_norm")
        if (norm.get(f"{leaf}.version") if isinstance(norm, dict) else None) in (None, 0):
            supplied |= {name: "PyTorch takes it out", f"{name}_v": f"PyTorch computes it from {name}"}
    return supplied


def made_after_renaming(missing: Collection[str], renamed: Collection[str]) -> frozenset[str]:
    """Missing keys that PyTorch makes itself once others have the model's names, and the keys that it makes them of.

    Args:
        missing: Keys that an error says are missing.
        renamed: The checkpoint's keys under the model's names.
    """
    made: set[str] = set()
    for key in missing:
        name = key.removesuffix("_v")
        if name != key and {name, f"{name}_orig", f"{name}_u"} <= set(renamed):
            made.add(key)
        # Without the version under the model's name, the hook of an old spectral norm asks for the weight itself.
        if {f"{key}_orig", f"{key}_u", f"{key}_v"} <= set(renamed):
            made.add(key)
        module, parametrized, rest = key.rpartition("parametrizations.")
        leaf, dot, part = rest.rpartition(".")
        end = next((end for end, new in _PARTS.items() if new == part), None) if parametrized and dot else None
        if end is not None and f"{module}{leaf}{end}" in renamed:
            made |= {key, f"{module}{leaf}{end}"}
    return frozenset(made)
