"""Where numbers are computed: what a device can do, how many threads, in which precision, and when it is done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Without TF32 and bfloat16 in the products of float32, on whatever device; put back as it was, on errors too.

    PyTorch keeps two sets of switches, an older one that cannot be read where the newer one was set otherwise.
    """
    matmul, convolution = _readable(torch.get_float32_matmul_precision), _readable(_cudnn_tf32)
    newer = [(one, one.fp32_precision) for one in _switches()]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for one, _ in newer:
        one.fp32_precision = "ieee"
    try:
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolution is not None:
            torch.backends.cudnn.allow_tf32 = convolution
        for one, precision in newer:
            one.fp32_precision = precision


def _cudnn_tf32() -> bool:
    return torch.backends.cudnn.allow_tf32


def _readable(read: Callable[[], Any]) -> Any:
    """What a switch says; None where PyTorch will not say it."""
    try:
        return read()
    except RuntimeError:
        return None


def _switches() -> list[Any]:
    """The newer switches, one for each library and kind of operator, as far as this PyTorch has them."""
    places = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
    found: list[Any] = []
    for place in places:
        library, _, name = place.partition(".")
        one = getattr(getattr(torch.backends, library), name, None)
        found += [one] if hasattr(one, "fp32_precision") else []
    return found


def has_dtype(device: str, dtype: str) -> bool:
    """Whether a device computes in a dtype: Apple's GPUs have no float64."""
    try:
        return torch.zeros(1, dtype=getattr(torch, dtype), device=device).add(1).item() == 1
    except Exception:
        # Each device refuses in its own way.
        return False


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run PyTorch's operators on so many threads; put back as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def float64_device(device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What raises a tensor of the device to float64: there, or on the CPU where the device has none."""
    if has_dtype(device, "float64"):
        return lambda tensor: tensor.double()
    return lambda tensor: tensor.cpu().double()


def clock_of(device: str) -> Callable[[], float]:
    """Seconds; on a device that computes beside the CPU, once that very device has done all it was given."""
    where = torch.device(device)
    if where.type == "cpu":
        return time.perf_counter

    def now() -> float:
        torch.accelerator.synchronize(where)
        return time.perf_counter()

    return now


def load_average() -> float:
    """Processes that want to run on this machine, over the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
