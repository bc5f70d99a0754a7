"""What the functions of `convinspect` return for every fixture, and for files that make tables of many rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

import convinspect
from convinspect.errors import ConvInspectError
from support.paths import FIXTURES, STNKD

_MISMATCH = (
    "size mismatch for {0}: copying a param with shape torch.Size([4, 3, 1]) from checkpoint,"
    " the shape in current model is torch.Size([4, 3])."
)


def made(calls: list[Any]) -> Iterator[Any]:
    """What the calls return, of those that do not refuse."""
    for call in calls:
        with suppress(ConvInspectError):
            yield call()


@cache
def records() -> list[Any]:
    """What the functions return for all fixtures."""
    found: list[Any] = []
    stnkd = convinspect.open(STNKD)
    for path in sorted(FIXTURES.iterdir()):
        for checkpoint in made([lambda path=path: convinspect.open(path)]):
            found.append(checkpoint)
            found += made([
                lambda opened=checkpoint: convinspect.diff(opened, stnkd),
                lambda opened=checkpoint: convinspect.convert(opened, dry_run=True, to="linear", from_="any"),
                lambda opened=checkpoint: convinspect.check(opened),
            ])  # fmt: skip
    return found


@cache
def layers() -> list[Any]:
    checkpoints = [record for record in records() if isinstance(record, convinspect.Checkpoint)]
    return [layer for checkpoint in checkpoints for layer in convinspect.find_layers(checkpoint)]


def of_many_rows(folder: Path) -> list[Any]:
    """What tables say where they put many rows in one, or where squares may be transposed."""
    wide = {f"b.{n}.a.weight": torch.full((4, 3, 1), float(n)) for n in range(90)}
    torch.save(wide, folder / "many.pt")
    torch.save({name: torch.zeros(5, 3) for name in wide}, folder / "others.pt")
    square = {f"b.{n}.weight": torch.rand(8, 8) for n in range(2)}
    torch.save(square | {"c.weight": torch.rand(4, 8)}, folder / "square.pt")
    torch.save(square | {"c.weight": torch.rand(8, 4)}, folder / "turned.pt")
    torch.save({f"b.{n}.weight": torch.rand(8, 6, 1).permute(2, 0, 1) for n in range(2)}, folder / "permuted.pt")
    torch.save({f"b.{n}.weight": torch.rand(8, 6, 1) for n in range(2)}, folder / "by_hand.pt")
    error = "\n".join(_MISMATCH.format(name) for name in wide)
    return [
        convinspect.diff(folder / "many.pt", folder / "others.pt"),
        convinspect.diff(folder / "many.pt", error=RuntimeError(error)),
        convinspect.diff(STNKD, error=FIXTURES / "pointnet_stnkd_load_error.txt"),
        convinspect.diff(folder / "square.pt", folder / "turned.pt"),
        convinspect.diff(folder / "permuted.pt", folder / "by_hand.pt"),
        convinspect.convert(folder / "many.pt", dry_run=True, to="linear"),
        convinspect.convert(folder / "square.pt", dry_run=True, like=folder / "turned.pt"),
        convinspect.verify(folder / "square.pt", folder / "square.pt"),
        convinspect.explain(STNKD, "conv1"),
    ]
