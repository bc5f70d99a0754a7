"""timm, imported with or without what it needs of torchvision and Pillow only to be imported."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

import torch


class _Nothing(type):
    """A class whose every attribute is another one."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {})


class _StandIn(types.ModuleType):
    """A module that has whatever is imported from it."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return "99"
        return getattr(_Nothing("module", (), {}), name)


class _StandIns(MetaPathFinder, Loader):
    """Finds what is absent.

    Args:
        absent: Packages by name.
    """

    def __init__(self, absent: Sequence[str]) -> None:
        self.absent = absent

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in self.absent else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextmanager
def imported(name: str) -> Iterator[Any]:
    """A module of timm. Packages that are absent are stood in for as long as this lasts.

    Args:
        name: Dotted.

    Raises:
        ImportError: timm is not installed.
    """
    absent = [package for package in ("torchvision", "PIL") if find_spec(package) is None]
    finder = _StandIns(absent)
    # An operator goes with the library that declares it.
    library = None if "torchvision" in absent else _torchvision_operators()
    sys.meta_path.append(finder)
    try:
        yield importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] in absent]:
            del sys.modules[loaded]
        del library


def _torchvision_operators() -> Any:
    """The operators that torchvision asks for when it is imported, declared where they are not there: its build for
    CUDA loads none beside a PyTorch for the CPU. No model of the tests calls one.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None
