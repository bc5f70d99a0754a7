"""Runs commands on hostile files in this process, while Python reports what is done to the system.

`python tests/support/auditing.py FOLDER` builds each file below FOLDER and prints a line for everything but reading it:
an event's name, its first argument, the file and the command; and one for each command that ended as none should.
Nothing is printed when nothing happened.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

from rich.cells import cell_len

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from support.hostile import HOSTILE, LARGE
from support.imports import import_all_modules
from support.in_process import build_commands_once
from support.paths import FIXTURES
from support.promises import attempted, broken, confine, size_of
from support.sampling import EVERY_CASE
from support.servers import Server, serving

BENIGN = (
    *("pointnet_stnkd.pt", "pointnet_stnkd_module.pt", "pointnet_stnkd_legacy.pt", "pointnet_stnkd_script.pt"),
    *("pointnet_stnkd_trace.pt", "pointnet_stnkd.pt2", "pointnet_stnkd.safetensors", "sharded", "sharded_bin"),
    *("distributed", "dtypes.pt", "big_endian.pt", "odd_tensors.pt", "weight_norm_old.pt", "pruned.pt", "README.md"),
)
COMMANDS = (
    ("shapes", "{path}", "--all"),
    ("check", "{path}", "--values"),
    ("weights", "{path}"),
    ("weights", "{path}", "--stats"),
    ("convert", "{path}", "--to", "linear", "--dry-run"),
    ("diff", "{path}", "{path}"),
    ("verify", "{path}", "{path}", "--bits"),
)
QUIET = {
    *("object.__getattr__", "sys._getframe", "builtins.id", "os.listdir", "os.scandir", "pathlib.Path.glob"),
    "array.__new__",
}
"""Events that look at something, or make room for numbers, and change nothing. A folder's entries are read to find its
shards."""


_FETCHING = ("socket.__new__", "_thread.start_new_thread", "_thread.start_joinable_thread")
_SERVING = ("(process_request_thread)", "(serve_forever)")
"""Ends of the names of the threads that serve the files to this very process."""


class Watch:
    """The audit hook, which stays for good but speaks only while a command is under way."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        """Where the file lies; None between commands."""
        self.port = 0
        """Of the server on this machine that has the file; then no file of this machine may be opened."""
        self.seen: set[str] = set()

    @contextmanager
    def over(self, folder: Path) -> Iterator[None]:
        """Watch a command on a file in that folder."""
        self.folder = folder
        try:
            yield
        finally:
            self.folder = None

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.folder is None or event in QUIET or threading.current_thread().name.endswith(_SERVING):
            return
        folder, self.folder = self.folder, None
        try:
            is_harmless = _asks(event, arguments, self.port) if self.port else _is_harmless(event, arguments, folder)
            if not is_harmless:
                self.seen.add(f"{event} {arguments[: 2 if self.port else 1]!r}"[:200])
        finally:
            self.folder = folder


def _asks(event: str, arguments: tuple[object, ...], port: int) -> bool:
    """Whether it is what asking the server at this port takes, or reading what it sent."""
    if event in ("socket.connect", "socket.getaddrinfo"):
        place = arguments[1] if event == "socket.connect" else tuple(arguments[:2])
        return place == ("127.0.0.1", port)
    # Threads that fetch, and their sockets.
    return event in _FETCHING or (event != "open" and _is_harmless(event, arguments, Path()))


def _is_harmless(event: str, arguments: tuple[object, ...], folder: Path) -> bool:
    first = arguments[0] if arguments else None
    if event == "open":
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        writing = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        return not writing and _below(first, folder)
    # Typer sets this one while it looks for pydantic.
    if event in ("os.putenv", "os.unsetenv"):
        return first == b"PYDANTIC_DISABLE_PLUGINS"
    # TorchScript's text becomes a syntax tree, which `ast` asks the compiler for; running it would show as "exec".
    return event == "compile" and arguments[1] == "<unknown>"


def _below(path: object, folder: Path) -> bool:
    """Whether the path as it was asked for lies in the file's folder; what a link leads to was put there by us."""
    return isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(f"{folder}{os.sep}")


def commands_for(name: str) -> tuple[tuple[str, ...], ...]:
    """Those that run on the file of that name: one of them, by turns."""
    if EVERY_CASE:
        return COMMANDS
    return (COMMANDS[zlib.crc32(name.encode()) % len(COMMANDS)],)


def _run(options: tuple[str, ...], path: str | Path, within: AbstractContextManager[object] | None = None) -> list[str]:
    """Run a command; what is wrong with how it ended."""
    words = [option.replace("{path}", str(path)) for option in options]
    return broken(attempted(*words, within=within), options[0], size_of(path))


def _warm_up(server: Server | None = None) -> None:
    """Sound files of every kind, and one of no kind, load what our own code needs: each by one command, by turns."""
    # Typer evaluates our own annotations each time that it builds a command.
    build_commands_once()
    import_all_modules()
    if server is not None:
        for name in (*BENIGN[:3], "none.pt"):
            (server.folder / name).write_bytes((FIXTURES / name).read_bytes() if name != "none.pt" else b"")
            for options in COMMANDS:
                _run(options, f"{server.address}/{name}")
    for number, name in enumerate(BENIGN):
        # The first file by all commands.
        for options in COMMANDS if EVERY_CASE or not number else [COMMANDS[number % len(COMMANDS)]]:
            _run(options, FIXTURES / name)
    # How wide a character is, is looked up in a table that is loaded for the first wide one.
    cell_len("名")
    # A text pickle's strings are decoded by codecs that the standard library loads when first asked for.
    for codec in ("raw-unicode-escape", "unicode-escape", "ascii", "latin-1", "utf-8", "utf-8-sig", "cp437"):
        b"a".decode(codec)


def audit(folder: Path, names: list[str], build: Callable[[str, Path], Path], server: Server | None = None) -> set[str]:
    """Every command on every file; what was done beyond reading it, and each that ended in a traceback, as lines.

    Args:
        folder: Where the files are built.
        names: Of the files.
        build: Builds one.
        server: Of that folder, where the files are to be read from.
    """
    _warm_up(server)
    watch = Watch()
    sys.addaudithook(watch)
    lines: set[str] = set()
    for number, name in enumerate(names):
        place = folder / str(number)
        place.mkdir()
        path: str | Path = build(name, place)
        if server is not None:
            path, watch.port = f"{server.address}/{Path(path).relative_to(folder)}", urlsplit(server.address).port or 0
        for options in commands_for(name):
            failures = _run(options, path, watch.over(place))
            lines |= {f"{line} · {name} · {options[0]}" for line in (*watch.seen, *failures)}
            watch.seen.clear()
        shutil.rmtree(place)
    return lines


if __name__ == "__main__":
    where = Path(sys.argv[1]).resolve()
    marker = where / "marker"
    part, parts = (int(word) for word in sys.argv[2:4])
    is_served = sys.argv[4:] == ["served"]
    # What has very many members takes long enough here, too.
    left = {name for name in HOSTILE if is_served and "_many_" in name}
    chosen = sorted(HOSTILE.keys() - LARGE.keys() - left)[part::parts]
    confine()
    with serving(where) if is_served else nullcontext() as own:
        lines = audit(where, chosen, lambda name, place: HOSTILE[name](place, marker), own)
    print("\n".join(sorted(lines)), end="")
    print(f"{len(chosen)} files", file=sys.stderr)
    sys.exit(1 if lines or marker.exists() else 0)
