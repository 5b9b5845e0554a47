"""Runs work on user-supplied paths in threads that may block forever.

A folder on a network, a removable disk or an automounter does not always answer, and nothing can end a thread
that waits for it. So such work has its own threads, callers wait for them only so long, and the program exits
without them.
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

from whisperd.rpc.errors import thread_not_started

__all__ = ["ANSWER_TIMEOUT_S", "run_abandonable"]

ANSWER_TIMEOUT_S = 10.0
"""How long a folder may take to answer."""
THREADS_PER_FOLDER: Final = 4
"""A folder that does not respond blocks no more threads than these, and does not delay other folders."""

T = TypeVar("T")
_folders: RunVar[WeakValueDictionary[str, Folder]] = RunVar("whisperd.threads")


class Folder:
    """Limits how many threads work in a folder at the same time."""

    def __init__(self) -> None:
        self.turns = anyio.CapacityLimiter(THREADS_PER_FOLDER)
        self.answers = 0

    async def take_turn(self, borrower: object, timeout_s: float) -> None:
        """Wait for a turn while others get answers. Raises `TimeoutError` if none did in `timeout_s`."""
        while True:
            answers = self.answers
            with anyio.move_on_after(timeout_s):
                return await self.turns.acquire_on_behalf_of(borrower)
            if self.answers == answers:
                raise TimeoutError

    def end_turn(self, borrower: object) -> None:
        """Release a turn, and record that the folder answered."""
        self.answers += 1
        self.turns.release_on_behalf_of(borrower)


async def run_abandonable(
    path: str | os.PathLike[str], work: Callable[[], T], timeout_s: float | None = None
) -> T:
    """Run `work`, which reads `path`, in a thread. Raises `thread.not_started`, and `TimeoutError` if its
    folder does not respond in time (`ANSWER_TIMEOUT_S` by default). Waiting for a turn in a folder that
    answers others does not count: it may contain thousands of files.

    If the caller is cancelled, the thread runs on: `work` must only read.
    """
    folder = _folder(os.path.dirname(path))  # noqa: PTH120 - as the user wrote it
    loop, borrower = asyncio.get_running_loop(), object()

    def end_turn() -> None:
        with suppress(RuntimeError):  # the event loop was closed meanwhile
            loop.call_soon_threadsafe(folder.end_turn, borrower)

    limit_s = ANSWER_TIMEOUT_S if timeout_s is None else timeout_s
    await folder.take_turn(borrower, limit_s)
    try:
        future = _start(work, end_turn)
    except RuntimeError as error:
        folder.end_turn(borrower)
        raise thread_not_started() from error
    with anyio.fail_after(limit_s):
        # The thread ends the turn, not this task: an abandoned thread still counts.
        return await asyncio.wrap_future(future)


def _folder(path: str) -> Folder:
    """Return the `Folder` of a path; it lives only while it is used."""
    try:
        folders = _folders.get()
    except LookupError:
        folders = WeakValueDictionary()
        _folders.set(folders)
    return folders.setdefault(path, Folder())


def _start(work: Callable[[], T], when_over: Callable[[], None]) -> Future[T]:
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # so that a caller who stops waiting cannot cancel it

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        finally:
            when_over()

    # Not a `threading.Thread`: the interpreter would wait for it at exit, and starting it waits until it
    # runs, which on a busy computer takes longer than the event loop may block.
    _thread.start_new_thread(run, ())
    return future
