"""What PyTorch, and what stands beside the weights, does differently with the three forms."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from after.forms import Case, Cells, Row, case, distance, each, features_last, percent


def outputs(one: Case) -> str:
    """Whether the outputs are the Linear's, but for rounding."""
    linear = case("Linear")
    apart = distance(features_last(one.model(one.data), one.form), linear.model(linear.data))
    return "the same within 1e-6" if apart < 1e-6 else f"apart by {percent(apart)}"


def structured(one: Case) -> str:
    """Shares of the weight that are zero after pruning three and seven tenths of the last axis."""
    shares = []
    for amount in (0.3, 0.7):
        layer = copy.deepcopy(one.layer)
        prune.ln_structured(layer, "weight", amount=amount, n=2, dim=-1)
        shares.append(percent(float((layer.weight == 0).float().mean())))
    return " and ".join(shares)


def orthogonal(one: Case) -> str:
    """Whether the 32 rows are orthonormal, and whether a gradient reaches what is trained."""
    layer: Any = parametrizations.orthogonal(one.layer)
    layer(one.data).square().mean().backward()
    weight = layer.weight.detach().flatten(1)
    gradient = layer.parametrizations.weight.original.grad
    if torch.allclose(weight @ weight.T, torch.eye(len(weight)), atol=1e-4):
        said = "orthonormal rows"
    elif torch.allclose(weight.abs(), torch.ones(())):
        said = "every number is 1 or −1"
    else:
        lengths = one.layer.weight.detach().flatten(1).norm(dim=1)
        said = "rows of length 1 each, not orthogonal" if torch.allclose(lengths, torch.ones(())) else "not orthogonal"
    return said if gradient.abs().max() > 0 else f"{said}, no gradient"


def spectral(dim: int) -> Callable[[], Cells]:
    """The largest singular value of the normalised weight as a matrix (O, I), which is to be 1."""

    def measure(one: Case) -> str:
        parametrizations.spectral_norm(one.layer, dim=dim, n_power_iterations=100)
        one.model.train()(one.data)
        value = torch.linalg.matrix_norm(one.layer.eval().weight.detach().flatten(1), 2)
        return f"largest singular value {float(value):.2f}"

    return lambda: each(measure)


def weight_norm(one: Case) -> str:
    layer: Any = parametrizations.weight_norm(one.layer)
    return f"lengths of shape {tuple(layer.parametrizations.weight.original0.shape)}"


def same_start(one: Case) -> str:
    """A fresh layer of this class, after the same seed, against a fresh Linear."""
    fresh = []
    for kind in (type(one.layer), nn.Linear):
        torch.manual_seed(3)
        fresh.append(kind(64, 128, *[1] * (kind is not nn.Linear)))
    equal = torch.equal(fresh[0].weight.flatten(), fresh[1].weight.flatten())
    return "the same numbers" if equal and torch.equal(fresh[0].bias, fresh[1].bias) else "other numbers"


def fans(one: Case) -> str:
    inputs, outputs = nn.init._calculate_fan_in_and_fan_out(one.layer.weight)
    return f"{inputs} in, {outputs} out"


def initialised(one: Case) -> str:
    """Which of the functions that ask for a number of dimensions take the weight."""
    takers = []
    for name, initialise in (("dirac_", nn.init.dirac_), ("eye_", nn.init.eye_),
                             ("sparse_", lambda weight: nn.init.sparse_(weight, 0.1))):  # fmt: skip
        try:
            initialise(one.layer.weight)
        except ValueError:
            continue
        takers.append(f"`{name}`")
    return ", ".join(takers)


class Moved(nn.Module):
    """`x.movedim(1, -1)`, or back."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.source, self.target = source, target

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return data.movedim(self.source, self.target)


def folded(one: Case) -> str:
    """BatchNorm after the layer; after a Linear with the axes moved back, as the converted model's code has it."""
    from torch.fx.experimental.optimization import fuse

    norm = nn.BatchNorm2d(128) if one.form == "Conv2d" else nn.BatchNorm1d(128)
    moved = [Moved(-1, 1)] if one.form == "Linear" else []
    model = nn.Sequential(one.layer, *moved, norm).eval()
    kinds = [type(part).__name__ for part in fuse(model).modules()]
    return "stays" if type(norm).__name__ in kinds else "folded into the layer"


def strides(one: Case) -> str:
    shown = one.model.to(memory_format=torch.channels_last) if one.form == "Conv2d" else one.model
    return f"weight's strides {tuple(shown[0].weight.stride())}"


def resumed(one: Case) -> str:
    """An AdamW by way of `torch.distributed.checkpoint`: is its state there after loading?"""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    optimizer = torch.optim.AdamW(one.model.parameters())
    one.model(one.data).square().mean().backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        dcp.save({"optimizer": optimizer.state_dict()}, checkpoint_id=f"{folder}/dcp")
        dcp_to_torch_save(f"{folder}/dcp", f"{folder}/one.pt")
        state = torch.load(f"{folder}/one.pt", weights_only=True)["optimizer"]
    keys = ", ".join(repr(key) for key in state["state"])
    fresh = torch.optim.AdamW(one.model.parameters())
    fresh.load_state_dict(state)
    found = sum("exp_avg" in fresh.state[weight] for weight in one.model.parameters())
    return f"state keys {keys}; {found} of 2 parameters find theirs"


def decayed(one: Case) -> str:
    """What DoRA's trained tensors give to a group of `ndim >= 2`, which decays."""
    import peft

    model = peft.get_peft_model(one.model, peft.LoraConfig(r=4, target_modules=["0"], use_dora=True))
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    names = [name.split(".default")[0].rpartition(".")[2] for name, value in trained if value.ndim >= 2]
    return ", ".join(names)


def kronecker(one: Case) -> str:
    """LoKr with a full second factor: this layer's outputs against a Linear's that has the same numbers."""
    import peft

    def adapted(given: Case, state: dict[str, torch.Tensor] | None) -> tuple[Any, dict[str, torch.Tensor]]:
        model = peft.get_peft_model(given.model, peft.LoKrConfig(r=64, target_modules=["0"]))
        own: dict[str, torch.Tensor] = peft.get_peft_model_state_dict(model)
        generator = torch.Generator().manual_seed(5)
        new = {k: torch.randn(v.shape, generator=generator) / 4 for k, v in own.items()} if state is None else {
            k: state[k].reshape(v.shape) for k, v in own.items()}  # fmt: skip
        peft.set_peft_model_state_dict(model, new)
        return model.eval(), new

    linear = case("Linear")
    model, state = adapted(linear, None)
    wanted = model(linear.data)
    other, own = adapted(one, state)
    shape = tuple(next(value for key, value in own.items() if key.endswith("lokr_w2")).shape)
    apart = distance(features_last(other(one.data), one.form), wanted)
    return f"lokr_w2 {shape}, " + ("the same outputs" if apart < 1e-5 else f"outputs {percent(apart)} apart")


def _rows() -> Iterator[tuple[str, tuple[str, ...], Callable[[], Cells]]]:
    torch_only = ("torch",)

    def of(measure: Callable[[Case], str], inputs: int = 64, outputs: int = 128) -> Callable[[], Cells]:
        return lambda: each(measure, inputs, outputs)

    yield "outputs in float32, against Linear's", torch_only, of(outputs)
    yield "`prune.ln_structured(dim=-1)` of 0.3 and of 0.7 zeroes", torch_only, of(structured)
    yield "`parametrizations.orthogonal` on a (32, 32) layer", torch_only, of(orthogonal, 32, 32)
    yield "`parametrizations.spectral_norm(dim=0)`", torch_only, spectral(0)
    yield "`parametrizations.spectral_norm(dim=-1)`", torch_only, spectral(-1)
    yield "`parametrizations.weight_norm`", torch_only, of(weight_norm)
    yield "the default initialisation, same seed, against Linear's", torch_only, of(same_start)
    yield "fans in `torch.nn.init` (Xavier, Kaiming)", torch_only, of(fans)
    yield "`nn.init.dirac_`, `eye_`, `sparse_`: which of them take it", torch_only, of(initialised)
    yield "BatchNorm after it, `torch.fx` `optimization.fuse`", torch_only, of(folded)
    yield "`model.to(memory_format=torch.channels_last)`", torch_only, of(strides)
    yield "AdamW saved by `dcp`, `dcp_to_torch_save`, loaded", torch_only, of(resumed)
    yield "peft DoRA: what `ndim >= 2` puts into the decay group", ("torch", "peft"), of(decayed)
    yield "peft LoKr with a full `lokr_w2`, numbers moved to this form", ("torch", "peft"), of(kronecker)


ROWS = tuple(Row("behaves", title, packages, measure) for title, packages, measure in _rows())
