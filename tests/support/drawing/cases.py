"""One drawn case: a model, a container, a change; and what must hold of what is said and written."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import convinspect
from convinspect.checkpoint import Checkpoint
from convinspect.converting.job import Job
from convinspect.kinds import TRANSFORMERS_CONV1D
from convinspect.records import Layer
from support.drawing.corruptions import corrupted
from support.drawing.models import CONTAINERS, GRAPHS, Model, Saved, copied, draw_graph, draw_model, save
from support.drawing.truth import is_plain_pointwise, is_pointwise_transposed, named_modules, same_bits, wrong_claims

SHARE_OF_GRAPHS = 0.08
"""They take ten times as long to make as the rest."""


class Miss(AssertionError):
    """Something that was said or written is not so."""


def run(seed: int, folder: Path, graphs: float = SHARE_OF_GRAPHS) -> Counter[str]:
    """Draw the case of a seed in an empty folder, and hold what is said and written against PyTorch.

    Returns:
        What was seen, counted: containers, leaves, conversions, refusals, corruptions.

    Raises:
        Miss: Something is not so, with what was drawn.
    """
    random = Random(seed)
    torch.manual_seed(seed)
    is_graph = random.random() < graphs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = (draw_graph if is_graph else draw_model)(random)
    container = random.choice(tuple(GRAPHS if is_graph else CONTAINERS))
    seen = Counter({"cases": 1, f"in {container}": 1, **{f"leaf {kind}": 1 for kind in model.kinds}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = save(model, folder, container)
        if saved is None:
            return seen + Counter({"not written by PyTorch": 1})
        try:
            _check_listing(model, saved, seen)
            _check_change(model, saved, random, folder, seen)
        except Exception as error:
            raise Miss(f"{', '.join(model.kinds)} as {container}: {_brief(error)}") from error
    return seen


def _brief(error: Exception) -> str:
    return " ".join(repr(error).split())[:400]


# ------------------------------------------------------------------------------------------------------ listing


def _check_listing(model: Model, saved: Saved, seen: Counter[str]) -> None:
    """All tensors are there with their numbers, all layers are there, and nothing that is said of them is wrong."""
    with convinspect.open(saved.path) as checkpoint:
        _check_tensors(checkpoint, saved)
        layers = {layer.name: layer for layer in convinspect.find_layers(checkpoint)}
        for name, module in named_modules(model.module):
            if not any(key.startswith(f"{name}.") for key in saved.state):
                continue
            if name not in layers:
                if saved.is_graph:
                    seen["not named in a graph"] += 1
                    continue
                raise Miss(f"{name} is not listed")
            seen["modules"] += 1
            seen[f"evidence {layers[name].evidence}"] += 1
            wrong = wrong_claims(layers[name], module)
            if wrong:
                raise Miss(f"{name}: {'; '.join(wrong)} ({module}; {layers[name]})")


def _check_tensors(checkpoint: Checkpoint, saved: Saved) -> None:
    tensors = {
        key: value
        for key, value in saved.state.items()
        # A quantized module keeps these two as numbers; its state_dict makes tensors of them.
        if isinstance(value, torch.Tensor) and not (saved.holds_modules and key.endswith(("scale", "zero_point")))
    }
    if set(tensors) - set(checkpoint) and not saved.is_graph:
        raise Miss(f"not listed: {sorted(set(tensors) - set(checkpoint))}")
    for key, value in tensors.items():
        if key not in checkpoint:
            continue
        record = checkpoint[key]
        said = (record.shape, record.dtype)
        true = (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        if said != true:
            raise Miss(f"{key}: {said}, is {true}")
        if value.dtype in (torch.float32, torch.float64, torch.int64) and record.layout == "strided":
            numbers = torch.from_numpy(checkpoint.read(key).copy())
            if not same_bits(numbers, value):
                raise Miss(f"{key} has other numbers")


# ------------------------------------------------------------------------------------------------------- change

TARGETS = ("linear", "linear", "conv1d", "conv2d")
TRIES = 4
"""Most drawn models have a layer or two that can be converted, and most drawn options ask for others."""
ORIGINS: tuple[tuple[str, ...], ...] = ((), (), ("any",), ("conv2d",), ("conv1d", "conv2d"))


def _check_change(model: Model, saved: Saved, random: Random, folder: Path, seen: Counter[str]) -> None:
    for _ in range(TRIES):
        options, target = _drawn_options(saved, random, folder)
        try:
            job = convinspect.convert(saved.path, target, **options)
            break
        except convinspect.ConvInspectError as error:
            seen["refused"] += 1
            seen[f"because {str(error).split(':')[-1][:60]}"] += 1
            if target.exists():
                raise Miss(f"refused and written: {error}") from error
    else:
        return
    if not target.exists():
        raise Miss("not refused and not written")
    seen["changed"] += 1
    wrong = [each for each in job.plan.conversions if not _is_right(each.layer, each.assumed, model, seen)]
    seen["conversions"] += len(job.plan.conversions)
    is_plain = bool(options.get("state_dict") or options.get("fuse")) or target.suffix != saved.path.suffix
    after = _load_after(target, saved, is_plain)
    _check_numbers(saved, job, after, options)
    if wrong:
        return
    if not saved.is_graph and not options.get("fuse") and "quantized dynamically" not in model.kinds:
        # A quantized module does not load from a state_dict without versions.
        _check_outputs(model, {each.layer.name: each.to for each in job.plan.conversions}, after, saved, seen)
    _check_verdict(saved, target, options, random, folder, seen)


def _drawn_options(saved: Saved, random: Random, folder: Path) -> tuple[dict[str, Any], Path]:
    """Options of a conversion, and its target."""
    options: dict[str, Any] = {"to": random.choice(TARGETS), "from_": random.choice(ORIGINS)}
    if saved.holds_modules and random.random() < 0.6:
        options["state_dict"] = True
    elif random.random() < 0.15:
        options["fuse"] = True
    if random.random() < 0.3:
        names = [layer.name for layer in convinspect.find_layers(convinspect.open(saved.path))]
        if names:
            options["layer"] = random.choice(names)
    suffix = saved.path.suffix
    if random.random() < 0.15 and suffix in (".pt", ".safetensors") and not saved.is_graph:
        suffix = ".safetensors" if suffix == ".pt" else ".pt"
    return options, folder / f"target{suffix}"


def _is_right(layer: Layer, assumed: tuple[str, ...], model: Model, seen: Counter[str]) -> bool:
    """Whether a layer may be converted; one that is none of the other kind is, by assumptions that were told."""
    module = _module(model.module, layer.name)
    is_linear = isinstance(module, nn.Linear) and layer.kind == "Linear"
    if module is None or is_linear or is_plain_pointwise(module):
        return True
    if layer.kind.startswith("ConvTranspose") and is_pointwise_transposed(module):
        return True
    if layer.evidence == "module" or not (assumed or layer.doubts):
        raise Miss(f"{layer.name} is {module} and was converted as {layer}")
    seen["converted by an assumption that is wrong"] += 1
    return False


def _module(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _load_after(target: Path, saved: Saved, is_plain: bool) -> dict[str, Any]:
    """The target's state_dict, as PyTorch or safetensors load it, without a wrapper's prefix."""
    if target.suffix == ".safetensors":
        state = load_file(target)
    else:
        state = torch.load(target, weights_only=True) if is_plain else saved.load(target)
    return {key.removeprefix("module."): value for key, value in state.items()}


def _check_numbers(saved: Saved, job: Job, after: dict[str, Any], options: dict[str, Any]) -> None:
    """Every tensor is there with its numbers, and those of other layers have their shapes too."""
    converted = {conversion.layer.name for conversion in job.plan.conversions}
    # A Linear without bias that is named as GPT-2's layers is read as (in, out), and that is said to be in doubt.
    turned = {
        each.layer.name
        for each in job.plan.conversions
        if each.layer.kind == TRANSFORMERS_CONV1D or each.layer.kind.startswith("ConvTranspose")
    }
    for key, value in saved.state.items():
        if not isinstance(value, torch.Tensor) or (saved.holds_modules and key.endswith(("scale", "zero_point"))):
            continue
        if key not in after:
            if options.get("fuse") or (saved.is_graph and options.get("state_dict")):
                continue
            raise Miss(f"{key} is gone")
        name = key.rpartition(".")[0]
        is_converted = any(name == part or name.startswith(f"{part}.") for part in converted)
        if after[key].dtype != value.dtype:
            raise Miss(f"{key} has another dtype")
        if not is_converted and not job.followers and not same_bits(after[key], value):
            raise Miss(f"{key} was not converted and is another: {tuple(value.shape)} → {tuple(after[key].shape)}")
        lies = value.transpose(0, 1) if name in turned and value.dim() > 1 else value
        if not same_bits(after[key].reshape(-1), lies.reshape(-1)):
            raise Miss(f"{key} has other numbers")


def _check_outputs(
    model: Model, conversions: dict[str, str], after: dict[str, Any], saved: Saved, seen: Counter[str]
) -> None:
    other = copied(model.module).eval()
    first = copied(model.module).eval()
    for name, to in conversions.items():
        parent, _, last = name.rpartition(".")
        module = other.get_submodule(name)
        if type(module) not in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) or hasattr(module, "parametrizations"):
            return
        if set(module._parameters) | set(module._buffers) != {"weight", "bias"} or module._forward_pre_hooks:
            return
        setattr(other.get_submodule(parent), last, exchanged(module, to))
    if saved.container.endswith("safetensors") or len(set(map(id, other.state_dict().values()))) != len(after):
        missing = other.load_state_dict(after, strict=False)
        if missing.unexpected_keys:
            raise Miss(f"unexpected keys {missing.unexpected_keys}")
        if [key for key in missing.missing_keys if isinstance(saved.state.get(key), torch.Tensor)]:
            raise Miss(f"missing keys {missing.missing_keys}")
    else:
        other.load_state_dict(after, strict=True)
    seen["loaded strictly"] += 1
    for name, inputs in model.inputs.items():
        if inputs and not any(isinstance(part, nn.Dropout) for part in first.get_submodule(name).modules()):
            _compare(first.get_submodule(name), other.get_submodule(name), inputs, name, seen)


def exchanged(module: Any, to: str) -> nn.Module:
    """A new layer of kind `to` with a converted one's sizes, called as the old one is."""
    outer, inner = module.weight.shape[:2]
    more: dict[str, Any] = {"bias": module.bias is not None, "dtype": module.weight.dtype}
    dims = module.weight.dim() - 2
    new = nn.Linear(inner, outer, **more) if to == "Linear" else getattr(nn, to)(inner, outer, 1, **more)
    return Called(new, dims)


class Called(nn.Module):
    """A converted layer that takes what the old one took; its tensors keep their names."""

    def __init__(self, new: Any, dims: int) -> None:
        super().__init__()
        self.new, self.dims = [new], dims
        self.weight, self.bias = new.weight, new.bias

    def forward(self, x: torch.Tensor) -> Any:
        new, channels = self.new[0], 1 if self.dims else x.dim() - 1
        rows = x.movedim(channels, -1)
        flat = rows.reshape(-1, rows.shape[-1])
        kernel = new.weight.dim() - 2
        out = new(flat.reshape(*flat.shape, *([1] * kernel))) if kernel else new(flat)
        return out.reshape(*rows.shape[:-1], -1).movedim(-1, channels)


def _compare(
    first: nn.Module, other: nn.Module, inputs: tuple[torch.Tensor, ...], name: str, seen: Counter[str]
) -> None:
    with torch.no_grad():
        expected, outputs = first(*inputs), other(*inputs)
    for a, b in zip(_flat(expected), _flat(outputs), strict=True):
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise Miss(f"{name} computes something else")
    seen["outputs compared"] += 1


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value or () for tensor in _flat(part)] if isinstance(value, (tuple, list)) else []


# ------------------------------------------------------------------------------------------------------ verdict


def _check_verdict(
    saved: Saved, target: Path, options: dict[str, Any], random: Random, folder: Path, seen: Counter[str]
) -> None:
    """`verify` says that the right conversion is equal, and that a wrong one is not."""
    named = options.get("layer", ())
    report = convinspect.verify(saved.path, target, layer=named, bits=random.random() < 0.7)
    if not report.equal:
        raise Miss(f"a right conversion is called wrong: {report.cause}, {options}")
    seen["verified"] += 1
    if saved.container not in ("state_dict", "state_dict of before 1.6", "safetensors") or not target.is_file():
        return
    wrong = corrupted(target, folder / f"wrong{target.suffix}", random)
    if wrong is None:
        return
    what, path, is_wrong = wrong
    try:
        report = convinspect.verify(saved.path, path, bits=random.random() < 0.7)
    except convinspect.ConvInspectError as error:
        if not is_wrong:
            raise Miss(f"{what}: verify says {error}") from error
        seen[f"corruption {what} is an error"] += 1
        return
    # What is no layer may have any shape that a model's code gives it: this is told, and is no error.
    told = what in ("rank", "flattened") and bool(report.reshaped)
    if (report.equal and is_wrong and not told) or (what == "saved_anew" and not report.equal):
        raise Miss(f"{what}: verify says {'equal' if report.equal else f'not equal, {report.cause}'} ({options})")
    seen[f"corruption {what}"] += 1
