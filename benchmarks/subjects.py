"""The tasks: each with our own ways and those that a user would pick instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import peers
from any_size import sizes_compared
from archives import archives_in_pairs
from hard_cases import checked, swaps_compared, verdicts_compared
from making import Axis, Files, Point
from measuring import Route, convinspect, python, run
from patches import patches_compared
from starting import starts_compared
from tables import Table
from verified import verified_in_pairs


@dataclass(frozen=True, slots=True)
class Subject:
    """One task.

    Attributes:
        name: For `--only`.
        title: Above its tables.
        axes: Series that say something about it.
        routes: The ways to do it on a point's files; ours come first.
        more: Tables on single cases, made in a folder.
        packages: What must be installed for some of the routes.
        holes: Whether files of holes cost as much as others, so that sparse ones may be measured.
    """

    name: str
    title: str
    axes: tuple[Axis, ...]
    routes: Callable[[Files], list[Route]]
    more: Callable[[Path], list[Table]] | None = None
    packages: tuple[str, ...] = ()
    holes: bool = False

    def takes(self, point: Point) -> bool:
        """Whether the point is in one of its series, or the start of one."""
        return point.axis in (*self.axes, "start") and (self.holes or not point.holes)


def _starting(files: Files) -> list[Route]:
    return [
        Route("`convinspect shapes`", convinspect("shapes", files.torch)),
        Route("`convinspect --help`", convinspect("--help")),
        Route("`import typer, rich.table`", python("import typer, rich.table"), "`convinspect --help`"),
        Route("`import torch`", python("import torch"), "`convinspect --help`"),
    ]


def _listing(files: Files) -> list[Route]:
    ours, theirs = "`convinspect shapes`", "`convinspect shapes`, safetensors"
    return [
        Route(ours, convinspect("shapes", files.torch)),
        Route("  `--format json`", convinspect("shapes", files.torch, "--format", "json")),
        Route("`torch.load(mmap=True)`", python(peers.LIST, files.torch, True), ours),
        Route("`torch.load`", python(peers.LIST, files.torch, False), ours, holds=1),
        Route("torchinfo on a built model", python(peers.TORCHINFO, files.point.tensors, files.point.width), ours,
              package="torchinfo"),
        Route(theirs, convinspect("shapes", files.safetensors)),
        Route("`safe_open`", python(peers.SAFE_OPEN, files.safetensors), theirs),
    ]  # fmt: skip


def _showing(files: Files) -> list[Route]:
    ours, stats = "`convinspect weights` of a layer", "`convinspect weights --stats`"
    page = files.target("page.html")
    return [
        Route(ours, convinspect("weights", files.torch, "convs.0")),
        Route("`torch.load(mmap=True)`, `print`", python(peers.SHOW, files.torch), ours),
        Route(stats, convinspect("weights", files.torch, "--stats")),
        Route("the same by PyTorch", python(peers.STATS, files.torch), stats, holds=1),
        Route("`convinspect report`", convinspect("report", files.torch, "-o", page), stats, writes=page),
    ]


def _converting(files: Files) -> list[Route]:
    ours, target = "`convinspect convert`", files.target("out.pt")
    return [
        Route(ours, convinspect("convert", files.torch, "-o", target, "--to", "linear"), writes=target, holds=1),
        Route("the usual script", python(peers.CONVERT, files.torch, target, False), ours, writes=target, holds=2),
        Route("the usual script, mapped", python(peers.CONVERT, files.torch, target, True), ours, writes=target,
              holds=2),
        Route("`cp`", ["cp", str(files.torch), str(target)], ours, writes=target, holds=1),
    ]  # fmt: skip


def _there_and_back(folder: Path) -> list[Table]:
    files = Files(folder, Point("size", "", 256, 64))
    back = files.target("back.pt")
    try:
        run(Route("", convinspect("convert", files.converted, "-o", back, "--to", "conv1d", "--layer", "convs.*")))
        same = back.exists() and back.read_bytes() == files.torch.read_bytes()
    finally:
        files.remove()
    return [Table("Converting there and back", ["", "the same bytes"], [["256 tensors", "yes" if same else "NO"]])]


def _verifying(files: Files) -> list[Route]:
    ours, bits = "`convinspect verify`", "`convinspect verify --bits`"
    pair = (files.torch, files.converted)
    return [
        Route(ours, convinspect("verify", *pair)),
        Route("a bare loop", python(peers.VERIFY, *pair), ours, holds=1),
        Route(bits, convinspect("verify", "--bits", *pair)),
        Route("a bare loop, `torch.equal` alone", python(peers.EQUAL, *pair), bits, holds=1),
    ]


def _diffing(files: Files) -> list[Route]:
    ours, values = "`convinspect diff`", "`convinspect diff --values`"
    pair, words = (files.torch, files.converted), {1: ""}
    return [
        Route(ours, convinspect("diff", *pair), words=words),
        Route("a bare loop over shapes", python(peers.DIFF, *pair, False), ours),
        Route(values, convinspect("diff", "--values", *pair), words=words),
        Route("a bare loop over values", python(peers.DIFF, *pair, True), values, holds=1),
    ]


def _checking(files: Files) -> list[Route]:
    ours = checked(files.torch)
    return [
        ours,
        Route("`zipfile.testzip`", python(peers.TESTZIP, files.torch), ours.name),
        *peers.scanners(files.torch, ours.name),
    ]


def _swapping(files: Files) -> list[Route]:
    ours = "`swap_pointwise`"
    return [
        Route(ours, python(peers.SWAP_OURS, files.point.tensors // 2), tells=True),
        Route("torchao's `swap_conv2d_1x1_to_linear`", python(peers.SWAP_TORCHAO, files.point.tensors // 2), ours,
              package="torchao", tells=True),
    ]  # fmt: skip


_SERIES: tuple[Axis, ...] = ("size", "tensors")
_SCANNERS = ("picklescan", "fickling", "modelscan")

SUBJECTS = [
    Subject("starting", "Starting", ("start",), _starting, starts_compared),
    Subject("listing", "Listing layers", _SERIES, _listing, packages=("torchinfo",), holes=True),
    Subject("showing", "Showing numbers", _SERIES, _showing),
    Subject("converting", "Converting half of the weights to Linear", _SERIES, _converting, _there_and_back),
    Subject("verifying", "Verifying that conversion", _SERIES, _verifying),
    Subject("diffing", "Telling the two files apart", _SERIES, _diffing),
    Subject("checking", "Checking a file", _SERIES, _checking, verdicts_compared, _SCANNERS, holes=True),
    Subject("swapping", "Swapping layers of a live model", ("tensors",), _swapping, swaps_compared, ("torchao",)),
    Subject("any-size", "Files of any size", (), lambda files: [], sizes_compared),
    Subject("patches", "Patch embeddings", (), lambda files: [], patches_compared),
    Subject("archives", "A checkpoint in an archive", (), lambda files: [], archives_in_pairs),
    Subject("verified", "Verifying, in pairs", (), lambda files: [], verified_in_pairs),
]
