"""Layers over patches under PyTorch's compilers: programs are exported, loaded and compiled for all sizes for which
those of the convolution are. The oracle is the convolution.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.modules import expose_linears, swap_patches
from support.sampling import some

pytestmark = pytest.mark.filterwarnings("ignore")

CONVS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
ORDERS = [torch.contiguous_format, torch.channels_last, torch.channels_last_3d]
SMALL, LARGE = (9, 10, 11), (17, 12, 22)


def stand_in(conv: nn.Module) -> nn.Module:
    return swap_patches(copy.deepcopy(conv)).model


def exposed(conv: nn.Module) -> nn.Module:
    return expose_linears(stand_in(conv)).model


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dims", "turned", "batched", "form"),
    [
        # Each value with the others', but channels-last without a batch, which PyTorch has not.
        (1, False, True, stand_in),
        (2, True, True, exposed),
        (2, False, False, exposed),
        (3, True, True, stand_in),
    ],
)
def test_an_exported_program_takes_all_sizes(
    dims: int, turned: bool, batched: bool, form: Callable[[nn.Module], nn.Module]
) -> None:
    """As the convolution's, exported with the same bounds; it is saved and loaded."""
    conv = CONVS[dims - 1](3, 8, 4, 4).eval()
    order = ORDERS[dims - 1] if turned else torch.contiguous_format
    lead = ((2,), (5,)) if batched else ((), ())
    x, y = (
        torch.randn(*front, 3, *sizes[:dims]).to(memory_format=order)
        for front, sizes in zip(lead, (SMALL, LARGE), strict=True)
    )
    sizes = {len(lead[0]) + 1 + place: torch.export.Dim(f"size{place}", min=8, max=64) for place in range(dims)}
    if batched:
        sizes[0] = torch.export.Dim("batch", max=8)
    for module in (conv, form(conv)):
        program = torch.export.export(module, (x,), dynamic_shapes=(sizes,))
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        buffer.seek(0)
        loaded = torch.export.load(buffer).module()
        close(loaded(y), conv(y))
        close(loaded(x), conv(x))


@pytest.mark.parametrize(("dims", "form"), [(1, stand_in), (2, exposed), (3, stand_in)])
def test_a_compiled_layer_takes_all_sizes(dims: int, form: Callable[[nn.Module], nn.Module]) -> None:
    """In one graph, compiled about as often as the convolution's is: past 8 times PyTorch gives up."""
    # It imports PyTorch's compiler, and every process of the tests this module.
    from torch._dynamo.testing import CompileCounter

    conv = CONVS[dims - 1](3, 8, 4, 4)
    compiled = []
    for module in (conv, form(conv)):
        torch._dynamo.reset()
        counter = CompileCounter()
        fast = torch.compile(module, fullgraph=True, backend=counter)
        for lead, sizes in [(n, (9 + 3 * n, 9 + 2 * n, 9 + n)) for n in (2, 3, 1, 0, 5)] + [(2, LARGE), (2, (4, 5, 6))]:
            x = torch.randn(lead, 3, *sizes[:dims])
            close(fast(x), conv(x))
        compiled.append(counter.frame_count)
    assert compiled[1] <= compiled[0] + 2


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_traced_layer_takes_all_sizes(dims: int) -> None:
    conv = CONVS[dims - 1](3, 8, 4, 4)
    trace: Any = torch.jit.trace
    for form in (stand_in, exposed):
        traced = trace(form(conv), torch.randn(2, 3, *SMALL[:dims]))
        y = torch.randn(5, 3, *LARGE[:dims])
        close(traced(y), conv(y))


@pytest.mark.parametrize("dims", some([3, 2, 1], 1))
def test_gradients_through_a_compiler(dims: int) -> None:
    conv = CONVS[dims - 1](3, 4, 2, 2, dtype=torch.float64)
    linear: Any = stand_in(conv)
    fast: Any = torch.compile(linear, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, *(5, 6, 7)[:dims], dtype=torch.float64, requires_grad=True)
    g = torch.randn_like(conv(x))
    before = torch.autograd.grad(conv(x), [x, *conv.parameters()], g)
    after = torch.autograd.grad(fast(x), [x, *linear.parameters()], g)
    for wanted, found in zip(before, after, strict=True):
        torch.testing.assert_close(found.reshape(wanted.shape), wanted, rtol=1e-12, atol=1e-13)
