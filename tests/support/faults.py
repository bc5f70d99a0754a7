"""The program under faults: in children of a process that has imported everything, so that hundreds of runs are cheap.

`serve` reads one JSON line for each group of runs that begin together, and answers with one.
"""

from __future__ import annotations

import builtins
import errno
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from convinspect.writing.in_place import edit as in_place
from convinspect.writing.in_place import file_ranges, recover
from support.imports import import_all_modules, import_without_torch
from support.in_process import build_every_command, call_main
from support.paths import ROOT, STNKD, TESTS
from support.program import needs_torch
from support.unsynced import leave_unsynced

NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Run:
    """One call of the program.

    Attributes:
        arguments: As on the command line.
        faults: Names in `FAULTS`, each with its arguments.
        kill_after: Seconds from its first write until it is killed; None to let it end.
        user: Whose rights it has; None for those of the tests.
        largest_file: Bytes that a file may grow to; None without limit.
        variables: Set in its environment; with any it leads a session of its own, as torchrun's processes do.
    """

    arguments: tuple[str, ...]
    faults: tuple[tuple[Any, ...], ...] = ()
    kill_after: float | None = None
    user: int | None = None
    largest_file: int | None = None
    variables: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.

    Attributes:
        code: Exit code; minus the signal's number.
        stdout: What it printed.
        stderr: What it complained of.
        writing: Seconds from the first write until the target had its name; 0 where it never got one.
        steps: Calls of the system from the first write on, where these were counted.
    """

    code: int
    stdout: str
    stderr: str
    writing: float
    steps: int = 0


class Program:
    """The process whose children are the runs.

    Args:
        with_torch: Import PyTorch too, for ranks and commands that run models. Each fork of a process that has it takes
            longer than a conversion does.
    """

    def __init__(self, with_torch: bool = False) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from support.faults import serve; serve({with_torch})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A child of a process with threads can have none of PyTorch's.
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}",
                "OMP_NUM_THREADS": "1",
                "PYTHONIOENCODING": "utf-8",
                # As a rank sets it before it imports PyTorch.
                "TORCH_CPP_LOG_LEVEL": "FATAL",
            },
        )

    def run(self, *arguments: object, faults: tuple[tuple[Any, ...], ...] = (), **options: Any) -> Ended:
        """One run."""
        return self.at_once(Run(tuple(map(str, arguments)), faults, **options))[0]

    def at_once(self, *runs: Run) -> list[Ended]:
        """Several that begin together."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([asdict(run) for run in runs]) + "\n")
        self._process.stdin.flush()
        return [Ended(**fields) for fields in json.loads(self._process.stdout.readline())]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


class Programs:
    """One without PyTorch and one with it, each started when the first run needs it.

    A fork of the one with PyTorch takes longer than most conversions do, and the other would import it for each run.
    """

    def __init__(self) -> None:
        self._started: dict[bool, Program] = {}

    def run(self, *arguments: object, faults: tuple[tuple[Any, ...], ...] = (), **options: Any) -> Ended:
        """One run."""
        return self.at_once(Run(tuple(map(str, arguments)), faults, **options))[0]

    def at_once(self, *runs: Run) -> list[Ended]:
        """Several that begin together."""
        with_torch = any(needs_torch(run.arguments) for run in runs)
        if with_torch not in self._started:
            self._started[with_torch] = Program(with_torch)
        return self._started[with_torch].at_once(*runs)

    def close(self) -> None:
        """End them."""
        for program in self._started.values():
            program.close()


# ------------------------------------------------------------------------------------- inside the process that forks

STEPS = (
    *("open", "write", "pread", "copy_file_range", "fsync", "close", "replace", "link", "mkdir", "rmdir", "unlink"),
    *("rename", "stat", "chmod", "chown", "scandir", "pwrite", "ftruncate", "utime"),
)
"""Calls of the system that are counted, from the first `mkdir` on: it makes the folder for what is written."""


class Steps:
    """Counts those calls, and may end the process before one of them.

    Args:
        last: Before which one.
        begun: Count from now on, instead of from the first `mkdir` on.
    """

    def __init__(self, last: int, begun: bool = False) -> None:
        self.done, self._begun = -1, begun
        self.last = last
        for name in STEPS:
            setattr(os, name, self._counting(name, getattr(os, name)))
        builtins.open = self._counting("open", builtins.open)
        # Python has no function for this call.
        modules: tuple[Any, ...] = (in_place, recover)
        for module in modules:
            module.shift = self._counting("shift", file_ranges.shift)

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if self._begun or self.done >= 0 or name == "mkdir":
                self.done += 1
                if self.done == self.last:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return counted


def _refuse(name: str, number: int, calls: int = 0) -> None:
    """After some calls of `os.NAME`, every further one fails."""
    original, left = getattr(os, name), [calls]

    def refused(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        return original(*arguments, **options)

    setattr(os, name, refused)


def _transfer_at_most(size_limit: int) -> None:
    """Read, write and copy at most so many bytes at once, as some network file systems have it."""
    pread, write, copy = os.pread, os.write, os.copy_file_range
    os.pread = lambda handle, size, at: pread(handle, min(size, size_limit), at)
    os.write = lambda handle, data: write(handle, memoryview(data)[:size_limit])
    os.copy_file_range = lambda source, target, size, at: copy(source, target, min(size, size_limit), at)  # type: ignore[misc,assignment]


def _hide_free_space() -> None:
    def unknown(path: object) -> Any:
        raise OSError(errno.ENOSYS, "not known here")

    shutil.disk_usage = unknown


def _act_before(function_name: str, call: int, action: str, path: str, argument: str = "") -> None:
    """Before call `call` of a function, something is done to a file by someone else."""
    module, _, name = function_name.rpartition(".")
    owner = importlib.import_module(module)
    original, calls = getattr(owner, name), [0]

    def surprised(*arguments: Any, **options: Any) -> Any:
        if calls[0] == call:
            ACTIONS[action](Path(path), argument)
        calls[0] += 1
        return original(*arguments, **options)

    setattr(owner, name, surprised)


def _rewrite(path: Path, _: str) -> None:
    """Other bytes in the same file, of the same length."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\x55" * 64)


ACTIONS: dict[str, Callable[[Path, str], object]] = {
    "vanish": lambda path, _: path.unlink(),
    "cut": lambda path, _: os.truncate(path, path.stat().st_size // 3),
    "empty": lambda path, _: os.truncate(path, 0),
    "grow": lambda path, _: path.open("ab").write(b"more"),
    "rewrite": _rewrite,
    "replace": lambda path, replacement: os.replace(replacement, path),
    "make": lambda path, text: path.write_text(text),
    "kill": lambda _, __: os.kill(os.getpid(), signal.SIGKILL),
    "end": lambda _, number: os.kill(os.getpid(), int(number)),
}


def _wait_for_ranks(seconds: float) -> None:
    from convinspect.ranks import group

    group.PATIENCE = timedelta(seconds=seconds)


def _be_elsewhere() -> None:
    """As on a machine that does not share the target's file system."""
    from convinspect.writing import atomic

    atomic._seen = lambda folder: False


def _allow_child() -> None:
    """As in a process that has not imported PyTorch yet. With one thread each a fork does not harm it."""
    from convinspect.writing import child_process

    child_process.can_fork = lambda: True


FAULTS: dict[str, Callable[..., object]] = {
    "refuse": lambda name, code, calls=0: _refuse(name, getattr(errno, code), calls),
    "short transfers": _transfer_at_most,
    "unknown free space": _hide_free_space,
    "before": _act_before,
    "child": _allow_child,
    "patience": _wait_for_ranks,
    "elsewhere": _be_elsewhere,
}


def _report_times(pipe: int) -> None:
    """The time of the first `mkdir`, which makes the folder for what is written, and of every naming."""

    def report() -> None:
        os.write(pipe, struct.pack("d", time.perf_counter()))

    def before_first_call(function: Callable[..., Any]) -> Callable[..., Any]:
        calls: list[int] = []

        def reporting(*arguments: Any, **options: Any) -> Any:
            if not calls:
                report()
            calls.append(1)
            return function(*arguments, **options)

        return reporting

    def after_each_call(function: Callable[..., Any]) -> Callable[..., Any]:
        def reporting(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            report()
            return result

        return reporting

    os.mkdir = before_first_call(os.mkdir)
    os.link, os.replace, os.rename = map(after_each_call, (os.link, os.replace, os.rename))


def _run_child(run: dict[str, Any], output: tuple[int, int], step_count: int, times: int) -> None:
    """Never returns."""
    from convinspect.cli import main

    code, steps = 3, None
    try:
        # Whoever starts the tests in the background, or by nohup, has them ignored.
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.dup2(output[0], 1)
        os.dup2(output[1], 2)
        if run["variables"]:
            os.setsid()
            os.environ.update(run["variables"])
        if run["largest_file"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (run["largest_file"], run["largest_file"]))
        if run["user"] is not None:
            os.setgroups([])
            os.setgid(run["user"])
            os.setuid(run["user"])
        sys.argv = ["convinspect", *run["arguments"]]
        _report_times(times)
        for name, *arguments in run["faults"]:
            if name == "kill at step":
                steps = Steps(*arguments)
            else:
                FAULTS[name](*arguments)
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if steps is not None:
            os.pwrite(step_count, str(steps.done + 1).encode(), 0)
        os._exit(code)


def _begin(run: dict[str, Any]) -> Callable[[], Ended]:
    """Fork; the function that is returned waits until the child and all of its children are gone."""
    files = [os.memfd_create(name) for name in ("out", "err", "steps")]
    times_read, times_written = os.pipe()
    child = os.fork()
    if not child:
        os.close(times_read)
        _run_child(run, (files[0], files[1]), files[2], times_written)
    os.close(times_written)

    def wait() -> Ended:
        start = b""
        if run["kill_after"] is not None:
            start = os.read(times_read, 8)
            since = time.perf_counter() - struct.unpack("d", start)[0] if start else 0.0
            time.sleep(max(0.0, run["kill_after"] - since))
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with os.fdopen(times_read, "rb") as rest:
            # The end of it comes when the last child is gone.
            times = [moment for (moment,) in struct.iter_unpack("d", start + rest.read())]
        out, err, steps = (_text(file) for file in files)
        return Ended(code, out, err, times[-1] - times[0] if times else 0.0, int(steps or 0))

    return wait


def _text(handle: int) -> str:
    text = os.pread(handle, 1 << 24, 0).decode("utf-8", "backslashreplace")
    os.close(handle)
    return text


def _warm_up() -> None:
    """Run once what the children will, so that they find all modules imported; some cannot read them any more."""
    build_every_command()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.pt", "a.safetensors"):
            call_main("convert", STNKD, "-o", f"{folder}/{name}", "--to", "linear")
    gc.freeze()


def serve(with_torch: bool) -> None:
    """Answer until the input ends."""
    leave_unsynced()
    if with_torch:
        import_all_modules()
    else:
        import_without_torch()
    _warm_up()
    for line in sys.stdin:
        waiting = [_begin(run) for run in json.loads(line)]
        print(json.dumps([asdict(wait()) for wait in waiting]), flush=True)
