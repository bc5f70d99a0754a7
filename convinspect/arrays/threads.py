"""`map` on several threads, where the system starts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_threads(work: Callable[[T], R], things: Iterable[T], workers: int) -> Iterator[R]:
    """Apply `work` to each of `things`, ahead of the consumer; results come in order.

    Args:
        work: Should release the interpreter lock for most of its time, as reading and numpy do. Where the system
            refuses a thread midway, it may run twice for the same thing.
        things: Consumed at once, before the first result.
        workers: Threads to use. With one, or where the system starts none, the calling thread does the work.
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
            # "can't start new thread". What no thread has begun runs in the calling thread, so that nothing waits.
            pool.shutdown(wait=False, cancel_futures=True)
        begun.reverse()
        for thing in every:
            future = begun.pop() if begun else None
            yield work(thing) if future is None or future.cancelled() else future.result()
    finally:
        with suppress(RuntimeError):
            pool.shutdown(wait=True, cancel_futures=True)


def in_turns(things: Iterable[T], size: Callable[[T], int], least: int) -> Iterator[list[T]]:
    """The things in order, some at a time: as many as together have `least` of size."""
    turn: list[T] = []
    taken = 0
    for thing in things:
        turn.append(thing)
        taken += size(thing)
        if taken >= least:
            yield turn
            turn, taken = [], 0
    if turn:
        yield turn
