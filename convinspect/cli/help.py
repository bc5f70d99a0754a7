"""Import Typer's `--help` drawing without the parts of Rich that it does not need here.

The module of Typer that draws help also imports Rich's Markdown and tracebacks (with their parsers and lexers), for
programs with Markdown help or coloured tracebacks. convinspect has neither, and these imports take half of `--help`.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any

_UNUSED = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}
"""Modules, and the class that Typer imports from each."""


def import_drawing() -> None:
    """Import `typer.rich_utils` with stand-ins for the classes above, which import the real class when called.

    The modules themselves stay unchanged: a later import gets Rich's own.
    """
    if "typer.rich_utils" in sys.modules:
        return
    stand_ins = {name: _stand_in(name, attribute) for name, attribute in _UNUSED.items() if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        with suppress(ImportError):
            import_module("typer.rich_utils")
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


class _Deferred(type):
    """A class that is imported when it is first used."""

    home: str

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        return _real(cls)(*arguments, **options)

    def __getattr__(cls, name: str) -> Any:
        return getattr(_real(cls), name)


def _real(deferred: _Deferred) -> Any:
    return getattr(import_module(deferred.home), deferred.__name__)


def _stand_in(module: str, attribute: str) -> ModuleType:
    stand_in = ModuleType(module)
    setattr(stand_in, attribute, _Deferred(attribute, (), {"home": module}))
    return stand_in
