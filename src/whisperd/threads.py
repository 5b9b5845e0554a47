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
_folders: RunVar[WeakValueDictionary[str, Folder]] = RunVar("whisperd.threads")


class Folder:
    """Whose turn it is to look at something in a folder."""

    def __init__(self) -> None:
        self.turns = anyio.CapacityLimiter(THREADS_PER_FOLDER)
        self.answers = 0

    async def take_turn(self, borrower: object, timeout_s: float) -> None:
        """Wait for it, for as long as others are answered. Raises `TimeoutError` once nobody is."""
        while True:
            answers = self.answers
            with anyio.move_on_after(timeout_s):
                return await self.turns.acquire_on_behalf_of(borrower)
            if self.answers == answers:
                raise TimeoutError

    def end_turn(self, borrower: object) -> None:
        """Somebody was answered."""
        self.answers += 1
        self.turns.release_on_behalf_of(borrower)


async def run_abandonable(
    path: str | os.PathLike[str], work: Callable[[], T], timeout_s: float | None = None
) -> T:
    """Do `work`, which looks at `path`, in a thread; `TimeoutError` if its folder does not answer in time,
    which is `ANSWER_TIMEOUT_S` where nothing else is said. Waiting for one's turn in a folder that answers
    others is no part of that: it may hold thousands of files.

    When the caller is cancelled, the thread is left alone with it: `work` may only look at things.
    """
    folder = _folder(os.path.dirname(path))  # noqa: PTH120 - as the user wrote it
    loop, borrower = asyncio.get_running_loop(), object()

    def end_turn() -> None:
        with suppress(RuntimeError):  # the program has ended meanwhile
            loop.call_soon_threadsafe(folder.end_turn, borrower)

    limit_s = ANSWER_TIMEOUT_S if timeout_s is None else timeout_s
    await folder.take_turn(borrower, limit_s)
    with anyio.fail_after(limit_s):
        # The turn is ended by the thread and not by us: an abandoned thread still counts.
        return await asyncio.wrap_future(_start(work, end_turn))


def _folder(path: str) -> Folder:
    """That of a path; it lives for as long as somebody uses it."""
    try:
        folders = _folders.get()
    except LookupError:
        folders = WeakValueDictionary()
        _folders.set(folders)
    return folders.setdefault(path, Folder())


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
