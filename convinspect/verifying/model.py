"""The whole model, before and after, in the user's own code: strict loading, then outputs (and gradients) in float64.

A deep model has no bound on its rounding that would be worth deriving. But rounding errors grow with the unit
roundoff: what float32 is off by, float64 is off by about 2⁻²⁹ of (Higham 2002, chapter 3: forward errors are of first
order in u). So the model is run once in float32 too, and the two models may differ in float64 by 2¹⁰ times 2⁻²⁹ of that
error, and by 2¹⁰ roundoffs of the largest output. Where the model computes in less than float64 inside whatever it is
given, that is noticed. What it then makes of rounding is measured: its parameters are moved at random by up to two
roundoffs of the coarsest dtype seen, twice, and the two models may differ by eight times what that changes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import nn

from convinspect.arrays.error_bound import own_blocks
from convinspect.checkpoint import Checkpoint
from convinspect.errors import CannotConvert, Option, Wording
from convinspect.formats.sources import short_name
from convinspect.modules.user_code import built
from convinspect.verifying.loading import Loading, load_strictly, swap_layers, under_own_names
from convinspect.verifying.model_runs import GRADIENT, RunOptions, in_dtype, run_model, seeded
from convinspect.verifying.pytree import Leaves, unequal

_SLACK = 2.0**10
_FLOAT32_TO_64 = 2.0**-29

Fresh: TypeAlias = Callable[[], nn.Module]
"""Returns a loaded model that was never run."""


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """The whole model's outputs, before and after.

    Attributes:
        outputs: By the output's place, the largest difference in float64 and the most that rounding explains.
        plain: By the place of outputs that are whole numbers, text, None and the like: whether they are equal.
        unread: By the place of outputs of a kind that cannot be compared, the name of its class.
        cause: The first difference; "" if there is none.
        notes: What a user should know of how it was run.
    """

    outputs: Mapping[str, tuple[float, float]]
    cause: str = ""
    plain: Mapping[str, bool] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def try_models(
    before: Checkpoint,
    after: Checkpoint,
    kinds: Mapping[str, str],
    options: RunOptions,
    stored: Checkpoint | None = None,
) -> ModelCheck:
    """Load both models strictly and run them, each run on a fresh copy.

    Args:
        before: Weights before.
        after: Weights after.
        kinds: Layers that were converted, with their kind after.
        options: How to run them.
        stored: `before` under the names of its file, where it was renamed.

    Raises:
        CannotConvert: A model cannot be built, does not take the file before, or fails on these inputs.
    """
    own = stored is not None and under_own_names(_built(options, options.model), stored, before)
    if own and not options.model_after:
        remedy = Wording("give ", Option("model_after", None), ", the code that it is for")
        raise CannotConvert(f"AFTER has other names than {options.model}", remedy)
    first, loading = _loaded(options, options.model, stored if own and stored is not None else before)
    if loading.problem:
        raise CannotConvert(f"{short_name(before.path)} does not load into {options.model}: {loading.problem}")
    spec = options.model_after or options.model
    second, loading_after = _loaded(options, spec, after, {} if options.model_after else kinds)
    if loading_after.problem:
        into = options.model_after or f"{options.model} with its layers swapped"
        return ModelCheck({}, f"{short_name(after.path)} does not load strictly into {into}: {loading_after.problem}")
    check = _run_both(first, second, options)
    return replace(check, notes=tuple(dict.fromkeys((*check.notes, *loading.notes, *loading_after.notes))))


def _built(options: RunOptions, spec: str) -> nn.Module:
    # Random values that a model draws in its constructor and does not save must be equal before and after.
    with seeded(options.seed):
        return built(spec, meta=False)


def _loaded(
    options: RunOptions, spec: str, checkpoint: Checkpoint, kinds: Mapping[str, str] | None = None
) -> tuple[Fresh, Loading]:
    """A function that returns the model with the checkpoint's weights, never run; and the result of loading it."""

    def make() -> tuple[nn.Module, Loading]:
        model = _built(options, spec)
        swap_layers(model, kinds or {}, checkpoint)
        return model, load_strictly(model, checkpoint)

    model, loading = make()

    def fresh() -> nn.Module:
        try:
            return copy.deepcopy(model)
        except Exception:
            # PyTorch refuses to copy computed tensors (old norms have some), and the user's classes may refuse too.
            return make()[0]

    return fresh, loading


def _run_both(first: Fresh, second: Fresh, options: RunOptions) -> ModelCheck:
    """Run both models in float64 where possible, and in float32 to measure their rounding."""
    spec = options.model_after or options.model
    rough = run_model(first(), options, torch.float32, options.model, watch=True)
    try:
        before = run_model(first(), options, torch.float64, options.model, watch=True)
    except CannotConvert:
        # It runs in float32, as above, but not in float64: it casts its input.
        low = rough.low | {"float32"}
        after = run_model(second(), options, torch.float32, spec)
        limits = _sensitivity(first, rough.leaves, low, options, torch.float32)
        return _compare(rough.leaves, after.leaves, limits, low, options)
    after = run_model(second(), options, torch.float64, spec, watch=True)
    low = before.low | after.low
    if low:
        limits = _sensitivity(first, before.leaves, low, options, torch.float64)
        return _compare(before.leaves, after.leaves, limits, low, options)
    limits = {
        place: _SLACK * (_FLOAT32_TO_64 * _error(value, rough.leaves.tensors.get(place)) + 2.0**-53 * _size(value))
        for place, value in before.leaves.tensors.items()
    }
    return _compare(before.leaves, after.leaves, limits, low, options)


def _sensitivity(
    first: Fresh, outputs: Leaves, low: frozenset[str], options: RunOptions, dtype: torch.dtype
) -> dict[str, float]:
    """The largest difference allowed between two equal models, by place: eight times what an output changes when each
    parameter moves by up to two roundoffs of the coarsest dtype in `low`, plus two units in its last place.
    """
    unit = max(torch.finfo(getattr(torch, name)).eps for name in low)
    generator = torch.Generator().manual_seed(options.seed + 1)
    moved: dict[str, float] = {}
    for _ in range(2):
        model = in_dtype(first(), dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                factor = 1 + unit * (2 * torch.rand(parameter.shape, generator=generator) - 1)
                parameter.mul_(factor.to(parameter))
        near = run_model(model, options, dtype, options.model).leaves
        for place, value in outputs.tensors.items():
            moved[place] = max(moved.get(place, 0.0), _error(value, near.tensors.get(place)))
    return {place: 8 * far + 2 * unit * _size(outputs.tensors[place]) for place, far in moved.items()}


def _error(exact: torch.Tensor, rough: torch.Tensor | None) -> float:
    """How far off another run is; a millionth of the largest number where that is not known."""
    far = _distance(exact, rough) if rough is not None and rough.shape == exact.shape else float("inf")
    return far if far < float("inf") else _size(exact) * 2.0**-20


def _size(tensor: torch.Tensor) -> float:
    wide = _comparable(tensor)
    return float(torch.nan_to_num(wide.abs(), nan=0.0, posinf=0.0).max()) if wide.numel() else 0.0


def _notes(before: Leaves, low: Collection[str], options: RunOptions) -> tuple[str, ...]:
    notes = [f"eval mode, seed {options.seed}, on {options.device}"]
    if low:
        notes.append(
            f"the model computes in {', '.join(sorted(low))} inside, so it is held to that dtype's rounding only"
        )
    if options.gradients and not any(place.startswith(GRADIENT) for place in before.tensors):
        notes.append("no gradient was compared: no output depends on a parameter that asks for one")
    return tuple(notes)


def _compare(
    before: Leaves, after: Leaves, limits: Mapping[str, float], low: Collection[str], options: RunOptions
) -> ModelCheck:
    """Each output against the other model's, and against what rounding explains.

    Args:
        before: Outputs before, by place.
        after: Outputs after.
        limits: By place, the most that rounding explains, of floating numbers.
        low: dtypes below float64 in which the model computes inside.
        options: How it was run.
    """
    notes = _notes(before, low, options)
    if before.places != after.places:
        differing = [place for place, _ in before.places.items() ^ after.places.items()]
        return ModelCheck({}, f"the two models give different outputs: {min(differing)}", notes=notes)
    outputs: dict[str, tuple[float, float]] = {}
    cause = ""
    for place, value in before.tensors.items():
        value_after = after.tensors[place]
        if place.startswith(GRADIENT):
            last = place.removeprefix(GRADIENT).removesuffix(".weight") in options.last
            value_after = _with_groups_of(value, _in_order(value, value_after) if last else value_after)
        if value.shape != value_after.shape:
            cause = f"{place} has shape {tuple(value.shape)} before and {tuple(value_after.shape)} after"
            return ModelCheck(outputs, cause, notes=notes)
        distance = _distance(value, value_after)
        limit = limits[place] if value.is_floating_point() or value.is_complex() else 0.0
        outputs[place] = (distance, limit)
        if not cause and not distance <= limit:
            cause = f"{place} differs by {distance:.3g}, where rounding explains {limit:.3g}"
    unequal_places = dict(unequal(before.plain, after.plain))
    for place, what in unequal_places.items():
        cause = cause or f"{place} differs: {what}"
    plain = {place: place not in unequal_places for place in before.plain}
    return ModelCheck(outputs, cause, plain, before.other, notes)


def _in_order(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The gradient after, where patches have their channels last on one side: (O, I, k) there, (O, k·I) here."""
    if before.dim() == after.dim() or before.numel() != after.numel():
        return after
    if before.dim() > after.dim():
        return after.reshape(before.shape[0], -1, before.shape[1]).movedim(-1, 1)
    return after.movedim(1, -1)


def _with_groups_of(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """A weight's gradient after, as the one before; for expanded groups only the diagonal blocks, which they had."""
    if before.dim() != after.dim() and before.shape[:1] == after.shape[:1] and before.numel() == after.numel():
        return after.reshape(before.shape)  # of a convolution over patches and its Linear
    if not before.dim() == after.dim() == 2 or before.shape[0] != after.shape[0]:
        return after
    groups, rest = divmod(after.shape[1], before.shape[1] or 1)
    return after if rest or before.shape[0] % max(groups, 1) else own_blocks(after, before.shape[1], groups)


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference; Inf where only one is not finite. Equal Inf, and NaN in both, count as equal."""
    a, b = _comparable(a), _comparable(b)
    same = (a == b) | (torch.isnan(a) & torch.isnan(b))
    distances = torch.where(same, 0, (a - b).abs())
    return float(torch.nan_to_num(distances, nan=float("inf")).max()) if distances.numel() else 0.0


def _comparable(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return tensor if tensor.is_complex() else tensor.double()
