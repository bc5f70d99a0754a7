"""Every module of the program at once, for processes whose children or watches shall find them imported."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import convinspect

_OPTIONAL = ("aiohttp", "huggingface_hub", "s3fs", "textual")
"""Packages that only addresses and the explorer need."""


def import_all_modules(but: Collection[str] = _OPTIONAL) -> None:
    """Import the package's modules, and with them PyTorch; but those whose optional package is not installed.

    Args:
        but: Packages that may be missing.
    """
    for module in pkgutil.walk_packages(convinspect.__path__, "convinspect."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in but:
                raise


def import_without_torch() -> None:
    """Import the modules that do not need PyTorch."""
    with _torch_missing():
        import_all_modules(("torch", *_OPTIONAL))


@contextmanager
def _torch_missing() -> Iterator[None]:
    """Whoever imports PyTorch finds that it is not installed; not for a process that has imported it."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
