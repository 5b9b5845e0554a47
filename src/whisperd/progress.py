"""Progress of downloads: one type, shared by native bundles, models and everything that displays it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import anyio.from_thread
import msgspec

from whisperd.quantities import size

__all__ = ["Meter", "OnProgress", "Progress", "from_thread", "ignore_progress"]

_RATE_WINDOW_S = 5.0
_REPORT_EVERY_S = 0.1


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How much of `name` has arrived: `done` of `total` bytes, bytes per second, and seconds left."""

    name: str
    file: str | None = None
    done: int = 0
    total: int | None = None
    rate: float | None = None
    eta: float | None = None
    detail: str = "downloading"
    """`waiting` (for another process), `downloading`, `retrying`, `building` (which counts steps, not bytes),
    `installing`, `verifying`, `converting`, `looking for newer versions` or `trying`."""

    def __str__(self) -> str:
        """Return one line for display: `downloading base: 60 MB of 145 MB, 12 MB/s, 7 s left`."""
        much = size(self.done) if self.done else ""
        if self.detail == "building":
            much = self.file or ""
        elif much and self.total:
            much += f" of {size(self.total)}"
        rate = f"{size(self.rate)}/s" if self.rate else ""
        left = f"{self.eta:.0f} s left" if self.eta else ""
        details = ", ".join(filter(None, (much, rate, left)))
        return f"{self.detail} {self.name}" + (f": {details}" if details else "")


OnProgress = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """Do nothing: the default for callers that show no progress."""


def from_thread(on_progress: OnProgress) -> OnProgress:
    """Wrap a callback for use in a thread that anyio started: it is called in the event loop."""
    return lambda progress: anyio.from_thread.run_sync(on_progress, progress)


class Meter:
    """Turns byte counts into `Progress` reports, no more often than is worth showing."""

    def __init__(
        self,
        name: str,
        on_progress: OnProgress,
        *,
        detail: str = "downloading",
        total: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._on_progress = on_progress
        self._detail = detail
        self._total = total
        self._clock = clock
        self._done = 0
        self._marks: deque[tuple[float, int]] = deque()
        self._reported_phase: tuple[str | None, str] | None = None
        self._reported_s = float("-inf")

    def expect(self, total: int) -> None:
        """Set the total number of bytes."""
        self._total = total

    def report(self, done: int, file: str | None = None, detail: str | None = None) -> None:
        """Record that so many bytes have arrived in all, the last of them of this file."""
        self._done = done
        self._detail = detail or self._detail
        now_s, phase = self._clock(), (file, self._detail)
        is_new = phase != self._reported_phase or done == self._total
        if not is_new and now_s - self._reported_s < _REPORT_EVERY_S:
            return
        self._reported_phase, self._reported_s = phase, now_s
        rate, eta = self._measure(now_s)
        self._on_progress(
            Progress(
                name=self._name,
                file=file,
                done=done,
                total=self._total,
                rate=rate,
                eta=eta,
                detail=self._detail,
            )
        )

    def adder(self, file: str) -> Callable[[int], None]:
        """Return a function to call with the number of further bytes of a file that were done."""
        return lambda count: self.report(self._done + count, file)

    def _measure(self, now_s: float) -> tuple[float | None, float | None]:
        """Return bytes per second over the last few seconds, and seconds left; None while unknown."""
        self._marks.append((now_s, self._done))
        while len(self._marks) > 2 and now_s - self._marks[0][0] > _RATE_WINDOW_S:
            self._marks.popleft()
        elapsed_s = now_s - self._marks[0][0]
        if elapsed_s <= 0:
            return None, None
        rate = (self._done - self._marks[0][1]) / elapsed_s
        eta = (self._total - self._done) / rate if self._total is not None and rate > 0 else None
        return rate, eta
