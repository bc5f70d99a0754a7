"""Convert values of options and arguments without pydantic.

From 0.29 on Typer converts every value with pydantic, whose import takes longer than a whole listing. Here values that
are clearly valid are converted without it. Everything else (invalid values, and so every error message; unusual types;
other versions of Typer) is left to Typer: if this module misses a case, a command starts slower, with the same result.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

from convinspect.remote.addresses import path_of

_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_CONVERTER = "get_runtime_param"
"""The method of Typer's parameters that returns their converter."""


class _LeftToTyper(Exception):
    """A value that is not clearly valid."""


def convert_quickly(parameters: Iterable[Any]) -> None:
    """Give parameters of the types below a converter without pydantic, and leave the others unchanged."""
    for parameter in parameters:
        # Older versions of Typer have neither attribute, and no pydantic.
        with suppress(AttributeError):
            described = parameter.type_descriptor
            typers_own = getattr(parameter, _CONVERTER)
            convert = _converter(described.annotation, described.parameter_info)
            if convert is not None and not isinstance(typers_own, _Quick):
                setattr(parameter, _CONVERTER, _Quick(convert, typers_own))


class _Quick:
    """A parameter's converter; calling it returns itself, since Typer calls a method to get the converter."""

    def __init__(self, convert: Callable[[Any], Any], typers_own: Callable[[], Any]) -> None:
        self.convert = convert
        self.typers_own = typers_own

    def __call__(self) -> _Quick:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert a value; same name, parameters and result as the method of Typer's own converter."""
        try:
            if value is None:
                return () if param.multiple or param.nargs == -1 else None
            return self.convert(value)
        except _LeftToTyper:
            return self.typers_own().coerce(value, param=param, ctx=ctx)


def _converter(annotation: Any, wanted: Any) -> Callable[[Any], Any] | None:
    """The function that converts a text, or a default, to a value; None for types that are left to Typer.

    Args:
        annotation: The parameter's type, such as `int` or `list[str]`.
        wanted: The parameter's settings: `min`, `readable`, …
    """
    if wanted.parser is not None:
        return None
    if get_origin(annotation) is list:
        convert = _converter(get_args(annotation)[0], wanted)
        return None if convert is None else lambda values: _each(convert, values)
    if annotation is str:
        return _text
    if annotation is bool:
        return _flag
    if annotation is int and not wanted.clamp:
        return lambda value: _integer(value, wanted.min, wanted.max)
    if annotation is Path and not _more_of_paths(wanted):
        return lambda value: _path(value, wanted.readable)
    if isinstance(annotation, type) and issubclass(annotation, Enum) and wanted.case_sensitive:
        return lambda value: _member(annotation, value)
    return None


def _each(convert: Callable[[Any], Any], values: Any) -> list[Any]:
    if not isinstance(values, (list, tuple)):
        raise _LeftToTyper
    return [convert(value) for value in values]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _LeftToTyper
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _LeftToTyper
    return value


def _integer(value: Any, least: float | None, most: float | None) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if type(value) is not int or (least is not None and value < least) or (most is not None and value > most):
        raise _LeftToTyper
    return value


def _more_of_paths(wanted: Any) -> bool:
    """Whether a path must meet other conditions than being readable."""
    plain = wanted.file_okay and wanted.dir_okay and wanted.path_type is None
    return not plain or wanted.exists or wanted.writable or wanted.resolve_path or wanted.allow_dash


def _path(value: Any, readable: bool) -> Path:
    if not isinstance(value, (str, Path)) or (readable and os.path.exists(value) and not os.access(value, os.R_OK)):
        raise _LeftToTyper
    return path_of(value)


def _member(choices: type[Enum], value: Any) -> Enum:
    if isinstance(value, choices):
        return value
    for choice in choices:
        if isinstance(value, str) and str(choice.value) == value:
            return choice
    raise _LeftToTyper
