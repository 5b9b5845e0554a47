"""Receives the signals with which a user or service manager stops the daemon or reloads its settings."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio

if sys.platform == "win32":
    from types import FrameType

__all__ = ["HANG_UP", "ignore_hang_up", "receive_signals"]

HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""Reloads the settings; Windows has no such signal."""


def ignore_hang_up() -> None:
    """Ignore this signal, which would end the process: another daemon may send it (`alert_once`) while this
    one starts or cleans up.
    """
    if HANG_UP is not None:
        signal.signal(HANG_UP, signal.SIG_IGN)


@contextmanager
def receive_signals() -> Iterator[AsyncIterator[signal.Signals]]:
    """Yield the signals that arrive during the block, one after the other."""
    if sys.platform == "win32":
        with _receive_windows_signals() as received:
            yield received
    else:
        try:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
                yield received
        finally:
            ignore_hang_up()


if sys.platform == "win32":

    @contextmanager
    def _receive_windows_signals() -> Iterator[AsyncIterator[signal.Signals]]:
        # Event loops do not support signals there; Python's own handlers run in the thread of the loop.
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
