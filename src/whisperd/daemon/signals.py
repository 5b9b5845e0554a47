"""The signals with which a person or a service manager ends the daemon, or has it read its settings."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio

if sys.platform == "win32":
    from types import FrameType

__all__ = ["HANG_UP", "receive_signals"]

HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""Reads the settings again; Windows has no such signal."""


@contextmanager
def receive_signals() -> Iterator[AsyncIterator[signal.Signals]]:
    """Take the signals, during the block, one after the other as they come."""
    if sys.platform == "win32":
        with _receive_windows_signals() as received:
            yield received
    else:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            yield received


if sys.platform == "win32":

    @contextmanager
    def _receive_windows_signals() -> Iterator[AsyncIterator[signal.Signals]]:
        # Event loops know no signals there; Python's own handlers run in the thread of the loop.
        send, receive = anyio.create_memory_object_stream[signal.Signals](16)

        def note(number: int, _frame: FrameType | None) -> None:
            send.send_nowait(signal.Signals(number))

        wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGBREAK)
        before = {number: signal.signal(number, note) for number in wanted}
        try:
            with send, receive:
                yield receive
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
