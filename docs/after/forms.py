"""One layer in its three forms, and how a row of docs/after-converting.md is measured on each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

FORMS = ("Conv1d", "Conv2d", "Linear")

Cells = tuple[str, str, str]
"""What was seen for Conv1d of kernel 1, Conv2d of kernel 1×1 and Linear, in words for the table."""


class Row(NamedTuple):
    """A row of the page.

    Attributes:
        table: "wants" (who wants which form) or "behaves" (what behaves differently afterwards).
        title: What is run, as the page says it.
        packages: Distributions that it needs, PyTorch first; their versions are recorded with the result.
        measure: Runs it on the three forms.
    """

    table: str
    title: str
    packages: tuple[str, ...]
    measure: Callable[[], Cells]


class Case(NamedTuple):
    """A layer with data of its shape. Layers, and data, of the three forms hold the same numbers.

    Attributes:
        form: One of `FORMS`.
        model: `nn.Sequential` of the layer alone.
        data: (4, C, 10), (4, C, 5, 2) or (4, 10, C).
    """

    form: str
    model: nn.Sequential
    data: torch.Tensor

    @property
    def layer(self) -> nn.Module:
        return self.model[0]


def case(form: str, inputs: int = 64, outputs: int = 128) -> Case:
    """The layer in this form."""
    torch.manual_seed(0)
    source = nn.Linear(inputs, outputs)
    data = torch.randn(4, inputs, 10)
    layer: nn.Module = source
    if form == "Conv1d":
        layer = nn.Conv1d(inputs, outputs, 1)
    elif form == "Conv2d":
        layer, data = nn.Conv2d(inputs, outputs, 1), data.reshape(4, inputs, 5, 2)
    else:
        data = data.transpose(1, 2).contiguous()
    fill(layer, source.weight, source.bias)
    return Case(form, nn.Sequential(layer).eval(), data)


def fill(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Give a layer these numbers, in its own shape."""
    with torch.no_grad():
        for name, value in (("weight", weight), ("bias", bias)):
            own = getattr(layer, name)
            if value is not None:
                own.copy_(value.reshape(own.shape))


def each(measure: Callable[[Case], str], inputs: int = 64, outputs: int = 128) -> Cells:
    """What `measure` says of each form; an exception is said by its class."""

    def said(form: str) -> str:
        try:
            return measure(case(form, inputs, outputs))
        except Exception as error:
            return f"raises {type(error).__name__}"

    first, second, third = map(said, FORMS)
    return first, second, third


def features_last(output: torch.Tensor, form: str) -> torch.Tensor:
    """An output of a `Case` as (4, 10, C), whichever form gave it."""
    return output if form == "Linear" else output.flatten(2).transpose(1, 2)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """‖one − other‖ / ‖other‖."""
    return float((one.double() - other.double()).norm() / other.double().norm())


def percent(share: float) -> str:
    """Two significant figures, in percent."""
    return f"{float(f'{100 * share:.2g}'):g} %"
