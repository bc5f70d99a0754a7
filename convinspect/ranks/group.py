"""What the ranks of one command tell each other, over PyTorch's gloo.

A thread meets the other ranks' threads some times a second. So a rank that fails is known to all before they are done
with their own work, and one that has died is noticed by its closed connections, or, where a machine was lost, after
`PATIENCE`.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from convinspect.errors import ConvInspectError, Option
from convinspect.ranks.place import Place

PATIENCE = timedelta(minutes=2)
"""How long a rank waits for another that does not answer, also while it still imports PyTorch."""
_SLOWEST = 0.1
"""Seconds between two meetings of the threads, at most."""


class Failure(NamedTuple):
    """Why the work was given up.

    Attributes:
        rank: Who failed; None where a rank has died, which can only be seen from outside.
        where: That rank, in words.
        line: What is wrong and what to do; "" where it was stopped by a signal.
    """

    rank: int | None
    where: str
    line: str


class OtherRankFailed(ConvInspectError):
    """Another rank has failed, or died, so that this one gives its work up."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.where}: {failure.line}" if failure.where else failure.line)

    def at(self, path: Path) -> ConvInspectError:
        """Itself: the other rank's line names the file that it is about."""
        return self

    def line(self, spell: Callable[[Option], str]) -> str:
        """The other rank's line, which is spelled already."""
        return self.problem


class Group:
    """The ranks of one command. Every rank makes the same calls of `exchange` in the same order.

    Args:
        place: Which rank this is.
        said: A failure as a line; "" for a signal.
    """

    def __init__(self, place: Place, said: Callable[[BaseException], str]) -> None:
        self.rank, self.size = place.rank, place.size
        self.failure: Failure | None = None
        """The first failure of any rank, once it is known here."""
        self.speaks = place.rank == 0
        """Whether this rank says what has failed: rank 0, or another where a rank has died."""
        self.connected = False
        """Whether the ranks can tell each other anything yet; before that nothing is written."""
        self._place = place
        self._said = said
        self._changed = threading.Condition()
        self._own: Failure | None = None
        self._value: tuple[Any] | None = None
        self._answers: list[Any] | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._meet, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Called now and then during long work.

        Raises:
            OtherRankFailed: A rank has failed, so that the work is in vain.
        """
        if self.failure is not None:
            raise OtherRankFailed(self.failure)

    def exchange(self, value: Any, last: bool = False) -> list[Any]:
        """Wait for every rank, and return what each has given, by rank.

        Args:
            value: What this rank gives; of plain types, or of the package's own.
            last: Nothing comes after it.

        Raises:
            OtherRankFailed: A rank has failed, or died.
        """
        with self._changed:
            self._ended = last
            self._value = (value,)
            self._changed.notify_all()
            # In slices, so that a signal is heard.
            while self._answers is None and self.failure is None:
                self._changed.wait(0.1)
            answers, self._answers = self._answers, None
        if answers is None:
            self.check()
        assert answers is not None
        return answers

    def fail(self, error: BaseException, seconds: float | None = None) -> Failure | None:
        """Tell all ranks that this one has failed, and return the first failure of any.

        Args:
            error: Why. An `OtherRankFailed` tells nothing new.
            seconds: How long to wait until all know, not at all where the ranks are not connected yet; by default until
                they do, or are known to have died.
        """
        if not self.connected and seconds is not None:
            return None
        if self.failure is None:
            line = "" if isinstance(error, OtherRankFailed) else self._said(error)
            with self._changed:
                self._own = self._own or Failure(self.rank, self._where(), line)
                self._changed.notify_all()
        self._thread.join(seconds)
        _end_undisturbed()
        return self.failure

    def finish(self) -> None:
        """Wait for every rank, once the work of all is done; that another rank fails from now on changes nothing."""
        with suppress(OtherRankFailed):
            self.exchange(None, last=True)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether its thread still runs; a process that ends meanwhile must not wait for it."""
        return self._thread.is_alive()

    def _where(self) -> str:
        machine = f" on {socket.gethostname()}" if self._place.machine else ""
        return f"rank {self.rank} of {self.size}{machine}"

    def _meet(self) -> None:
        """The thread: tell the others how it stands here, until the work is done or has failed."""
        store = None
        try:
            # That a rank has gone is said here, in a line.
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
            import torch.distributed as dist
            from torch.distributed.distributed_c10d import PrefixStore
            from torch.distributed.rendezvous import rendezvous

            store, *_ = next(rendezvous("env://", timeout=PATIENCE))
            # Apart from what another program, started with the same variables, may keep there.
            store = PrefixStore("convinspect", store)
            dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE)
            self.connected = True
            pause = 0.005
            while self._meet_once(dist, pause):
                pause = min(_SLOWEST, pause * 1.2)
        except Exception:
            # Of gloo, of the store, or of another version of PyTorch; whichever it is, the others are out of reach.
            self._lose(store)

    def _meet_once(self, dist: Any, pause: float) -> bool:
        """One meeting of all threads. Returns whether another follows."""
        with self._changed:
            self._changed.wait_for(lambda: self._value is not None or self._own is not None, pause)
            own, value = self._own, self._value
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, (None if own is None else tuple(own), value is not None))
        failures = [Failure(*failure) for failure, _ in told if failure is not None]
        if failures:
            # What was stopped by a signal may have been so because of another's failure.
            failure = next((failure for failure in failures if failure.line), failures[0])
            with self._changed:
                self.failure = failure
                self._changed.notify_all()
            return False
        if not all(ready for _, ready in told):
            return True
        assert value is not None
        answers: list[Any] = [None] * self.size
        dist.all_gather_object(answers, value[0])
        with self._changed:
            self._answers, self._value = answers, None
            self._changed.notify_all()
        return not self._ended

    def _lose(self, store: Any) -> None:
        """A rank has died. Of those that notice, one says so."""
        try:
            speaks = store is None or store.add("noticed", 1) == 1
        except Exception:
            # The machine that keeps the store is gone.
            speaks = True
        line = "a rank has ended before the others, which gave up their work; torchrun says which, and by what"
        with self._changed:
            self.speaks = speaks
            self.failure = Failure(None, "", line)
            self._changed.notify_all()


def _end_undisturbed() -> None:
    """Ignore signals to end, since this process does end: torchrun sends one as soon as another rank has ended, when
    what was written is still to be removed.
    """
    for name in ("SIGTERM", "SIGHUP"):
        with suppress(AttributeError, ValueError):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
