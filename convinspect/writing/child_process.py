"""Work in a forked child process.

If a mapped file is truncated while it is read, the system ends the process with a signal (SIGBUS) instead of an
exception. In a child, that leaves the parent free to clean up and report what happened. A child also has an interpreter
lock of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import convinspect.errors
from convinspect.errors import BrokenFile, ConvInspectError, Option, Wording


def run_in_child(work: Callable[[], Any], source: Path) -> Any:
    """Run `work` in a forked child; in this process if torch or threads are loaded already, the system refuses a child,
    or not on Linux.

    PyTorch's threads do not survive a fork. If this process is killed, the child ends too.

    Args:
        work: Returns a value that JSON can represent.
        source: The file to name if the child is killed.

    Raises:
        BrokenFile: The child was killed by SIGBUS while it read the file.
        MemoryError: The child was killed by SIGKILL, as the system does when memory runs out.
        Exception: As raised by `work`. Exceptions other than ConvInspectError, OSError, ModuleNotFoundError and
            MemoryError become a RuntimeError with the traceback.
    """
    if not can_fork():
        return work()
    with ExitStack() as stack:
        try:
            child = stack.enter_context(forked(lambda pipe: pipe.write(json.dumps(_packed(work)).encode())))
        except OSError:
            return work()
        answer = child.answer.read()
    if child.status:
        raise _ended(child.status, source)
    try:
        unpacked = json.loads(answer)
    except ValueError:
        raise _ended(child.status, source) from None
    return _unpacked(unpacked)


@dataclass(slots=True)
class Child:
    """A child process.

    Attributes:
        answer: What it writes.
        status: Its exit code once it has ended; of a signal the negative number. None where the system keeps none, as
            for a process that ignores SIGCHLD.
    """

    answer: BinaryIO
    status: int | None = None


@contextmanager
def forked(serve: Callable[[BinaryIO], object]) -> Iterator[Child]:
    """Fork a child that does `serve`, and wait for its end; only where `can_fork`.

    If this process is killed, the child ends too. Whatever leaves the context early, an error or an interrupt, ends it.

    Args:
        serve: Writes what the parent is to read.

    Raises:
        OSError: The system refuses a process, or pipes.
    """
    answer_read, answer_write, alive, parent = ends = _two_pipes()
    signals = _Signals()
    try:
        number = _fork()
    except BaseException:
        for end in ends:
            os.close(end)
        signals.release()
        raise
    if not number:
        os.close(answer_read)
        os.close(parent)
        _serve(serve, answer_write, alive, signals)
    # Each is closed once: threads that open files may be given its number.
    os.close(answer_write)
    os.close(alive)
    child = Child(os.fdopen(answer_read, "rb"))
    try:
        with child.answer:
            signals.release()
            yield child
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
        raise
    finally:
        # Where the system keeps no status, this waits none the less.
        with suppress(ChildProcessError):
            child.status = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        os.close(parent)


def can_fork() -> bool:
    """Whether a fork harms nothing that is known here: on Linux, before PyTorch or threads of Python are there, which
    do not survive it.
    """
    return (
        sys.platform == "linux" and hasattr(os, "fork") and "torch" not in sys.modules and threading.active_count() == 1
    )


def _two_pipes() -> tuple[int, int, int, int]:
    first = os.pipe()
    try:
        return *first, *os.pipe()
    except OSError:
        for end in first:
            os.close(end)
        raise


def _fork() -> int:
    with warnings.catch_warnings():
        # Python counts threads of libraries too, such as NumPy's, which are prepared for it.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


class _Signals:
    """Signals that would raise an exception in the midst of a fork, where Python swallows it; they wait.

    Locks that Python takes for the fork would stay taken, and a child would run its parent's code.
    """

    def __init__(self) -> None:
        self.came: list[int] = []
        self.handlers: dict[int, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            # Handlers run in the main thread alone.
            return
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name)
            if callable(handler := signal.getsignal(number)):
                self.handlers[number] = handler
                signal.signal(number, self._note)

    def _note(self, number: int, _: object) -> None:
        self.came.append(number)

    def release(self) -> None:
        """In the parent: handle them as before, also those that came meanwhile."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        for number in self.came:
            signal.raise_signal(number)

    def let_go(self) -> None:
        """In the child: its parent ends it when interrupted; other signals end it as they do any process."""
        for number in self.handlers:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)


def _serve(serve: Callable[[BinaryIO], object], answer: int, alive: int, signals: _Signals) -> NoReturn:
    """In the child: do the work, and exit without cleanup handlers; nothing is printed."""
    status = 1
    try:
        signals.let_go()
        # Nothing is written into this pipe: the read returns when the parent ends.
        threading.Thread(target=lambda: os.read(alive, 1) or os._exit(1), daemon=True).start()
        with os.fdopen(answer, "wb") as pipe:
            serve(pipe)
        status = 0
    finally:
        os._exit(status)


def _packed(work: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"done": work()}
    except ConvInspectError as error:
        path = None if error.path is None else os.fsdecode(error.path)
        return {"error": [type(error).__name__, _parts(error.problem), _parts(error.remedy), path]}
    except ModuleNotFoundError as error:
        return {"missing": [str(error), error.name]}
    except OSError as error:
        return {"system": [error.errno, error.strerror or str(error)]}
    except MemoryError:
        return {"memory": True}
    except Exception:
        return {"bug": traceback.format_exc()}


def _unpacked(answer: dict[str, Any]) -> Any:
    if "error" in answer:
        raise _error(*answer["error"])
    if "missing" in answer:
        message, name = answer["missing"]
        raise ModuleNotFoundError(message, name=name)
    if "system" in answer:
        raise OSError(*answer["system"])
    if "memory" in answer:
        raise MemoryError
    if "bug" in answer:
        raise RuntimeError(answer["bug"])
    return answer["done"]


def _parts(text: str) -> str | list[str | Option]:
    """Encode a text or `Wording` as JSON; each option becomes a list of name and value."""
    return list(text.parts) if isinstance(text, Wording) else text


def _text(parts: str | list[Any]) -> str:
    if isinstance(parts, str):
        return parts
    return Wording(*(part if isinstance(part, str) else Option(*part) for part in parts))


def _error(kind: str, problem: str | list[Any], remedy: str | list[Any], path: str | None) -> ConvInspectError:
    cls: type[ConvInspectError] = getattr(convinspect.errors, kind)
    error = cls.__new__(cls)
    # Subclasses may take other arguments than the text, so their own __init__ is not called.
    ConvInspectError.__init__(error, _text(problem), _text(remedy), None if path is None else Path(path))
    return error


def _ended(status: int | None, source: Path) -> Exception:
    """The error for a child that sent no answer. The system kills a process that takes too much memory (SIGKILL)."""
    if status == -signal.SIGKILL:
        return MemoryError()
    if status == -signal.SIGBUS:
        return BrokenFile("its bytes went away while it was read", "see whether it is being written to", source)
    return RuntimeError(f"the child process ended with {'no answer' if status is None else status}")
