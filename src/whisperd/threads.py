"""Work on the paths that users name, in threads that may never come back.

A folder on a network, a stick or an automounter does not always answer, and nothing can end a
thread that waits for it. So such work has threads of its own, nobody waits for them for long, and
the program ends without them.
"""

from __future__ import annotations

import _thread
import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import anyio
from anyio.lowlevel import RunVar

__all__ = ["ANSWER_TIMEOUT_S", "run_abandonable"]

ANSWER_TIMEOUT_S = 10.0
"""How long a folder may take to answer."""
THREADS_PER_FOLDER: Final = 4
"""A folder that does not answer holds no more than these, and keeps nobody from another folder."""

T = TypeVar("T")
Limiters = WeakValueDictionary[str, anyio.CapacityLimiter]
_limiters: RunVar[Limiters] = RunVar("whisperd.threads")


async def run_abandonable(
    path: str | os.PathLike[str], work: Callable[[], T], timeout_s: float | None = None
) -> T:
    """Do `work`, which looks at `path`, in a thread; `TimeoutError` if its folder does not answer in time,
    which is `ANSWER_TIMEOUT_S` where nothing else is said.

    When the caller is cancelled, the thread is left alone with it: `work` may only look at things.
    """
    limiter = _limiter(os.path.dirname(path))  # noqa: PTH120 - as the user wrote it
    loop, borrower = asyncio.get_running_loop(), object()

    def give_back() -> None:
        with suppress(RuntimeError):  # the program has ended meanwhile
            loop.call_soon_threadsafe(limiter.release_on_behalf_of, borrower)

    with anyio.fail_after(ANSWER_TIMEOUT_S if timeout_s is None else timeout_s):
        # Given back by the thread and not by us: an abandoned thread still counts.
        await limiter.acquire_on_behalf_of(borrower)
        return await asyncio.wrap_future(_start(work, give_back))


def _limiter(folder: str) -> anyio.CapacityLimiter:
    """That of a folder; it lives for as long as somebody uses it."""
    try:
        limiters = _limiters.get()
    except LookupError:
        limiters = WeakValueDictionary()
        _limiters.set(limiters)
    return limiters.setdefault(folder, anyio.CapacityLimiter(THREADS_PER_FOLDER))


def _start(work: Callable[[], T], when_over: Callable[[], None]) -> Future[T]:
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # so that nobody who stops waiting can cancel it

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        finally:
            when_over()

    # Not one that the interpreter waits for when it ends; nor one for whose beginning we wait, as `Thread`
    # does: on a busy computer that takes longer than the event loop may stand still.
    _thread.start_new_thread(run, ())
    return future
