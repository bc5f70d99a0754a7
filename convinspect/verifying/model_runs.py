"""A model in the user's own code, run once on given inputs: its outputs, and gradients when asked for, by place."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from convinspect.arrays.devices import full_float32
from convinspect.errors import CannotConvert, Option, Wording
from convinspect.text import with_article
from convinspect.verifying.pytree import Leaves, leaves

GRADIENT = "gradient of "
_NOTHING = {type(None), type}
"""Classes of plain outputs that say nothing: None, and empty containers, which are kept as their class."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run a model.

    Attributes:
        model: `package.module:Class_or_factory` for the file before.
        model_after: The same for the file after; "" to swap layers of `model`.
        inputs: The forward call's arguments, in order; floating ones in float64.
        seed: Set before every run, so that random layers draw the same.
        device: Where to run.
        gradients: Also compare gradients of the parameters.
        last: Layers that multiply patches whose channels are last on one side.
    """

    model: str
    model_after: str
    inputs: tuple[torch.Tensor, ...]
    seed: int = 0
    device: str = "cpu"
    gradients: bool = False
    last: tuple[str, ...] = ()


class _LowerDtypes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the floating dtypes below float64 in which operators give their results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            dtype = part.dtype if isinstance(part, torch.Tensor) else torch.int64
            real = dtype.to_real() if dtype.is_complex else dtype
            if real.is_floating_point and real != torch.float64:
                self.names.add(str(real).removeprefix("torch."))
        return result


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let PyTorch, NumPy and Python draw the same numbers each time; their generators are restored at the end."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


class Run(NamedTuple):
    """One run of a model.

    Attributes:
        leaves: Its outputs, and gradients when asked for, by place.
        low: dtypes below float64 in which operators gave their results.
    """

    leaves: Leaves
    low: frozenset[str]


def run_model(model: nn.Module, options: RunOptions, dtype: torch.dtype, spec: str, watch: bool = False) -> Run:
    """Run a model once.

    Args:
        model: A fresh one, since models may keep state between runs; it is moved to `dtype`.
        options: How to run it.
        dtype: float32 or float64.
        spec: What the model is called in errors.
        watch: Note the dtypes in which operators give their results.

    Raises:
        CannotConvert: It cannot be run on these inputs, or gives no numbers.
    """
    default = torch.get_default_dtype()
    lower = _LowerDtypes()
    try:
        outputs = leaves(_result(model, options, dtype, lower if watch else nullcontext()))
        _check_numbers(outputs, spec)
        if options.gradients:
            with full_float32():
                outputs.tensors |= _gradients(model, outputs.tensors)
        outputs.tensors = {place: tensor.detach().cpu() for place, tensor in outputs.tensors.items()}
        return Run(outputs, frozenset(lower.names))
    except CannotConvert:
        raise
    except (Exception, SystemExit) as error:  # The user's code may raise anything, and may want to end the program.
        text = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {text[0] if text else ''}"
        raise CannotConvert(f"{spec} cannot be run on these inputs ({reason})", _CHECK_INPUT) from None
    finally:
        torch.set_default_dtype(default)


_CHECK_INPUT = Wording("check ", Option("input", None))


def _result(model: nn.Module, options: RunOptions, dtype: torch.dtype, watching: AbstractContextManager[object]) -> Any:
    """The result of the forward call."""
    model = in_dtype(model, dtype).to(options.device).eval()
    inputs = [_as_input(x, options.device, dtype) for x in options.inputs]
    # Set here, after the user's code was imported, so that its own settings do not count. What it prints goes to
    # stderr, since stdout holds the report.
    with (
        seeded(options.seed), full_float32(), torch.set_grad_enabled(options.gradients), redirect_stdout(sys.stderr),
        watching,
    ):  # fmt: skip
        return model(*inputs)


def _check_numbers(outputs: Leaves, spec: str) -> None:
    """Refuse a result without anything to compare.

    Raises:
        CannotConvert: It holds no numbers and no plain values.
    """
    numbers = any(tensor.numel() for tensor in outputs.tensors.values())
    if numbers or not set(map(type, outputs.plain.values())) <= _NOTHING:
        return
    kinds = ", ".join(dict.fromkeys(map(with_article, outputs.other.values())))
    gives = f" (it gives {kinds})" if kinds else ""
    raise CannotConvert(f"{spec} gives no numbers to compare{gives}", _CHECK_INPUT)


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with its floating parameters and buffers in float32 or float64; complex ones are unchanged."""
    return model.double() if dtype == torch.float64 else model.float()


def _as_input(x: torch.Tensor, device: str, dtype: torch.dtype) -> torch.Tensor:
    """A copy of the input, which the model may write to."""
    own = dtype if x.is_floating_point() else dtype.to_complex() if x.is_complex() else x.dtype
    return x.to(device, own, copy=True)


def _gradients(model: nn.Module, outputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of Σ g·y over all floating outputs, g random, by parameter; pointwise ones as (out, in)."""
    generator = torch.Generator().manual_seed(1)
    total = None
    for y in outputs.values():
        if y.requires_grad:
            y = torch.view_as_real(y.resolve_conj()) if y.is_complex() else y
            part = (torch.randn(y.shape, generator=generator).to(y) * y).sum()
            total = part if total is None else total + part
    if total is None:
        return {}
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True) if parameters else ()
    transposed = {f"{name}.weight" for name, module in model.named_modules() if _is_in_out(module)}
    return {
        f"{GRADIENT}{name}": _as_matrix(grad, name in transposed)
        for name, grad in zip(parameters, grads, strict=True)
        if grad is not None
    }


def _is_in_out(module: nn.Module) -> bool:
    turned = isinstance(module, nn.modules.conv._ConvTransposeNd) and set(module.kernel_size) == {1}
    return turned or type(module).__name__ == "Conv1D"


def _as_matrix(tensor: torch.Tensor, transposed: bool) -> torch.Tensor:
    flat = tensor.squeeze() if tensor.dim() < 2 else tensor.reshape(*tensor.shape[:2], -1).squeeze(-1)
    return flat.mT if transposed else flat
