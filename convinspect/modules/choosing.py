"""Which layers of a live model are chosen, under all of their names, and which of these must stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from convinspect.errors import NotThere
from convinspect.modules.references import outside_references
from convinspect.modules.state import ORIGINALS, WEIGHTS
from convinspect.text import closest

Where: TypeAlias = str | Iterable[str] | Callable[[str, nn.Module], bool] | None
"""Names or globs, or a function of name and module; None for all."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chosen layer of the right kind.

    Attributes:
        module: The layer.
        names: All of its names in the model.
        parents: The module that each name goes through.
        reason: Why it stays, or None.
    """

    module: nn.Module
    names: tuple[str, ...]
    parents: tuple[nn.Module, ...]
    reason: str | None = None


def unless(candidate: Candidate, reason: str | None) -> Candidate:
    """The candidate with a reason to stay, unless it already has one."""
    return candidate if reason is None or candidate.reason is not None else replace(candidate, reason=reason)


def candidates_of(model: nn.Module, where: Where, is_target: Callable[[nn.Module], bool]) -> list[Candidate]:
    """The chosen modules of the right kinds, each once."""
    places: dict[int, list[tuple[str, nn.Module | None, nn.Module]]] = {}
    for name, parent, module in _places(model):
        if is_target(module):
            places.setdefault(id(module), []).append((name, parent, module))
    is_chosen = _chooser(model, where)
    candidates = []
    for listed in places.values():
        names = tuple(name for name, _, _ in listed)
        # The model itself has no parent; an empty module takes its place, and `Swaps.model` returns the successor.
        parents = tuple(nn.Module() if parent is None else parent for _, parent, _ in listed)
        module = listed[0][2]
        chosen = [is_chosen(name, module) for name in names]
        if any(chosen):
            missed = None if all(chosen) else f"it is also {names[chosen.index(False)]}, which was not chosen"
            candidates.append(Candidate(module, names, parents, missed))
    return candidates


def _places(model: nn.Module) -> Iterator[tuple[str, nn.Module | None, nn.Module]]:
    """Every name of every module, with its parent, in the model's order; a shared module comes once for each name."""
    yield "", None, model
    seen: set[int] = set()
    todo: list[tuple[str, nn.Module | None, nn.Module]] = [("", None, model)]
    while todo:
        name, parent, module = todo.pop()
        if parent is not None:
            yield name, parent, module
        if id(module) in seen:
            continue
        seen.add(id(module))
        children = [(key, child) for key, child in module._modules.items() if child is not None]
        todo += [(f"{name}.{key}" if name else key, module, child) for key, child in reversed(children)]


def _chooser(model: nn.Module, where: Where) -> Callable[[str, nn.Module], bool]:
    if where is None:
        return lambda name, module: True
    if callable(where):
        return where
    patterns = [where] if isinstance(where, str) else list(where)
    names = [name for name, _, _ in _places(model)]
    for pattern in patterns:
        if pattern not in names and not any(fnmatchcase(name, pattern) for name in names):
            raise NotThere(f"no module matches {pattern!r}", closest(pattern, [name for name in names if name]))
    return lambda name, module: any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def unless_referenced(model: nn.Module, candidates: list[Candidate]) -> list[Candidate]:
    """Layers stay if the model also refers to them, or to their weights, outside PyTorch's registers."""
    owners: dict[int, int] = {}
    for candidate in candidates:
        if candidate.reason is None:
            ids = map(id, (candidate.module, *candidate.module.parameters(recurse=True)))
            owners |= dict.fromkeys(ids, id(candidate.module))
    reasons = {
        owners[referenced]: f"the model also keeps it in {place}, which would stay with the old one"
        for referenced, place in outside_references(model, set(owners)).items()
    }
    return [unless(candidate, reasons.get(id(candidate.module))) for candidate in candidates]


def unless_tied(
    model: nn.Module, candidates: list[Candidate], is_turned: Callable[[nn.Module], bool] = lambda module: False
) -> list[Candidate]:
    """Layers stay if they share a parameter with one that stays: it changes in all of them or in none.

    Args:
        model: The whole.
        candidates: The chosen layers.
        is_turned: Whether a layer's weight is transposed too, which none that shares it then may do without.
    """
    ties = _ties(model, candidates)
    reasons = {place: candidate.reason for place, candidate in enumerate(candidates)}
    for owners in ties:
        turned = [(name, place, is_turned(candidates[place].module)) for name, place in owners if place is not None]
        # The first of each kind, looked up once: many modules may share one weight.
        first = {so: name for name, _, so in reversed(turned)}
        for _, place, is_so in turned:
            other = first.get(not is_so)
            if other is not None and reasons[place] is None:
                reasons[place] = f"its weight is tied to {other}, and only one of them would be transposed"
    changed = True
    while changed:
        # Repeated, since a layer that stays makes those tied to it stay, and these others.
        changed = False
        for owners in ties:
            keeper = next((name for name, owner in owners if owner is None or reasons[owner] is not None), None)
            for _, owner in owners if keeper is not None else ():
                if owner is not None and reasons[owner] is None:
                    reasons[owner] = f"its weight is tied to {keeper}, which does not change"
                    changed = True
    return [unless(candidate, reasons[place]) for place, candidate in enumerate(candidates)]


def _ties(model: nn.Module, candidates: list[Candidate]) -> list[list[tuple[str, int | None]]]:
    """For each parameter its names, each with the index of the candidate that would change it, or None."""
    owners = {id(part): place for place, candidate in enumerate(candidates) for part in candidate.module.modules()}
    ties: dict[int, list[tuple[str, int | None]]] = {}
    for name, module in model.named_modules():
        owner = owners.get(id(module))
        for key, parameter in module._parameters.items():
            if parameter is not None:
                # Only these names are reshaped; under other names a parameter does not change.
                changes = owner if key in (*WEIGHTS, *ORIGINALS) else None
                ties.setdefault(id(parameter), []).append((f"{name}.{key}" if name else key, changes))
    return list(ties.values())
