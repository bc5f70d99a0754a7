"""Where numbers are computed: what a device can do, how many threads, in which precision, and when it is done."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from convinspect.errors import CannotShow, Option, Wording


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 products in float32, without TF32 or bfloat16, on every device; restored at the end.

    PyTorch keeps two sets of switches, an older one that cannot be read where the newer one was set otherwise.
    """
    matmul, convolution = _readable(torch.get_float32_matmul_precision), _readable(_cudnn_tf32)
    newer = [(switch, switch.fp32_precision) for switch in _switches()]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for switch, _ in newer:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolution is not None:
            torch.backends.cudnn.allow_tf32 = convolution
        for switch, precision in newer:
            switch.fp32_precision = precision


def _cudnn_tf32() -> bool:
    return torch.backends.cudnn.allow_tf32


def _readable(read: Callable[[], Any]) -> Any:
    """A switch's value; None where PyTorch refuses to read it."""
    try:
        return read()
    except RuntimeError:
        return None


def _switches() -> list[Any]:
    """The newer switches, one for each library and kind of operator, that this PyTorch has."""
    places = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
    parts = [place.split(".") for place in places]
    switches = [getattr(getattr(torch.backends, library), name, None) for library, name in parts]
    return [switch for switch in switches if hasattr(switch, "fp32_precision")]


def has_dtype(device: str, dtype: str) -> bool:
    """Whether a device computes in a dtype: Apple's GPUs have no float64."""
    try:
        return torch.zeros(1, dtype=getattr(torch, dtype), device=device).add(1).item() == 1
    except Exception:
        # Each device refuses in its own way.
        return False


def check_device(name: str) -> None:
    """Refuse a device that cannot be used on this machine.

    Raises:
        CannotShow: There is no such device.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.zeros(1, device=name).item()
    except Exception as error:
        # Each backend fails in its own way, with a missing module, an assertion or a list of all that it has.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise CannotShow(
            Wording(Option("device", None), f" {name!r} cannot be used ({reason[:200]})"), "cpu always can"
        ) from None


def check_dtype_on(device: str, dtype: str, purpose: str, remedy: str) -> None:
    """Refuse a device that does not compute in a dtype.

    Args:
        device: PyTorch's name.
        dtype: PyTorch's name.
        purpose: What it is for, after a comma, or "".
        remedy: What the user can do.

    Raises:
        CannotShow: It does not.
    """
    if not has_dtype(device, dtype):
        raise CannotShow(Wording(Option("device", None), f" {device!r} has no {dtype}{purpose}"), remedy)


def check_dtype(name: str) -> None:
    """Refuse a name that is not a floating dtype of PyTorch.

    Raises:
        CannotShow: It is not.
    """
    if not getattr(getattr(torch, name, None), "is_floating_point", False):
        raise CannotShow(
            Wording(Option("dtype", None), f" {name!r} is no floating dtype of PyTorch"),
            "write float32, bfloat16, float16, …",
        )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run PyTorch's operators on `count` threads; restored at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def float64_device(device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that converts the device's tensors to float64: on the device, or on the CPU if it has no float64."""
    if has_dtype(device, "float64"):
        return lambda tensor: tensor.double()
    return lambda tensor: tensor.cpu().double()


def clock_of(device: str) -> Callable[[], float]:
    """A clock in seconds. For an accelerator it first waits until that device has finished all its work."""
    where = torch.device(device)
    if where.type == "cpu":
        return time.perf_counter

    def now() -> float:
        torch.accelerator.synchronize(where)
        return time.perf_counter()

    return now


def load_average() -> float:
    """Runnable processes of this machine, averaged over the last minute; 0 where the system has no such figure."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def free_memory(device: str) -> float:
    """Bytes that a device still has for tensors; infinite where the system does not tell."""
    where = torch.device(device)
    if where.type == "cuda":
        return float(torch.cuda.mem_get_info(where)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable:")), math.inf)
