"""From file to numbers, end to end: what `Checkpoint.read` gives is, bit for bit, what PyTorch loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from convinspect.checkpoint import open_checkpoint
from convinspect.errors import CannotShow
from support.paths import FIXTURES

READABLE = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.bool,
    torch.complex64, torch.complex128,
]  # fmt: skip
# What the stream before 1.6 knows; PyTorch itself cannot load the others from it.
OLD = [dtype for dtype in READABLE if dtype not in (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32)]


def same_bits(found: np.ndarray[Any, Any], expected: torch.Tensor) -> bool:
    """Shape and bytes agree, NaN payloads and signs of zero included."""
    # Copied anew, because a tensor of one element may keep a stride that view(uint8) does not take.
    dense = torch.empty(expected.numel(), dtype=expected.dtype).copy_(expected.detach().reshape(-1))
    return found.shape == tuple(expected.shape) and (
        dense.numel() == 0 or found.tobytes() == dense.view(torch.uint8).numpy().tobytes()
    )


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[torch.dtype]) -> torch.Tensor:
    """A tensor of random bytes, as a view of some kind on its storage."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    count = int(np.prod(shape)) * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8)
    whole = raw.view(dtype).reshape(shape)
    view = draw(st.sampled_from(["whole", "transposed", "sliced", "stepped", "expanded", "scalar", "empty"]))
    if view == "transposed":
        return whole.permute(*reversed(range(whole.dim())))
    if view == "sliced":
        return whole[whole.shape[0] // 2 :]
    if view == "stepped":
        return whole[..., ::2]
    if view == "expanded":
        return whole.unsqueeze(0).expand(3, *whole.shape)
    if view == "scalar":
        return whole.reshape(-1)[-1]
    return whole[:0] if view == "empty" else whole


@st.composite
def checkpoints(draw: st.DrawFn, dtypes: list[torch.dtype]) -> dict[str, torch.Tensor]:
    """A state_dict, some of whose tensors share their storage."""
    found = {f"layer{i}.weight": draw(tensors(dtypes)) for i in range(draw(st.integers(1, 4)))}
    first = found["layer0.weight"]
    if draw(st.booleans()):
        found["tied.weight"] = first
    if first.dim() and draw(st.booleans()):
        found["part.weight"] = first[:1]
    return found


def nest(flat: Mapping[str, torch.Tensor], depth: int) -> Any:
    """The state_dict inside `depth` dictionaries."""
    nested: Any = dict(flat)
    for level in range(depth):
        nested = {"epoch": level, "state_dict": nested}
    return nested


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flat=checkpoints(READABLE), depth=st.integers(0, 2), protocol=st.integers(2, 5))
def test_zip_numbers_are_those_of_torch(
    tmp_path: Path, flat: dict[str, torch.Tensor], depth: int, protocol: int
) -> None:
    path = tmp_path / "model.pt"
    torch.save(nest(flat, depth), path, pickle_protocol=protocol)
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.tensors) == set(flat)
    for name, tensor in flat.items():
        assert same_bits(checkpoint.read(name), tensor), name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flat=checkpoints(OLD), depth=st.integers(0, 2))
def test_legacy_numbers_are_those_of_torch(tmp_path: Path, flat: dict[str, torch.Tensor], depth: int) -> None:
    path = tmp_path / "model.pt"
    torch.save(nest(flat, depth), path, _use_new_zipfile_serialization=False)
    checkpoint = open_checkpoint(path)
    for name, tensor in flat.items():
        assert same_bits(checkpoint.read(name), tensor), name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flat=checkpoints([dtype for dtype in READABLE if dtype not in (torch.complex128,)]))
def test_safetensors_numbers_are_those_of_safetensors(tmp_path: Path, flat: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.clone().contiguous() for name, tensor in flat.items()}, path)
    checkpoint = open_checkpoint(path)
    for name, tensor in load_file(path).items():
        assert same_bits(checkpoint.read(name), tensor), name


LOADABLE = sorted(
    path
    for path in FIXTURES.glob("*.pt")
    if not any(
        word in path.name for word in ("module", "script", "trace", "gone", "stray", "odd", "norm_without", "stand_ins")
    )
)


@pytest.mark.parametrize("path", LOADABLE, ids=lambda path: path.name)
def test_fixtures_read_as_torch_loads_them(path: Path) -> None:
    expected = torch.load(path, map_location="cpu", weights_only=True)
    checkpoint = open_checkpoint(path)
    for part in filter(None, checkpoint.root.path.split(".")):
        expected = expected[part]
    assert {tensor.key for tensor in checkpoint.root.tensors} == set(expected)
    for name, tensor in checkpoint.tensors.items():
        if expected[tensor.key].dtype == torch.complex32 or "float4" in tensor.dtype:
            continue
        assert same_bits(checkpoint.read(name), expected[tensor.key]), name


def test_shapes_without_numbers_say_so(tmp_path: Path) -> None:
    torch.save({"weight": torch.empty(4, 6, 1, device="meta")}, tmp_path / "a.pt")
    with pytest.raises(CannotShow):
        open_checkpoint(tmp_path / "a.pt").read("weight")


def test_a_distributed_checkpoint_has_the_numbers_that_pytorch_loads(tmp_path: Path) -> None:
    dcp_to_torch_save(FIXTURES / "distributed", tmp_path / "one.pt")
    model = torch.load(tmp_path / "one.pt")["model"]
    checkpoint = open_checkpoint(FIXTURES / "distributed")
    assert len(checkpoint.tensors) == len(model)
    for name, tensor in checkpoint.tensors.items():
        assert same_bits(checkpoint.read(name), model[tensor.key.removeprefix("model.")]), name
