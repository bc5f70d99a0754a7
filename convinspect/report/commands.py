"""`convert` commands that fix what `diff` found, ready to be typed into a shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from convinspect.checkpoint import Checkpoint
from convinspect.diffing.fixes import Step
from convinspect.formats.roots import main_root
from convinspect.kinds import option_of
from convinspect.records import Container

_OF_TORCH = (".pt", ".pth", ".ckpt", ".bin")


def like_command(a: Checkpoint, b: Checkpoint, like: bool, rules: Sequence[str]) -> str:
    """The call that gives A's tensors B's shapes and names.

    Args:
        a: The checkpoint to convert.
        b: The one that loads.
        like: Shapes are to change.
        rules: `--rename` rules.
    """
    words = ["--like", _path(b.path)] if like else []
    return _command(a, a.path, _target(a), [*words, *_renames(rules)])


def step_commands(a: Checkpoint, steps: Sequence[Step], rules: Sequence[str]) -> list[str]:
    """Calls that follow one another: one for each kind that layers become, the names with the last."""
    if not steps:
        return [_command(a, a.path, _target(a), _renames(rules))] if rules else []
    commands, source = [], a.path
    for number, step in enumerate(steps, 1):
        words = ["--to", option_of(step.to)]
        words += [word for kind in step.kinds for word in ("--from", option_of(kind))]
        words += [word for name in step.layers for word in ("--layer", name)]
        last = number == len(steps)
        target = _target(a, "" if last else str(number))
        commands.append(_command(a, source, target, [*words, *(_renames(rules) if last else [])]))
        source = target
    return commands


def can_be_converted(checkpoint: Checkpoint) -> bool:
    """Whether `convert` takes the file at all; a distributed checkpoint's shapes are spread over many."""
    return checkpoint.container is not Container.DISTRIBUTED


def is_main(checkpoint: Checkpoint) -> bool:
    """Whether the root in use is the one that `--like` takes."""
    return checkpoint.root == main_root(checkpoint.roots)


def _command(a: Checkpoint, source: Path, target: Path, words: Sequence[str]) -> str:
    first = source == a.path
    words = ["convinspect", "convert", _path(source), "-o", _path(target), *words]
    if first and a.holds_modules:
        words.append("--state-dict")
    # What --state-dict wrote has one root.
    if not is_main(a) and (first or not a.holds_modules):
        words += ["--root", a.root.path or "."]
    return " ".join(map(quoted, words))


def _renames(rules: Sequence[str]) -> list[str]:
    return [word for rule in rules for word in ("--rename", rule)]


def _path(path: Path) -> str:
    """A path that is not taken for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _target(a: Checkpoint, number: str = "") -> Path:
    """Where the result goes: beside the source, under a name whose suffix says what is in it."""
    path = a.path
    if path.name.endswith(".index.json") or path.is_dir():
        folder = path if path.is_dir() else path.parent
        return folder.parent / f"{folder.resolve().name}_converted{number}"
    suffix = path.suffix
    if a.container is Container.SAFETENSORS:
        suffix = ".safetensors" if suffix in _OF_TORCH else suffix
    elif suffix == ".safetensors" or (a.holds_modules and suffix not in _OF_TORCH):
        suffix = ".pt"
    return path.with_name(f"{path.name.removesuffix(path.suffix)}_converted{number}{suffix}")


def quoted(word: str) -> str:
    r"""A word as a shell takes it back: in quotes where it must be, and as `$'…\x1b…'` where it holds what no terminal
    should be shown (bash, zsh, ksh).
    """
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(_escaped(c) for c in word) + "'"


def _escaped(c: str) -> str:
    if c.isprintable():
        return f"\\{c}" if c in "\\'" else c
    try:
        raw = os.fsencode(c)
    except UnicodeEncodeError:
        raw = c.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in raw)
