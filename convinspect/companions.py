"""Tensors of a root that belong to others of it by name alone, and change with them."""

from __future__ import annotations

from collections.abc import Iterable

from convinspect.records import Tensor


def undotted_copies(tensors: Iterable[Tensor]) -> dict[str, list[Tensor]]:
    """The copies that latent diffusion's EMA keeps in the model's own state_dict, and what each may be a copy of.

    It registers `diffusion_model.out.weight` of the module that it averages as `model_ema.diffusion_modeloutweight`.

    Returns:
        Key of a copy → the tensors whose names, from some level on, are its name without dots: one as a rule, several
        where dots alone tell them apart. Copies of nothing are left out.
    """
    every = list(tensors)
    copies = [tensor for tensor in every if _is_copy(tensor.key)]
    owners: dict[str, list[Tensor]] = {}
    # Many names of each tensor, which nobody needs where there is no copy.
    for tensor in every if copies else ():
        if _is_copy(tensor.key):
            continue
        for name in {below.replace(".", "") for below in _from_each_level(tensor.key)}:
            owners.setdefault(name, []).append(tensor)
    found = {copy.key: owners.get(copy.key.rpartition(".")[2], []) for copy in copies}
    return {key: owned for key, owned in found.items() if owned}


def _is_copy(key: str) -> bool:
    return "ema" in key.rpartition(".")[0].rpartition(".")[2]


def _from_each_level(key: str) -> list[str]:
    """A key, and what it is called further down the model: without its first level, its first two, …."""
    parts = key.split(".")
    return [".".join(parts[at:]) for at in range(max(1, len(parts) - 1))]
