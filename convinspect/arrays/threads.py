"""The same work on many things, on several threads where the system gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_threads(work: Callable[[T], R], things: Iterable[T], workers: int) -> Iterator[R]:
    """`work` of each thing, in order, done ahead of being asked for.

    Args:
        work: Leaves the interpreter free for most of its time, as reading and computing in numpy do. Where a thread
            is refused midway it may be done twice of one thing.
        things: All are taken at once.
        workers: Threads wanted. With one, and where the system starts none, the calling thread works.
    """
    if workers < 2:
        yield from map(work, things)
        return
    every = list(things)
    pool = ThreadPoolExecutor(workers)
    try:
        begun: list[Future[R]] = []
        try:
            begun += (pool.submit(work, thing) for thing in every)
        except RuntimeError:
            # "can't start new thread". What no thread has taken up yet is done here, so that nothing waits for one.
            pool.shutdown(wait=False, cancel_futures=True)
        begun.reverse()
        for thing in every:
            future = begun.pop() if begun else None
            yield work(thing) if future is None or future.cancelled() else future.result()
    finally:
        with suppress(RuntimeError):
            pool.shutdown(wait=True, cancel_futures=True)
