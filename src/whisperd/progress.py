"""How far a download is: one value for natives, models and everybody who shows it."""

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
    """How much of `name` has come: bytes, bytes per second, and seconds that are left."""

    name: str
    file: str | None = None
    done: int = 0
    total: int | None = None
    rate: float | None = None
    eta: float | None = None
    detail: str = "downloading"
    """`waiting` (for another process), `downloading`, `retrying`, `building` (where steps are counted, not
    bytes), `installing`, `verifying`, `converting`, `looking for newer versions` or `trying`."""

    def __str__(self) -> str:
        """One line for a person: `downloading base: 60 MB of 145 MB, 12 MB/s, 7 s left`."""
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
    """For who does not want to know."""


def from_thread(on_progress: OnProgress) -> OnProgress:
    """The same, to be called in a thread that anyio started: listeners are told in the event loop."""
    return lambda progress: anyio.from_thread.run_sync(on_progress, progress)


class Meter:
    """Turns counts of bytes into `Progress`, not more often than anybody can look."""

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
        self._told_phase: tuple[str | None, str] | None = None
        self._told_s = float("-inf")

    def expect(self, total: int) -> None:
        """So many bytes will come."""
        self._total = total

    def report(self, done: int, file: str | None = None, detail: str | None = None) -> None:
        """So many bytes have come in all, the last of them of this file."""
        self._done = done
        self._detail = detail or self._detail
        now_s, phase = self._clock(), (file, self._detail)
        is_new = phase != self._told_phase or done == self._total
        if not is_new and now_s - self._told_s < _REPORT_EVERY_S:
            return
        self._told_phase, self._told_s = phase, now_s
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
        """A function that is told how many bytes more of a file were done."""
        return lambda count: self.report(self._done + count, file)

    def _measure(self, now_s: float) -> tuple[float | None, float | None]:
        """Bytes per second and seconds left, over the last few seconds; None while too little is known."""
        self._marks.append((now_s, self._done))
        while len(self._marks) > 2 and now_s - self._marks[0][0] > _RATE_WINDOW_S:
            self._marks.popleft()
        elapsed_s = now_s - self._marks[0][0]
        if elapsed_s <= 0:
            return None, None
        rate = (self._done - self._marks[0][1]) / elapsed_s
        eta = (self._total - self._done) / rate if self._total is not None and rate > 0 else None
        return rate, eta
