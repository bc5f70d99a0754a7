"""The files that the benchmarks read: pointwise Conv1d and Linear layers with biases, in turn.

    python benchmarks/making.py PATH TENSORS WIDTH [--holes]

PATH's suffix says the format, .safetensors or else torch.save's. With --holes all numbers are zero and none takes room
on the file system; sizes, headers and checksums are those of any other file.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from measuring import Missing, Route, convinspect, run

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Axis: TypeAlias = Literal["start", "size", "tensors"]


@dataclass(frozen=True, slots=True)
class Point:
    """One file of a series.

    Attributes:
        axis: Which series; "start" is the smallest file, by which start-up is told.
        label: As the table's column shows it.
        tensors: Even; half of them weights, every other of which is pointwise.
        width: Input and output channels of each layer.
        holes: All zeros, which take no room.
    """

    axis: Axis
    label: str
    tensors: int
    width: int
    holes: bool = False

    @property
    def numbers(self) -> int:
        """Bytes of all numbers, in float32."""
        return self.tensors // 2 * (self.width * self.width + self.width) * 4


@dataclass(slots=True)
class Files:
    """A point's files in a folder, each made when it is first asked for."""

    folder: Path
    point: Point
    made: dict[str, Path] = field(default_factory=dict)

    @property
    def torch(self) -> Path:
        """Written by torch.save."""
        return self._made("source.pt")

    @property
    def safetensors(self) -> Path:
        """The same tensors in safetensors."""
        return self._made("source.safetensors")

    @property
    def converted(self) -> Path:
        """`torch`, its pointwise layers converted to Linear."""
        path = self.target("converted.pt")
        if not path.exists():
            _must(convinspect("convert", self.torch, "-o", path, "--to", "linear"))
        return path

    @property
    def converted_safetensors(self) -> Path:
        """`safetensors`, its pointwise layers converted to Linear."""
        path = self.target("converted.safetensors")
        if not path.exists():
            _must(convinspect("convert", self.safetensors, "-o", path, "--to", "linear"))
        return path

    def target(self, name: str) -> Path:
        """Where a route may write."""
        return self.made.setdefault(name, self.folder / name)

    def remove(self, *names: str) -> None:
        """Remove these files, or all that were made."""
        for name in names or tuple(self.made):
            if name in self.made:
                self.made.pop(name).unlink(missing_ok=True)

    def _made(self, name: str) -> Path:
        path = self.target(name)
        if not path.exists():
            holes = ["--holes"] if self.point.holes else []
            _must([sys.executable, __file__, str(path), str(self.point.tensors), str(self.point.width), *holes])
        return path


def _must(command: list[str]) -> None:
    result = run(Route("", command))
    if isinstance(result, Missing):
        raise SystemExit(f"{' '.join(command)[:200]}: {result.why}")


def lacking(point: Point, folder: Path) -> str | None:
    """Why there is no room for a point's files, or None: twice its numbers, and a third for zip's and JSON's own."""
    wanted = 0 if point.holes else 2.3 * point.numbers + point.tensors * 1000
    free = shutil.disk_usage(folder).free
    return f"{wanted / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} are free" if free < wanted else None


def free_memory() -> float:
    """Bytes that processes may still take; endless where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable")), float("inf"))


def shapes(tensors: int, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of so many tensors."""
    for i in range(tensors // 2):
        name, kernel = ("convs", (1,)) if i % 2 == 0 else ("others", ())
        yield f"{name}.{i // 2}.weight", (width, width, *kernel)
        yield f"{name}.{i // 2}.bias", (width,)


class _Holed(io.FileIO):
    """A file in which zeros are skipped instead of written."""

    def write(self, data: ReadableBuffer, /) -> int:
        content = bytes(data)
        if content != bytes(len(content)):
            return super().write(content)
        self.seek(len(content), io.SEEK_CUR)
        return len(content)


def _write_holes(path: Path, tensors: int, width: int) -> None:
    import numpy
    import torch

    if path.suffix == ".safetensors":
        header, end = {}, 0
        for name, shape in shapes(tensors, width):
            begin, end = end, end + 4 * width ** min(len(shape), 2)
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        return
    zeros = {name: torch.from_numpy(numpy.zeros(shape, numpy.float32)) for name, shape in shapes(tensors, width)}
    with _Holed(path, "wb") as holed:
        torch.save(zeros, holed)
        holed.truncate()


def _write(path: Path, tensors: int, width: int) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    numbers = {name: torch.randn(shape) for name, shape in shapes(tensors, width)}
    if path.suffix == ".safetensors":
        save_file(numbers, path)
    else:
        torch.save(numbers, path)


def main() -> None:
    """Make one file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("tensors", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("--holes", action="store_true")
    given = parser.parse_args()
    (_write_holes if given.holes else _write)(given.path, given.tensors, given.width)


if __name__ == "__main__":
    main()
