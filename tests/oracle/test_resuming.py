"""Training resumed after a conversion with the optimizers of other packages; torch's own: `test_torch_resuming.py`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from support.paths import ROOT
from support.resuming import MOVES, PATCH_MOVES, Build, End, outcome
from support.sampling import EVERY_CASE

sys.path.append(str(ROOT / "docs"))
makers: Any = import_module("after.optimizers")

WIDTHS = {"matrices": (64, 80, 32), "squares": (8, 8, 8), "one channel": (1, 8, 1)}

PACKAGES: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "pytorch_optimizer": ("pytorch_optimizer", makers.of_pytorch_optimizer),
    "torchao": ("torchao", makers.of_torchao),
    "bitsandbytes": ("bitsandbytes", makers.of_bitsandbytes),
    "transformers": ("transformers", makers.of_transformers),
}

REFUSED = {
    "pytorch_optimizer": {
        "APOLLO", "AdaFactor", "AdaMuon", "Adalite", "Alice", "Amos", "CAME", "Conda", "DASH", "EmoFact", "Fira",
        "FlashAdamW", "GaLore", "Kron", "LoRARite", "Nero", "NorMuon", "RACS", "SM3", "SOAP", "SPAM", "SPlus",
        "SaRA", "ScalableShampoo", "Shampoo", "SpectralSphere",
    },
    "torchao": {"AdamW8bit", "AdamW4bit", "AdamWFp8"},
    "bitsandbytes": {"AdEMAMix8bit"},
    "transformers": {"Adafactor"},
}  # fmt: skip
"""What is refused or left with the reason, in one direction at least; all others go on the same."""

SETTINGS: dict[str, dict[str, Any]] = {"AdaShift": {"keep_num": 2}}
"""With its default of ten gradients AdaShift does nothing before the tenth step."""

STATELESS = {"SCIONLight"}
"""Steps otherwise on kernels of several positions, and keeps nothing by which a file tells that it was there."""

UNBUILT = {
    "pytorch_optimizer": {
        "AdaLOMO", "LOMO",  # step by a backward pass of their own
        "DeMo", "DistributedMuon",  # want a process group
        "AliG", "BSAM",  # cannot step this model, in any form
    },
}  # fmt: skip
"""What is not resumed at all; all others are, in one direction at least."""


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _kinds(package: str) -> dict[str, Any]:
    pytest.importorskip(package)
    return PACKAGES[package][1]()


def _settings(kind: Any) -> Iterator[dict[str, Any]]:
    """The defaults, and each switch turned; rare steps made frequent, since a run is short."""
    yield {}
    parameters = inspect.signature(kind).parameters
    for name, parameter in parameters.items():
        if isinstance(parameter.default, bool):
            yield {name: not parameter.default}
    counts = {
        name: 2
        for name, parameter in parameters.items()
        if type(parameter.default) is int
        and any(word in name for word in ("gap", "interval", "freq", "every", "warmup"))
    }
    if counts:
        yield counts


def _end(kind: Any, settings: dict[str, Any], move: tuple[str, str], folder: Path, widths: str) -> Any:
    """The outcome of the first way of making the optimizer that works; None where none does."""
    made: Any = partial(kind, **{**SETTINGS.get(kind.__name__, {}), **settings})
    made.__name__ = kind.__name__
    builds: Iterator[Build] = makers.builds(made)
    return next((end for build in builds if (end := outcome(build, move, folder, WIDTHS[widths])) is not None), None)


def _numbered(package: str) -> list[Any]:
    """Names where the package is installed; else one, which is skipped with the package's name."""
    names = list(PACKAGES[package][1]()) if _installed(package) else [""]
    return [pytest.param(package, name, id=f"{package}-{name}") for name in names]


@pytest.mark.parametrize(("package", "name"), [one for package in PACKAGES for one in _numbered(package)])
def test_training_goes_on_or_is_refused(tmp_path: Path, package: str, name: str) -> None:
    kinds = _kinds(package)
    # To Linear and from it; with other widths one move, by turns.
    turn = list(kinds).index(name)
    usual = [(MOVES[0], "matrices"), (MOVES[1], "matrices")]
    usual += [(MOVES[turn % 3], "squares"), (MOVES[(turn + 1) % 3], "one channel")]
    built = False
    for move, widths in [(move, widths) for widths in WIDTHS for move in MOVES] if EVERY_CASE else usual:
        end = _end(kinds[name], {}, move, tmp_path, widths)
        if end is None:
            continue
        built = True
        assert end.end in (End.SAME, End.REFUSED), (move, widths, end.words)
        # Parts by number are in doubt where a part for one dimension can have the weight's shape (AdaShift).
        if end.end is End.REFUSED and widths == "matrices":
            assert name in REFUSED[package], (move, widths, end.words)
    assert built is (name not in UNBUILT.get(package, ()))


@pytest.mark.parametrize(("package", "name"), [one for package in PACKAGES for one in _numbered(package)])
@pytest.mark.parametrize("move", PATCH_MOVES)
def test_training_on_patches_goes_on_or_is_refused(
    tmp_path: Path, package: str, name: str, move: tuple[str, str]
) -> None:
    kinds, both = _kinds(package), ("matrices", "squares")
    for widths in both if EVERY_CASE else [both[(list(kinds).index(name) + PATCH_MOVES.index(move)) % 2]]:
        end = _end(kinds[name], {}, move, tmp_path, widths)
        assert end is None or end.end in (End.SAME, End.SAID, End.REFUSED) or name in STATELESS, (widths, end.words)


@pytest.mark.parametrize(("package", "name"), _numbered("pytorch_optimizer"))
def test_every_switch(tmp_path: Path, package: str, name: str) -> None:
    """From the least common forms, which are the furthest from a Linear: one for each switch, by turns."""
    kind, forms = _kinds(package)[name], (("Conv2d", "Linear"), ("Patches1d", "Linear"))
    for number, settings in enumerate(_settings(kind)):
        for move in (*MOVES, *PATCH_MOVES) if EVERY_CASE else [forms[number % 2]]:
            for widths in WIDTHS if EVERY_CASE else ("matrices",):
                end = _end(kind, settings, move, tmp_path, widths)
                fine = end is None or end.end in (End.SAME, End.SAID, End.REFUSED) or name in STATELESS
                assert fine, (settings, move, widths, end)
