"""`convert` commands that fix what `diff` found, ready to be typed into a shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from convinspect.checkpoint import Checkpoint
from convinspect.converting.possible import Way
from convinspect.diffing.steps import Step
from convinspect.formats.roots import main_root
from convinspect.formats.sources import INSIDE, member_of
from convinspect.formats.torch.distributed import holds_safetensors
from convinspect.kinds import option_of
from convinspect.records import Container
from convinspect.remote.addresses import Address
from convinspect.text import first_few
from convinspect.writing.archived import archive_of, is_rewritten
from convinspect.writing.carried import folder_of

_OF_TORCH = (".pt", ".pth", ".ckpt", ".bin")


def like_command(
    a: Checkpoint, b: Checkpoint, like: bool, rules: Sequence[str], turning: bool = False, left: Iterable[str] = ()
) -> str:
    """The command that gives A's tensors B's shapes and names.

    Args:
        a: The checkpoint to convert.
        b: The checkpoint that loads.
        like: Whether shapes must change.
        rules: `--rename` rules.
        turning: Square matrices are turned too.
        left: Layers that stay as they are.
    """
    words = ["--like", _path(_given(b))] if like else []
    words += ["--turn-square"] if turning else []
    words += [word for name in left for word in ("--exclude", name)] if like else []
    return _command(a, _given(a), _target(a), [*words, *_renames(rules)])


def step_commands(a: Checkpoint, steps: Sequence[Step], rules: Sequence[str]) -> list[str]:
    """Commands to run in order: one for each target kind; the last one also renames."""
    if not steps:
        return [_command(a, _given(a), _target(a), _renames(rules))] if rules else []
    commands, source = [], _given(a)
    for number, step in enumerate(steps, 1):
        words = ["--to", option_of(step.to)]
        words += [word for kind in step.kinds for word in ("--from", option_of(kind))]
        words += ["--patches"] * step.patches
        words += ["--patch", "x".join(map(str, step.patch))] if step.patch else []
        words += [word for name in step.layers for word in ("--layer", name)]
        last = number == len(steps)
        target = _target(a, "" if last else str(number))
        commands.append(_command(a, source, target, [*words, *(_renames(rules) if last else [])]))
        source = target
    return commands


def way_command(a: Checkpoint, way: Way, name: str | None = None) -> str:
    """The command that converts one layer, and those that must change with it; without a name all of its kind."""
    names = () if name is None else (name or "(root)", *way.along)
    return step_commands(a, [Step(way.to, way.kinds, names, 1, way.patches)], ())[0]


def way_words(a: Checkpoint, way: Way) -> tuple[str, str, str]:
    """What a layer becomes, and the command that makes it so: what stands before the layer's quoted name, and after."""
    name = "LAYER0NAME"
    head, option, tail = way_command(a, way, name).partition(f"--layer {name}")
    return way_text(way), head + option.removesuffix(name), tail


def way_text(way: Way, shape: str = "") -> str:
    """What a layer becomes, of which shape, and what must change with it."""
    what = " ".join(filter(None, (way.to, shape, "over patches" if way.patches else "")))
    return f"{what}, with {first_few(way.along, 2)}" if way.along else what


def can_be_converted(checkpoint: Checkpoint) -> bool:
    """Whether `convert` accepts the checkpoint."""
    return checkpoint.container is not Container.DISTRIBUTED or not holds_safetensors(checkpoint.path)


def is_main(checkpoint: Checkpoint) -> bool:
    """Whether the root in use is the one that is used where none is named."""
    return checkpoint.root == main_root(checkpoint.roots)


def used_by_like(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether B's root in use is the one that `--like` uses: of A's name where A's is given, else the main one."""
    named = None if is_main(a) else next((root for root in b.roots if root.path == a.root.path), None)
    return b.root == (named or main_root(b.roots))


def _command(a: Checkpoint, source: Path, target: Path, words: Sequence[str]) -> str:
    first = source == _given(a)
    words = ["convinspect", "convert", _path(source), "-o", _path(target), *words]
    if first and a.holds_modules:
        words.append("--state-dict")
    # The output of --state-dict has a single root.
    if not is_main(a) and (first or not a.holds_modules):
        words += ["--root", a.root.path or "."]
    return " ".join(map(quoted, words))


def _renames(rules: Sequence[str]) -> list[str]:
    return [word for rule in rules for word in ("--rename", rule)]


def _given(checkpoint: Checkpoint) -> Path:
    """What was given to open: of a folder not the index in it, since the other files belong to the weights."""
    return checkpoint.folder or checkpoint.path


def _path(path: Path) -> str:
    """A path, written so that it is not parsed as an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _target(a: Checkpoint, number: str = "") -> Path:
    """The output's path: beside the source, with a suffix that fits its format."""
    path = a.path
    if a.container is Container.DISTRIBUTED and archive_of(path) is None:
        return _folder_target(folder_of(path), None, number)
    if a.folder is not None or path.name.endswith(".index.json") or path.is_dir():
        return _folder_target(a.folder or (path if path.is_dir() else path.parent), archive_of(path), number)
    archive = archive_of(path)
    # Of a folder in an archive one file is written.
    rewritten = a.container.rewritten and not (archive and a.container is Container.DISTRIBUTED)
    whole = archive is not None and rewritten and not a.holds_modules and is_rewritten(path)
    if archive is not None:
        # Around a checkpoint that keeps its format its archive is written too; else the checkpoint alone.
        name = member_of(path).rpartition(INSIDE)[2].rpartition("/")[2]
        path = archive if whole else archive.with_name(name.lstrip(".") or archive.stem)
    if isinstance(path, Address):
        # What is written is written here.
        path = Path(path.name)
    suffix = path.suffix
    if whole:
        return path.with_name(f"{path.stem}_converted{number}{suffix}")
    if not rewritten:
        suffix = ".safetensors"
    elif a.container is Container.SAFETENSORS:
        suffix = ".safetensors" if suffix in _OF_TORCH else suffix
    elif suffix == ".safetensors" or (a.holds_modules and suffix not in _OF_TORCH):
        suffix = ".pt"
    return path.with_name(f"{path.name.removesuffix(path.suffix)}_converted{number}{suffix}")


def _folder_target(folder: Path, archive: Path | None, number: str) -> Path:
    """The new folder's path: beside the old one, or beside the archive that this lies in."""
    name = folder.resolve().name if archive is None else archive.name.split(".", 1)[0] or archive.stem
    beside = archive or folder
    # What is written is written here; and "." lies in a folder of which it does not know the name.
    above = Path() if isinstance(beside, Address) else beside.parent if beside.name not in ("", "..") else beside / ".."
    return above / f"{name}_converted{number}"


def quoted(word: str) -> str:
    r"""A word quoted for a shell if necessary; as `$'…\x1b…'` (bash, zsh, ksh) if it has characters that are unsafe to
    print on a terminal.
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
