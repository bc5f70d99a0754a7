"""Every module of the program at once, for processes whose children or watches shall find them imported."""

from __future__ import annotations

import importlib
import pkgutil

import convinspect

_OPTIONAL = ("aiohttp", "huggingface_hub", "s3fs", "textual")
"""Packages that only addresses and the explorer need."""


def import_all_modules() -> None:
    """Import the package's modules, and with them PyTorch; but those whose optional package is not installed."""
    for module in pkgutil.walk_packages(convinspect.__path__, "convinspect."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in _OPTIONAL:
                raise
