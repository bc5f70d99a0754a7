"""One drawn model of convolutions that cut patches, some that nearly do, and transposed ones; converted and gone back.

What is written is loaded strictly into Linear layers by PyTorch, and must compute what the convolutions computed,
within what rounding in float64 can do.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import convinspect
from convinspect.converting.job import Job
from support.drawing.models import CONTAINERS, GRAPHS, Drawn, Model, Saved, save
from support.drawing.truth import CONVS, TRANSPOSED, same_bits

_NAMES = ("patch_embed", "visual.patch_embed.proj", "conv_proj", "stem", "up", "m", "layers.0.conv", "patch_embedding")
_CONVS: tuple[Any, ...] = CONVS
_SETTINGS: tuple[dict[str, Any], ...] = (
    {}, {}, {}, {"dilation": 2}, {"stride": 2}, {"padding": 1}, {"groups": 2}, {"dilation": 2, "output_padding": 1},
)  # fmt: skip
"""Of transposed convolutions."""
_DTYPES = (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
_FORMATS: dict[int, Any] = {4: torch.channels_last, 5: torch.channels_last_3d}


class Miss(AssertionError):
    """Something that was said or written is not so."""


class Plan(dict[str, nn.Module]):
    """The drawn layers by name."""


def run(seed: int, folder: Path) -> Counter[str]:
    """Draw the case of a seed in an empty folder, convert it and go back.

    Returns:
        What was seen, counted.

    Raises:
        Miss: Something is not so, with what was drawn.
    """
    random = Random(seed)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = _draw(random)
        is_graph = len(layers) == 1 and random.random() < 0.2
        container = random.choice(tuple(GRAPHS if is_graph else CONTAINERS))
        saved = save(_model(layers), folder, container)
        seen = Counter({"cases": 1, f"in {container}": 1})
        if saved is None:
            return seen + Counter({"not written by PyTorch": 1})
        try:
            return seen + _check(layers, saved, random, folder)
        except Exception as error:
            drawn = f"{dict(layers)} as {container}".replace("\n", " ")
            raise Miss(f"{drawn}: {' '.join(repr(error).split())[:500]}") from error


# ------------------------------------------------------------------------------------------------------- drawing


def _draw(random: Random) -> Plan:
    layers, dtype = Plan(), random.choice(_DTYPES)
    last = random.random() < 0.4
    for number in range(random.choice((1, 1, 2, 3))):
        name = random.choice(_NAMES)
        name = f"{name}{number}" if any(name.split(".")[0] == other.split(".")[0] for other in layers) else name
        draw = random.choice((_patch, _patch, _near_miss, _transposed, _linear))
        layer = draw(random).to(dtype)
        if (last or random.random() < 0.1) and layer.weight.dim() in _FORMATS:
            layer = layer.to(memory_format=_FORMATS[layer.weight.dim()])
        layers[name] = layer.eval()
    return layers


def _kernel(random: Random) -> tuple[int, ...]:
    return tuple(random.choice((1, 2, 2, 3, 4)) for _ in range(random.choice((1, 2, 2, 3))))


def _patch(random: Random, **more: Any) -> Any:
    kernel = _kernel(random)
    if set(kernel) == {1}:
        kernel = (2, *kernel[1:])
    settings = {"stride": kernel, "bias": random.random() < 0.7, **more}
    groups = settings.get("groups", 1)
    widths = (random.choice((1, 2, 3)) * groups, random.choice((1, 2, 5)) * groups)
    return _CONVS[len(kernel) - 1](*widths, kernel, **settings)


def _near_miss(random: Random) -> Any:
    return random.choice((
        lambda: _patch(random, padding=1),
        lambda: _patch(random, stride=1),
        lambda: _patch(random, groups=2),
        lambda: _patch(random, dilation=2),
        lambda: _patch(random, padding=1, padding_mode="circular"),
    ))()  # fmt: skip


def _transposed(random: Random) -> Any:
    dims = random.choice((1, 2, 3))
    settings = random.choice(_SETTINGS)
    kernel = random.choice((1, 1, 1, 2))
    bias = random.random() < 0.7
    return TRANSPOSED[dims - 1](random.choice((2, 4)), random.choice((2, 4, 6)), kernel, bias=bias, **settings)


def _linear(random: Random) -> Any:
    return nn.Linear(random.choice((8, 12)), random.choice((4, 8)), bias=random.random() < 0.7)


def _model(layers: Plan) -> Model:
    module = Drawn() if len(layers) > 1 else _Alone(next(iter(layers)))
    inputs: dict[str, tuple[torch.Tensor, ...]] = {}
    for name, layer in layers.items():
        parent: nn.Module = module
        *levels, last = name.split(".")
        for level in levels:
            if level not in dict(parent.named_children()):
                parent.add_module(level, nn.Module())
            parent = parent.get_submodule(level)
        parent.add_module(last, layer)
        inputs[name] = (_input(layer),)
    return Model(module.eval(), inputs, ())


class _Alone(nn.Module):
    """One layer under a `forward`, for graphs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor) -> Any:
        return self.get_submodule(self.name)(x)


def _input(layer: Any) -> torch.Tensor:
    """Sizes that are a multiple of no kernel, so that a patch at the end is cut off."""
    if isinstance(layer, nn.Linear):
        return torch.randn(2, layer.in_features, dtype=layer.weight.dtype)
    sizes = (2 * size + (size - 1) + 2 for size in layer.kernel_size)
    return torch.randn(2, layer.in_channels, *sizes, dtype=layer.weight.dtype)


# ------------------------------------------------------------------------------------------------------- checking


def _cuts_patches(layer: Any) -> bool:
    """Whether a convolution is a Linear over patches, by PyTorch's own settings."""
    if not isinstance(layer, CONVS) or set(layer.kernel_size) == {1}:
        return False
    gaps = any(step != 1 for step, size in zip(layer.dilation, layer.kernel_size, strict=True) if size != 1)
    return layer.stride == layer.kernel_size and not any(layer.padding) and layer.groups == 1 and not gaps


def _is_matrix(layer: Any) -> bool:
    """Whether a transposed convolution is a Linear."""
    ones = isinstance(layer, TRANSPOSED) and set(layer.kernel_size) == {1} and set(layer.stride) == {1}
    return ones and layer.groups == 1 and not any(layer.padding) and not any(layer.output_padding)


def _options(layers: Plan, saved: Saved, random: Random) -> dict[str, Any]:
    turned = random.random() < 0.4
    options: dict[str, Any] = {"to": "linear"}
    options |= {"from_": [f"convtranspose{dims}d" for dims in (1, 2, 3)]} if turned else {"patches": True}
    if not turned and random.random() < 0.5:
        options["patch_order"] = "hwc"
    if random.random() < 0.5:
        options["layer"] = random.sample(list(layers), random.randint(1, len(layers)))
    return options | ({"state_dict": True} if saved.holds_modules else {})


TRIES = 3
"""Most drawn models have a layer that can be converted, and many drawn options ask for others."""


def _converted(layers: Plan, saved: Saved, random: Random, target: Path, seen: Counter[str]) -> tuple[Job, Any] | None:
    for _ in range(TRIES):
        options = _options(layers, saved, random)
        try:
            plan = convinspect.convert(saved.path, None, dry_run=True, **options).plan
            # What is named and refused would refuse the others.
            asked = [conversion.layer.name for conversion in plan.conversions]
            return convinspect.convert(saved.path, target, **{**options, "layer": asked}), {**options, "layer": asked}
        except convinspect.ConvInspectError as error:
            seen["refused"] += 1
            seen[f"because {str(error).split(':')[-1][:50]}"] += 1
            if target.exists():
                raise Miss(f"refused and written: {error}") from error
    return None


def _check(layers: Plan, saved: Saved, random: Random, folder: Path) -> Counter[str]:
    seen: Counter[str] = Counter()
    target = folder / f"target{saved.path.suffix if not saved.is_graph else '.pt'}"
    done = _converted(layers, saved, random, target, seen)
    if done is None:
        return seen
    job, options = done
    last = "patch_order" in options
    state = _loaded(target, saved, bool(options.get("state_dict")))
    right = [_is_right(layers, each.layer.name, each.layer.evidence, each.assumed) for each in job.plan.conversions]
    seen["taken by an assumption that is wrong"] += right.count(False)
    for each in job.plan.conversions:
        _check_outputs(layers[each.layer.name], each.layer.name, state, last, seen)
    if all(right):
        _check_verdict(saved, target, options, random, seen)
    if not saved.holds_modules:
        _check_back(layers, job, saved, folder, last, seen)
    return seen


def _is_right(layers: Plan, name: str, evidence: str, assumed: tuple[str, ...]) -> bool:
    """Whether a layer may be converted; one that is no Linear is taken by assumptions alone that are told."""
    layer = layers[name]
    if _cuts_patches(layer) or _is_matrix(layer):
        return True
    if evidence == "module" or not assumed:
        raise Miss(f"{name} is {layer} and was converted without a word")
    return False


def _loaded(target: Path, saved: Saved, is_plain: bool) -> dict[str, Any]:
    if is_plain:
        return dict(torch.load(target, weights_only=True))
    return dict(saved.load(target))


def _check_outputs(layer: Any, name: str, state: dict[str, Any], last: bool, seen: Counter[str]) -> None:
    """What the Linear of the new weight gives is what the convolution gives."""
    own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
    if not (_cuts_patches(layer) or _is_matrix(layer)):
        return
    rows, columns = own["weight"].shape
    linear = nn.Linear(columns, rows, "bias" in own, dtype=layer.weight.dtype)
    linear.load_state_dict(own, strict=True)
    x = _input(layer).double()
    with torch.no_grad():
        wanted = layer.double()(x)
        flat = _rows(x, layer.kernel_size, last)
        given = linear.double()(flat).movedim(-1, 1)
        size = functional.linear(flat.abs(), linear.weight.abs()).movedim(-1, 1)
    layer.to(own["weight"].dtype)
    bias = linear.bias.abs().max() if linear.bias is not None else 0
    if (
        given.shape != wanted.shape
        or not ((given - wanted).abs() <= 2 * (columns + 1) * 2.0**-53 * (size + bias)).all()
    ):
        raise Miss(f"{name} computes something else")
    seen["outputs compared"] += 1
    seen["patches, channels last" if last else "patches" if max(layer.kernel_size) > 1 else "transposed"] += 1


def _rows(x: torch.Tensor, kernel: tuple[int, ...], last: bool) -> torch.Tensor:
    for axis, size in enumerate(kernel, 2):
        x = x.unfold(axis, size, size)
    return x.movedim(1, -1 if last else 1 + len(kernel)).flatten(1 + len(kernel))


def _check_verdict(saved: Saved, target: Path, options: dict[str, Any], random: Random, seen: Counter[str]) -> None:
    report = convinspect.verify(saved.path, target, layer=options["layer"], bits=random.random() < 0.5)
    if not report.equal:
        raise Miss(f"a right conversion is called wrong: {report.cause}")
    seen["verified"] += 1


def _check_back(layers: Plan, job: Job, saved: Saved, folder: Path, last: bool, seen: Counter[str]) -> None:
    """The way back, layer by layer, gives the same bytes; or it was said that it does not."""
    at = job.target
    assert at is not None
    for number, each in enumerate(job.plan.conversions):
        layer, name = each.layer, each.layer.name
        back: dict[str, Any] = {"to": layer.kind.lower(), "layer": name}
        if each.patch:
            back |= {"patch": each.patch, "in_channels": each.old_shape[1]}
            back |= {"patch_order": "hwc"} if last else {}
        new = folder / f"back{number}{saved.path.suffix}"
        convinspect.convert(at, new, **back)
        at = new
    before, after = saved.load(saved.path), saved.load(at)
    for key, value in before.items():
        if isinstance(value, torch.Tensor) and not same_bits(value, after[key]):
            raise Miss(f"{key} comes back as another")
    is_said = any("converting back" in note for note in job.notes)
    if (_contents(saved.path) == _contents(at)) is is_said:
        raise Miss(f"the bytes are {'the same' if is_said else 'others'}, said: {is_said}")
    seen["other strides, said" if is_said else "the same bytes"] += 1


def _contents(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        return {one.name: one.read_bytes() for one in sorted(path.iterdir())}
    return {"": path.read_bytes()}
