"""A page of its own: data, styles and scripts in one HTML file that asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from convinspect.errors import CannotWrite, Option, Wording
from convinspect.remote.addresses import ONLY_HERE, Address, path_of
from convinspect.render.cells import safe
from convinspect.render.style import css

_SCRIPTS = ("dom.js", "numbers.js", "drawings.js", "detail.js", "table.js", "tree.js", "models.js", "main.js")
_STYLES = ("page.css", "parts.css")

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="convinspect">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{styles}</style>
</head>
<body>
<main id="page"><h1>{title}</h1><noscript>This page draws its tables with JavaScript, which is switched off.</noscript>
</main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""

_UNSAFE = re.compile("[<>&\u2028\u2029]")


@dataclass(frozen=True)
class Page:
    """A report as one self-contained HTML page.

    Attributes:
        title: Of the window.
        html: The page as text. It asks for nothing from elsewhere, and opens from a disk.
        verdict: Of two checkpoints, whether the first loads where the second does; else "".
    """

    title: str
    html: str = field(repr=False)
    verdict: str = ""

    def _repr_html_(self) -> str:
        """The page in a frame of its own, for notebooks."""
        frame = 'style="width: 100%; height: 720px; border: 1px solid; box-sizing: border-box"'
        return f'<iframe title="{escape(safe(self.title))}" {frame} srcdoc="{escape(self.html)}"></iframe>'

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the page to a file, whole or not at all.

        Args:
            path: The file.
            force: Overwrite a file that exists.

        Returns:
            The path.

        Raises:
            CannotWrite: It exists already, or is an address.
            CannotShow: It cannot be written.
        """
        from convinspect.render.picture import save_text

        target = path_of(path)
        if isinstance(target, Address):
            raise CannotWrite(*ONLY_HERE, target)
        check_new(target, force)
        save_text(target, [self.html])
        return target


def check_new(path: Path, force: bool) -> None:
    """Check that a file is not overwritten by mistake.

    Raises:
        CannotWrite: It exists, and that it may be overwritten was not said.
    """
    if os.path.lexists(path) and not force:
        raise CannotWrite(
            "the file exists", Wording("use ", Option("force"), " to overwrite it, or choose another name"), path
        )


def document(data: dict[str, Any], title: str) -> str:
    """The page as text.

    Args:
        data: What its script shows, as JSON.
        title: Of the window; text from a file is escaped here.
    """
    styles, script = css() + _assets(_STYLES), _assets(_SCRIPTS)
    # Nothing is fetched, and only this very script and these very styles count.
    policy = (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}'; style-src 'sha256-{_digest(styles)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return _PAGE.format(policy=policy, title=escape(safe(title)), styles=styles, data=embedded(data), script=script)


def embedded(data: object) -> str:
    r"""JSON that stands in a `<script>` element: `<`, `>`, `&` and JavaScript's line ends are `\u003c` and the like."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A lone surrogate, which has no UTF-8, is written as an escape too.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


@cache
def _assets(names: Sequence[str]) -> str:
    folder = files("convinspect.page") / "assets"
    text = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
    return f"\n{text}" if names is _STYLES else f'\n"use strict";\n(() => {{\n{text}\n}})();\n'


def _digest(text: str) -> str:
    """The hash of an element's content as a policy names it."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
