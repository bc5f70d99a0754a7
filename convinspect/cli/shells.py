"""What completion needs beyond Typer's: words as bash divides them, names as bash takes them, and a script for zsh.

Typer's script gives bash what the program prints, a name a line, and bash puts that on the command line unchanged. So
names with spaces, `*` or `$` need their backslashes here; zsh and fish add them by themselves.

Typer gives zsh a piece of script to run, in which a name with a quote is another one. So zsh gets a script of its own,
which asks as fish does: a name a line, with a tab and its help.
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

_ZSH_SCRIPT = r"""
#compdef %(prog_name)s

%(complete_func)s() {
  local line offer
  local -a offered
  for line in "${(@f)$(env %(autocomplete_var)s=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args \
                           _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" %(prog_name)s)}"; do
    [[ -n $line ]] || continue
    offer=${${${line%%%%$'\t'*}//\\/\\\\}//:/\\:}
    [[ $line == *$'\t'* ]] && offer+=:${line#*$'\t'}
    offered+=("$offer")
  done
  if (( $#offered )); then _describe '' offered; else _files; fi
}

compdef %(complete_func)s %(prog_name)s
[ "$funcstack[1]" = "_%(prog_name)s" ] && %(complete_func)s "$@"
"""
"""In place of Typer's script for zsh. zsh runs the file when Tab is pressed for the first time, and takes what that
offers; Typer's only defines a function for the next time."""

_OPTION = re.compile(r"""(?:^|\s)(--[\w-]+=)(?:[^\s'"\\]|\\.|'[^']*'?|"[^"]*"?)*$""")
"""A long option and "=" at the beginning of the last word on a line."""


def replace_zsh_script() -> None:
    """Have our script installed for zsh; do nothing where Typer keeps its own elsewhere."""
    with suppress(ImportError, AttributeError, KeyError):
        scripts = import_module("typer._completion_shared")._completion_scripts
        if "zsh" in scripts:
            scripts["zsh"] = _ZSH_SCRIPT


def complete_in_fish(complete: Callable[[], object]) -> None:
    """Print what Typer offers, as whole words: behind `--layer=` it offers what comes after that.

    Args:
        complete: Prints a name a line, for the line in `_TYPER_COMPLETE_ARGS`, and exits.
    """
    option = _OPTION.search(os.environ.get("_TYPER_COMPLETE_ARGS", ""))
    _offer(complete, lambda name: f"{option[1] if option else ''}{name}")


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
    _offer(complete, lambda name: spelled(name, typed))


def _offer(complete: Callable[[], object], spell: Callable[[str], str | None]) -> None:
    """Print the names that Typer offers as a shell spells them, but those that it cannot take."""
    names = io.StringIO()
    try:
        with redirect_stdout(names):
            complete()
    finally:
        for name in map(spell, names.getvalue().splitlines()):
            if name is not None:
                print(name)


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
