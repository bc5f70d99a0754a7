"""How shapes are related: what is said of two shapes, against what PyTorch's `reshape`, `view` and `permute` make."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convinspect.arrays.views import view_stride
from convinspect.converting.relations import (
    PURE,
    How,
    call,
    merging_orders,
    orders,
    relate,
    relate_tensors,
)
from convinspect.records import Tensor, contiguous

SIZES = st.lists(st.sampled_from([1, 1, 2, 2, 3, 4, 6]), max_size=5)


@pytest.mark.parametrize(
    ("a", "b", "how"),
    [
        ((8, 6, 1), (8, 6, 1), "equal"),
        ((8, 6, 1), (8, 6), "squeeze"),
        ((1, 8, 1), (8,), "squeeze"),
        ((8, 6), (8, 6, 1, 1), "unsqueeze"),
        ((), (1,), "unsqueeze"),
        ((8, 1, 6), (8, 6, 1), "reshape"),
        ((32, 3, 2, 4, 4), (32, 96), "flatten"),
        ((1, 32, 4, 4), (32, 16), "flatten"),
        ((32, 96), (32, 3, 4, 8), "unflatten"),
        ((48,), (8, 6), "unflatten"),
        ((3, 3, 3, 4, 8), (8, 3, 3, 3, 4), "permute"),
        ((4, 6), (6, 4), "permute"),
        ((4, 6), (6, 1, 4), "permute"),
        ((2, 6), (3, 4), "same count"),
        ((8, 6), (8, 7), "different"),
        ((0,), (4, 6), "different"),
    ],
)
def test_every_relation_has_a_name(a: tuple[int, ...], b: tuple[int, ...], how: str) -> None:
    assert relate(a, b).how == how
    back = {"squeeze": "unsqueeze", "unsqueeze": "squeeze", "flatten": "unflatten", "unflatten": "flatten"}
    assert relate(b, a).how == back.get(how, how)


def test_the_first_order_keeps_a_kernels_axes_as_they_are() -> None:
    found = relate((3, 3, 3, 4, 8), (8, 3, 3, 3, 4))
    assert (found.orders[0], len(found.orders), found.ambiguous) == ((4, 0, 1, 2, 3), 6, True)
    assert relate((4, 6), (6, 4)).orders == ((1, 0),)
    assert not relate((4, 6), (6, 4)).ambiguous
    many = relate((2,) * 6, (2,) * 5 + (1, 2, 1))
    assert many.how is How.UNSQUEEZE
    many = relate((3, *(2,) * 6), (*(2,) * 6, 3))
    assert (len(many.orders), many.more) == (120, True)


def test_float4_may_be_packed_on_one_side() -> None:
    packed, plain = (Tensor("w", dtype, shape, contiguous(shape)) for dtype, shape in
                     (("float4_e2m1fn_x2", (8, 4)), ("float32", (8, 8))))  # fmt: skip
    assert relate_tensors(packed, plain).how is How.UNPACK
    assert relate_tensors(plain, packed).how is How.PACK
    assert relate_tensors(plain, plain._replace(shape=(8, 4))).how is How.DIFFERENT


@settings(max_examples=100, deadline=None)
@given(SIZES, st.randoms(use_true_random=False), st.data())
def test_calls_make_the_shape_and_strides_are_those_of_view(sizes: list[int], chance: Any, data: Any) -> None:
    tensor = torch.arange(math.prod(sizes)).reshape(sizes)
    tensor = tensor.permute(chance.sample(range(len(sizes)), len(sizes)))
    wanted = list(tensor.shape)
    if data.draw(st.booleans()):
        chance.shuffle(wanted)
    for place in data.draw(st.lists(st.integers(0, 3), max_size=2)):
        wanted[place : place + 2] = [math.prod(wanted[place : place + 2])] * bool(wanted[place : place + 2])
    for place in data.draw(st.lists(st.integers(0, 5), max_size=2)):
        wanted.insert(place, 1)
    shape, target = tuple(tensor.shape), tuple(wanted)
    stride = view_stride(shape, tensor.stride(), target)
    try:
        seen = tensor.view(target)
    except RuntimeError:
        assert stride is None
    else:
        assert stride is not None
        assert torch.equal(torch.as_strided(tensor, target, stride), seen)
    relation = relate(shape, target)
    assert relation.how is not How.DIFFERENT
    for order in relation.orders or (None,):
        line = call(relation, shape, target, order)
        if line:
            made = eval(f"tensor{line}", {"tensor": tensor})
            assert made.shape == target
            if relation.how in PURE:
                assert made.flatten().tolist() == tensor.flatten().tolist()


@settings(max_examples=100, deadline=None)
@given(SIZES.filter(bool), st.data())
def test_every_true_order_is_among_those_found(sizes: list[int], data: Any) -> None:
    tensor = torch.rand(sizes)
    moved = tensor.permute(data.draw(st.permutations(range(len(sizes)))))
    found = list(orders(tuple(sizes), tuple(moved.shape)))
    assert any(torch.equal(tensor.permute(order).reshape(moved.shape), moved) for order in found)
    assert all(tensor.permute(order).reshape(moved.shape).shape == moved.shape for order in found)


def test_flattened_patches_with_channels_last_are_among_the_orders() -> None:
    assert (0, 3, 1, 2) in list(merging_orders((8, 3, 3, 4), (8, 36)))
    assert (0, 1, 2, 3) not in list(merging_orders((8, 3, 3, 4), (8, 36)))
