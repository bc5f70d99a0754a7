"""How long `convinspect browse` takes until a layer of the model is on the screen, beside importing Textual alone.

    python benchmarks/browsing.py

A terminal is played by a pseudo-terminal: the clock starts with the process, and stops with the byte that completes
the name of a module on the screen. It runs beside `python -c 'import textual.app'`, in turn, each in processes of their
own; the fastest of each is told, the median, and the processor time, which counts where the machine is busy.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import NamedTuple

import torch
from measuring import convinspect, python
from safetensors.torch import save_file

LAYERS = 1250
SEEN = b"encoder"
"""A module's name, which stands nowhere on the screen before the tree does."""
_ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


class Times(NamedTuple):
    """Seconds by the clock, and of the processor, which other processes hardly change."""

    clock: float
    processor: float


def model(folder: Path) -> list[Path]:
    """A model of 10,000 small tensors in both formats."""
    tensors = {}
    for number in range(LAYERS):
        name = f"model.encoder.layers.{number}"
        for layer, shape in (("attention.query", (8, 8)), ("conv", (8, 8, 1)), ("norm", (8,)), ("fc", (16, 8))):
            tensors[f"{name}.{layer}.weight"] = torch.zeros(shape)
            tensors[f"{name}.{layer}.bias"] = torch.zeros(shape[0])
    files = [folder / "many.pt", folder / "many.safetensors"]
    torch.save(tensors, files[0])
    save_file(tensors, str(files[1]))
    return files


def first_paint(command: list[str], size: tuple[int, int] = (40, 120), limit: float = 30) -> Times:
    """The time from the start of a process until what is looked for is on its terminal; then it is ended.

    Args:
        command: The process.
        size: Lines and columns of the terminal.
        limit: Seconds after which it is given up.

    Raises:
        TimeoutError: It was not seen in time.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    environment = {**_ENVIRONMENT, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    seen = b""
    try:
        while time.perf_counter() - started < limit:
            if select.select([ours], [], [], 0.5)[0]:
                seen += os.read(ours, 1 << 16)
            if SEEN in seen:
                break
        else:
            raise TimeoutError(f"{SEEN!r} was not seen within {limit:g} s: {seen[-300:]!r}")
        seconds = time.perf_counter() - started
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        processor = _end(process)
        os.close(ours)
    return Times(seconds, processor)


def whole(command: list[str]) -> Times:
    """The time of a process that ends by itself."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=_ENVIRONMENT)
    processor = _end(process)
    return Times(time.perf_counter() - started, processor)


def _end(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process; its processor time."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="how often each is run (default: 9)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        files = model(Path(folder))
        floor = list(python("import textual.app"))
        times: dict[str, list[Times]] = {"import textual.app": []}
        times |= {f"browse {file.name}": [] for file in files}
        # Once before, so that modules are compiled and in the page cache.
        for number in range(rounds + 1):
            found = [whole(floor), *(first_paint(list(convinspect("browse", file))) for file in files)]
            if number:
                for name, taken in zip(times, found, strict=True):
                    times[name].append(taken)
    for name, every in times.items():
        clock, processor = zip(*every, strict=True)
        told = f"{min(clock):.3f} s, median {statistics.median(clock):.3f} s"
        print(f"{name:24} {told}; processor {min(processor):.3f} s")


if __name__ == "__main__":
    if not sys.platform.startswith("linux") and sys.platform != "darwin":
        sys.exit("it needs a pseudo-terminal")
    main()
