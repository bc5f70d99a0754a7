"""The whole model, before and after, in the user's own code: strict loading, then outputs (and gradients) in float64.

A deep model has no bound on its rounding that would be worth deriving. But rounding errors grow with the unit
roundoff: what float32 is off by, float64 is off by about 2⁻²⁹ of (Higham 2002, chapter 3: forward errors are of first
order in u). So the model is run once in float32 too, and the two models may differ in float64 by 2¹⁰ times 2⁻²⁹ of that
error, and by 2¹⁰ roundoffs of the largest output. Where the model computes in less than float64 inside whatever it is
given, that is noticed. What it then makes of rounding is measured: its parameters are moved at random by up to two
roundoffs of the coarsest dtype seen, twice, and the two models may differ by eight times what that changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from convinspect import numbers
from convinspect.checkpoint import Checkpoint
from convinspect.convert import TARGETS
from convinspect.devices import full_float32
from convinspect.errors import CannotConvert, CannotShow
from convinspect.leaves import Leaves, leaves, unequal
from convinspect.modules import swap_pointwise
from convinspect.outputs import own_blocks
from convinspect.tensors import as_torch
from convinspect.user_models import built
from convinspect.wording import an, dimension

_SLACK = 2.0**10
_GRADIENT = "gradient of "
_FLOAT32_TO_64 = 2.0**-29
_NOTHING = {type(None), type}
"""Classes of plain outputs that say nothing: None, and empty containers, which are held as their class."""
_TARGETS = {kind: name for name, kind in TARGETS.items()}


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """The whole model's outputs, before and after.

    Attributes:
        outputs: By the output's place, the largest difference in float64 and the most that rounding explains.
        plain: By the place of outputs that are whole numbers, text, None and the like: whether they are equal.
        unread: By the place of outputs of a kind that cannot be compared, the name of its class.
        cause: The first thing that is wrong; "" when all is well.
        notes: What a user should know of how it was run.
    """

    outputs: Mapping[str, tuple[float, float]]
    cause: str = ""
    plain: Mapping[str, bool] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """How to run a model.

    Attributes:
        model: `package.module:Class_or_factory` for the file before.
        model_after: The same for the file after; "" to swap layers of `model`.
        inputs: The forward call's arguments, in order; floating ones in float64.
        seed: Set before every run, so that random layers draw the same.
        device: Where to run.
        gradients: Also compare gradients of the parameters.
    """

    model: str
    model_after: str
    inputs: tuple[torch.Tensor, ...]
    seed: int = 0
    device: str = "cpu"
    gradients: bool = False


def try_models(before: Checkpoint, after: Checkpoint, kinds: Mapping[str, str], trial: Trial) -> ModelCheck:
    """Load both strictly and run them.

    Args:
        before: Weights before.
        after: Weights after.
        kinds: Layers that were converted, with their kind after.
        trial: How.

    Raises:
        CannotConvert: A model cannot be built, does not take the file before, or fails on these inputs.
    """
    first = built(trial.model, meta=False)
    problem = _load(first, before)
    if problem:
        raise CannotConvert(f"{before.path.name} does not load into {trial.model}: {problem}")
    second = built(trial.model_after or trial.model, meta=False)
    if not trial.model_after:
        _swap(second, kinds)
    problem = _load(second, after)
    if problem:
        into = trial.model_after or f"{trial.model} with its layers swapped"
        return ModelCheck({}, f"{after.path.name} does not load strictly into {into}: {problem}")
    spec = trial.model_after or trial.model
    seen: set[str] = set()
    low: set[str] = set()
    rough = _run(first.float(), trial, torch.float32, trial.model, seen)
    try:
        one = _run(first.double(), trial, torch.float64, trial.model, low)
    except CannotConvert:
        # It runs in float32, as was just seen, and casts its input to it.
        low = seen | {"float32"}
        other = _run(second.float(), trial, torch.float32, spec)
        return _compared(rough, other, _sensitivity(first.float(), rough, low, trial, torch.float32), low, trial)
    other = _run(second.double(), trial, torch.float64, spec, low)
    if low:
        return _compared(one, other, _sensitivity(first, one, low, trial, torch.float64), low, trial)
    limits = {
        place: _SLACK * (_FLOAT32_TO_64 * _error(value, rough.tensors.get(place)) + 2.0**-53 * _size(value))
        for place, value in one.tensors.items()
    }
    return _compared(one, other, limits, low, trial)


def _sensitivity(model: nn.Module, found: Leaves, low: set[str], trial: Trial, dtype: torch.dtype) -> dict[str, float]:
    """The most that two right models may differ by, from how far each output moves when every parameter moves by up to
    two roundoffs of the coarsest dtype in `low`; and two units in the last place of that dtype at least.
    """
    unit = max(torch.finfo(getattr(torch, name)).eps for name in low)
    generator = torch.Generator().manual_seed(trial.seed + 1)
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    moved: dict[str, float] = {}
    for _ in range(2):
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), kept, strict=True):
                factor = 1 + unit * (2 * torch.rand(value.shape, generator=generator) - 1)
                parameter.copy_(value * factor.to(value))
        near = _run(model, trial, dtype, trial.model)
        for place, value in found.tensors.items():
            moved[place] = max(moved.get(place, 0.0), _error(value, near.tensors.get(place)))
    return {place: 8 * far + 2 * unit * _size(found.tensors[place]) for place, far in moved.items()}


def _error(exact: torch.Tensor, rough: torch.Tensor | None) -> float:
    """How far off another run is; a millionth of the largest number where that cannot be told."""
    far = _apart(exact, rough) if rough is not None and rough.shape == exact.shape else float("inf")
    return far if far < float("inf") else _size(exact) * 2.0**-20


def _size(tensor: torch.Tensor) -> float:
    wide = _comparable(tensor)
    return float(torch.nan_to_num(wide.abs(), nan=0.0, posinf=0.0).max()) if wide.numel() else 0.0


def _notes(low: set[str], trial: Trial) -> tuple[str, ...]:
    notes = [f"eval mode, seed {trial.seed}, on {trial.device}"]
    if low:
        notes.append(
            f"the model computes in {', '.join(sorted(low))} inside, so it is held to that dtype's rounding only"
        )
    return tuple(notes)


def _load(model: nn.Module, checkpoint: Checkpoint) -> str:
    """Load strictly; "" or what does not fit."""
    wanted = model.state_dict()
    stored = {tensor.key: tensor for tensor in checkpoint.root.tensors}
    # Wrappers' prefixes are kept where the model has them too.
    tensors = (
        stored
        if len(stored.keys() & wanted.keys()) >= len(checkpoint.tensors.keys() & wanted.keys())
        else checkpoint.tensors
    )
    try:
        state = {key: as_torch(numbers.read(tensor), tensor.dtype) for key, tensor in tensors.items()}
    except CannotShow as error:
        raise error.at(checkpoint.path) from None
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        return "; ".join(lines[:2]) + (f" (and {len(lines) - 2} more)" if len(lines) > 2 else "")
    return ""


def _swap(model: nn.Module, kinds: Mapping[str, str]) -> None:
    """Give the named layers their new kind.

    Raises:
        CannotConvert: One of them cannot be swapped.
    """
    for kind in dict.fromkeys(kinds.values()):
        names = {name for name, one in kinds.items() if one == kind}
        if kind not in _TARGETS:
            raise CannotConvert(f"layers became {kind}, which is not swapped here", "give --model-after")
        swaps = swap_pointwise(model, _TARGETS[kind], lambda name, module, names=names: name in names)  # type: ignore[arg-type, misc]
        if swaps.left:
            one = swaps.left[0]
            raise CannotConvert(f"layer {one.name} of the model cannot be swapped: {one.reason}", "give --model-after")
        lost = names - {one.name for one in swaps.swapped}
        if lost:
            raise CannotConvert(f"the model has no layer {sorted(lost)[0]} to swap", "give --model-after")


class _LowerDtypes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the floating dtypes below float64 in which operators give their results."""

    def __init__(self, found: set[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, torch.Tensor) and one.is_floating_point() and one.dtype != torch.float64:
                self.found.add(str(one.dtype).removeprefix("torch."))
        return result


def _run(model: nn.Module, trial: Trial, dtype: torch.dtype, spec: str, low: set[str] | None = None) -> Leaves:
    """The model's outputs, and gradients when asked for, by their place."""
    try:
        model = model.to(trial.device).eval()
        inputs = [x.to(trial.device, dtype) if x.is_floating_point() else x.to(trial.device) for x in trial.inputs]
        torch.manual_seed(trial.seed)
        # Inside, so that what the user's code set when it was imported does not count.
        with full_float32(), torch.set_grad_enabled(trial.gradients):
            if low is None:
                result = model(*inputs)
            else:
                with _LowerDtypes(low):
                    result = model(*inputs)
        found = leaves(result)
        if not any(one.numel() for one in found.tensors.values()) and set(map(type, found.plain.values())) <= _NOTHING:
            kinds = f" (it gives {', '.join(dict.fromkeys(map(an, found.other.values())))})" if found.other else ""
            raise CannotConvert(f"{spec} gives no numbers to compare{kinds}", "check --input")
        if trial.gradients:
            with full_float32():
                found.tensors |= _gradients(model, found.tensors)
        # One model at a time lies on the device, and no results.
        model.cpu()
        found.tensors = {place: one.detach().cpu() for place, one in found.tensors.items()}
        return found
    except CannotConvert:
        raise
    except Exception as error:  # The user's code may raise anything.
        text = str(error).strip().splitlines()
        raise CannotConvert(
            f"{spec} cannot be run on these inputs ({type(error).__name__}: {text[0] if text else ''})", "check --input"
        ) from None


def _gradients(model: nn.Module, outputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of Σ g·y over all floating outputs, g random, by parameter; each as (out, in) where it is pointwise."""
    generator = torch.Generator().manual_seed(1)
    total = None
    for y in outputs.values():
        if y.requires_grad:
            part = (torch.randn(y.shape, generator=generator).to(y) * y).sum()
            total = part if total is None else total + part
    if total is None:
        return {}
    names = dict(model.named_parameters())
    grads = torch.autograd.grad(total, list(names.values()), allow_unused=True)
    turned = {f"{name}.weight" for name, one in model.named_modules() if type(one).__name__ == "Conv1D"}
    return {
        f"{_GRADIENT}{name}": _as_matrix(grad, name in turned)
        for name, grad in zip(names, grads, strict=True)
        if grad is not None
    }


def _as_matrix(tensor: torch.Tensor, turned: bool) -> torch.Tensor:
    flat = tensor.squeeze() if tensor.dim() < 2 else tensor.reshape(*tensor.shape[:2], -1).squeeze(-1)
    return flat.mT if turned else flat


def _compared(
    one: Leaves,
    other: Leaves,
    limits: Mapping[str, float],
    low: set[str],
    trial: Trial,
) -> ModelCheck:
    """Each output against the other model's, and against what rounding explains.

    Args:
        one: Outputs before, by place.
        other: Outputs after.
        limits: By place, the most that rounding explains, of floating numbers.
        low: dtypes below float64 in which the model computes inside.
        trial: How it was run.
    """
    notes = _notes(low, trial)
    found: dict[str, tuple[float, float]] = {}
    cause = ""
    if one.places != other.places:
        odd = [place for place, _ in one.places.items() ^ other.places.items()]
        return ModelCheck({}, f"the two models give different outputs: {min(odd)}", notes=notes)
    for place, before in one.tensors.items():
        after = other.tensors[place]
        if place.startswith(_GRADIENT) and before.dim() == after.dim() == 2 and before.shape[0] == after.shape[0]:
            groups, rest = divmod(after.shape[1], before.shape[1] or 1)
            after = after if rest or before.shape[0] % max(groups, 1) else own_blocks(after, before.shape[1], groups)
        if before.shape != after.shape:
            cause = f"{place} has shape {tuple(before.shape)} before and {tuple(after.shape)} after"
            return ModelCheck(found, cause, notes=notes)
        apart = _apart(before, after)
        found[place] = (apart, limits[place] if before.is_floating_point() else 0.0)
        if not cause and not apart <= found[place][1]:
            cause = f"{place} differs by {apart:.3g}, where rounding explains {found[place][1]:.3g}"
    differing = dict(unequal(one.plain, other.plain))
    for place, what in differing.items():
        cause = cause or f"{place} differs: {what}"
    plain = {place: place not in differing for place in one.plain}
    return ModelCheck(found, cause, plain, one.other, notes)


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference; Inf where one alone is not finite. Equal Inf and NaN are no difference."""
    a, b = _comparable(a), _comparable(b)
    same = (a == b) | (torch.isnan(a) & torch.isnan(b))
    apart = torch.where(same, 0, (a - b).abs())
    return float(torch.nan_to_num(apart, nan=float("inf")).max()) if apart.numel() else 0.0


def _comparable(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return tensor if tensor.is_complex() else tensor.double()


def _is_plain(dtype: torch.dtype) -> bool:
    """Whether numbers can be drawn in it: not quantized, not bits."""
    whole = str(dtype).removeprefix("torch.").startswith(("int", "uint", "bool"))
    return dtype.is_floating_point or dtype.is_complex or whole


def parse_input(text: str, seed: int) -> torch.Tensor:
    """Random numbers of a shape and dtype such as "2x64x1024", "2x16:int64" or "2x16:int64:50257".

    Args:
        text: Sizes joined by x; then, after colons, the dtype (float32 by default) and, for integers, one more than
            the largest (2 by default).
        seed: Of the numbers.

    Raises:
        CannotShow: It is none of these.
    """
    sizes, _, rest = text.partition(":")
    name, _, most = rest.partition(":")
    dtype = getattr(torch, name or "float32", None)
    dims, limit = [dimension(part) for part in sizes.lower().split("x")], dimension(most or "2")
    shape = [size for size in dims if size is not None]
    if not isinstance(dtype, torch.dtype) or not _is_plain(dtype) or len(shape) != len(dims) or not limit:
        raise CannotShow(
            f"--input {text[:80]!r} is neither a file nor a shape",
            "write it as 2x64x1024, 2x16:int64 or 2x16:int64:1000",
        )
    generator = torch.Generator().manual_seed(seed)
    try:
        if dtype.is_floating_point or dtype.is_complex:
            drawn = torch.randn(shape, generator=generator)
            return drawn.to(dtype).to(torch.complex128 if dtype.is_complex else torch.float64)
        return torch.randint(0, limit, shape, generator=generator).to(dtype)
    except RuntimeError:
        raise CannotShow(f"--input {text!r} is more than there is memory for", "give a smaller one") from None
