"""Every module of the program at once, for processes whose children or watches shall find them imported."""

from __future__ import annotations

import importlib
import pkgutil

import convinspect


def import_all_modules() -> None:
    """Import the package's modules, and with them PyTorch."""
    for module in pkgutil.walk_packages(convinspect.__path__, "convinspect."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
