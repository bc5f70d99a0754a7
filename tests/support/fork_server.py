"""The program in children of a process that has imported what it needs: whole processes, without their imports.

A child has its own arguments, folder, environment, pipes and exit code, and runs `python -m convinspect` as Python
does. Needs Linux, where a process that has imported PyTorch survives a fork as long as it has one thread.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import mmap
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib.abc import MetaPathFinder
from typing import Any, NoReturn

import pytest

from convinspect.cli.ending import spare_pytorch
from support.imports import import_all_modules, import_without_torch
from support.in_process import build_every_command
from support.like_windows import VARIABLE, take_away
from support.paths import FIXTURES, ROOT, TESTS
from support.unsynced import leave_unsynced

_NUMBER = struct.Struct("<q")
"""How lengths, process ids and exit codes travel."""


class ForkServer:
    """The process whose children are the runs, seen from the tests.

    Args:
        with_torch: Import PyTorch too, for commands that run models. Each fork of a process that has it takes longer
            than most commands do.

    Attributes:
        imported_torch: Whether the last run imported PyTorch itself.
    """

    def __init__(self, with_torch: bool) -> None:
        self.imported_torch = False
        ours, theirs = socket.socketpair()
        self._connection = ours
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"from support.fork_server import serve; serve({theirs.fileno()}, {with_torch})",
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Whoever interrupts the tests at a terminal interrupts them alone.
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS), os.environ.get("PYTHONPATH", "")]),
                    "OMP_NUM_THREADS": "1",
                    "PYTHONIOENCODING": "utf-8",
                },
            )
        atexit.register(self.close)

    def run(
        self,
        arguments: Sequence[str],
        folder: str,
        stdin: bytes | None = None,
        timeout: float = 120,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """One run in `folder`, in this environment; this process' own when None.

        Raises:
            subprocess.TimeoutExpired: It took longer than `timeout` seconds, and was killed.
        """
        output, errors = os.pipe(), os.pipe()
        handles = [_input(stdin), output[1], errors[1]]
        variables = dict(os.environ if environment is None else environment)
        request = json.dumps({"arguments": list(arguments), "folder": folder, "environment": variables}).encode()
        socket.send_fds(self._connection, [_NUMBER.pack(len(request))], handles)
        self._connection.sendall(request)
        for handle in handles:
            os.close(handle)
        child = self._answer()
        texts = _read_all((output[0], errors[0]), time.monotonic() + timeout)
        if texts is None:
            os.kill(child, signal.SIGKILL)
            self._answer()
            self._answer()
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        code, self.imported_torch = self._answer(), bool(self._answer())
        return subprocess.CompletedProcess(list(arguments), code, *texts)

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._process.wait(30)
        atexit.unregister(self.close)

    def _answer(self) -> int:
        (number,) = _NUMBER.unpack(_read_exactly(self._connection, _NUMBER.size))
        return int(number)


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise RuntimeError("the process that starts the program has ended")
        data += part
    return data


def _input(data: bytes | None) -> int:
    """What the child reads: a pipe that holds `data`, or nothing."""
    if data is None:
        return os.open(os.devnull, os.O_RDONLY)
    reading, writing = os.pipe()

    def write() -> None:
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as pipe:
            pipe.write(data)

    # A pipe holds little; the rest waits in this thread until the child reads on.
    threading.Thread(target=write, daemon=True).start()
    return reading


def _read_all(handles: tuple[int, int], deadline: float) -> tuple[bytes, bytes] | None:
    """What comes from both pipes until they end; None where the deadline, by the monotonic clock, comes first."""
    texts = {handle: bytearray() for handle in handles}
    try:
        with selectors.DefaultSelector() as selector:
            for handle in handles:
                selector.register(handle, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    return None
                for key, _ in ready:
                    part = os.read(key.fd, 1 << 16)
                    texts[key.fd] += part
                    if not part:
                        selector.unregister(key.fd)
    finally:
        for handle in handles:
            os.close(handle)
    return bytes(texts[handles[0]]), bytes(texts[handles[1]])


# ------------------------------------------------------------------------------------- inside that process

COMMANDS = (
    ("shapes", "{file}", "--all"),
    ("weights", "{file}", "conv1"),
    ("check", "{file}", "--values"),
    ("diff", "{file}", "{file}", "--values"),
    ("convert", "{file}", "--to", "linear", "-o", "{folder}/b.pt"),
    ("convert", "{file}", "--to", "linear", "-o", "{folder}/b.safetensors"),
    ("convert", "{file}", "--to", "linear", "--dry-run", "--format", "json"),
    ("verify", "{file}", "{file}", "--bits"),
)
COMMANDS_THAT_RUN = (("verify", "{file}", "{folder}/b.pt"), ("explain", "-o", "{folder}/page.html"))
"""Tried once, so that what they import is there; the latter import PyTorch."""


def serve(handle: int, with_torch: bool) -> None:
    """Answer each request on this socket with the child's process id, then how it ended, and whether it imported
    PyTorch.
    """
    # Shared with the children.
    imported = mmap.mmap(-1, 1)
    connection = socket.socket(fileno=handle)
    leave_unsynced()
    build_every_command()
    if with_torch:
        _import_everything()
        # Half of a run's time is PyTorch's end.
        spare_pytorch()
    else:
        import_without_torch()
        _try_out(COMMANDS)
    gc.freeze()
    while True:
        head, handles, _, _ = socket.recv_fds(connection, _NUMBER.size, 3)
        if not head:
            return
        request = json.loads(_read_exactly(connection, _NUMBER.unpack(head)[0]))
        imported[0] = False
        child = os.fork()
        if not child:
            connection.close()
            if not with_torch:
                sys.meta_path.insert(0, _Noting(imported))
            _run(request, handles)
        for given in handles:
            os.close(given)
        connection.sendall(_NUMBER.pack(child))
        connection.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
        connection.sendall(_NUMBER.pack(imported[0]))


class _Noting(MetaPathFinder):
    """Notes that PyTorch is imported, and leaves it to others."""

    def __init__(self, imported: mmap.mmap) -> None:
        self._imported = imported

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "torch":
            self._imported[0] = True


def _import_everything() -> None:
    import_all_modules()
    # PyTorch itself imports these when a model runs, or a time is taken; together they take a second.
    for name in ("torch._dynamo", "torch.utils.benchmark"):
        importlib.import_module(name)
    _try_out((*COMMANDS, *COMMANDS_THAT_RUN))


def _try_out(lines: Sequence[Sequence[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for line in lines:
            sys.argv[1:] = [word.format(file=FIXTURES / "pointnet_stnkd.pt", folder=folder) for word in line]
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), suppress(SystemExit):
                runpy.run_module("convinspect", run_name="__main__", alter_sys=True)


def _run(request: dict[str, Any], handles: Sequence[int]) -> NoReturn:
    """In the child: be a new process of the program, to its end."""
    from convinspect.writing import child_process

    code = 1
    try:
        for number, handle in enumerate(handles):
            os.dup2(handle, number)
            os.close(handle)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.argv[1:] = request["arguments"]
        # Where modules are looked for first.
        sys.path[0] = request["folder"]
        if VARIABLE in os.environ:
            take_away(pytest.MonkeyPatch())
        else:
            # As in a process that has not imported PyTorch yet. With one thread each a fork does not harm it.
            child_process.can_fork = lambda: True
        code = _exit_code()
        # As Python ends: threads, what was registered, output.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stderr.flush()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        code = 120
    finally:
        os._exit(code)


def _exit_code() -> int:
    """What the program ends with, and what Python prints for it."""
    try:
        runpy.run_module("convinspect", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
