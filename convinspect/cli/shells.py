"""What completion needs beyond Typer's: words as bash divides them, names as bash takes them, the first Tab in zsh.

Typer's script gives bash what the program prints, a name a line, and bash puts that on the command line unchanged. So
names with spaces, `*` or `$` need their backslashes here; zsh and fish add them by themselves.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from importlib import import_module

_PLAIN = re.compile(r"[\w.+@:/,=%-]")
"""Characters that bash takes as they are."""
_IN_DOUBLE = frozenset('"$`\\!')

_ZSH_FIRST_TAB = """
[ "$funcstack[1]" = "_%(prog_name)s" ] && %(complete_func)s "$@"
"""
"""For the end of Typer's script for zsh. zsh runs the file when Tab is pressed for the first time, and takes what that
offers; Typer's only defines a function for the next time."""


def mend_zsh_script() -> None:
    """Let the script that is installed for zsh complete at the first Tab; do nothing where Typer keeps it elsewhere."""
    with suppress(ImportError, AttributeError, KeyError):
        scripts = import_module("typer._completion_shared")._completion_scripts
        if "funcstack" not in scripts["zsh"]:
            scripts["zsh"] += _ZSH_FIRST_TAB


def complete_in_bash(complete: Callable[[], object]) -> None:
    """Print what Typer offers, in bash's spelling.

    Args:
        complete: Prints a name a line, from `COMP_WORDS` and `COMP_CWORD`, and exits.
    """
    words = os.environ.get("COMP_WORDS", "").split("\n")
    at = int(os.environ.get("COMP_CWORD", "0"))
    words, at = joined(words, at)
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(words), str(at)
    typed = words[at] if at < len(words) else ""
    names = io.StringIO()
    try:
        with redirect_stdout(names):
            complete()
    finally:
        for name in names.getvalue().splitlines():
            shown = spelled(name, typed)
            if shown is not None:
                print(shown)


def joined(words: list[str], at: int) -> tuple[list[str], int]:
    """Words that bash divides at ":" and "=", put together again; and the place of the one at `at`.

    bash does not say whether there were spaces. There are none beside a colon in a name, and "=" counts only behind a
    long option.
    """
    whole: list[str] = []
    place = 0
    for i, word in enumerate(words):
        last = whole[-1] if whole else ""
        is_rest = last.endswith(":") or (last.startswith("--") and last.endswith("="))
        if last and (is_rest or word.startswith(":") or (word == "=" and last.startswith("--"))):
            whole[-1] += word
        else:
            whole.append(word)
        if i == at:
            place = len(whole) - 1
    return whole, place if at < len(words) else at


def spelled(name: str, typed: str) -> str | None:
    """A name in place of what is typed; None if that needs what bash cannot take here.

    Args:
        name: What is offered.
        typed: The word so far, with its quotation mark if it begins with one.
    """
    quote = typed[:1]
    if quote in ("'", '"'):
        # bash keeps the mark, and adds the other.
        takes = quote not in name if quote == "'" else _IN_DOUBLE.isdisjoint(name)
        return name if takes else None
    if typed.startswith("--") and "=" in typed:
        typed = typed.partition("=")[2]
    # bash replaces what follows the last colon only.
    start = re.sub(r"\\(.)", r"\1", typed).rpartition(":")
    rest = name.removeprefix("".join(start[:2]))
    return "".join(letter if _PLAIN.match(letter) else f"\\{letter}" for letter in rest)
