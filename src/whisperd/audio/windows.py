"""Plans where to cut speech into windows. Pure: spans in, windows out; no clock, no audio.

A window is what the model processes at once, so a cut in mid-sentence costs words on both sides. The plan
considers a whole stretch of speech: of all ways to cut it into windows that are short enough, dynamic
programming finds the cheapest. A cut costs more the shorter its pause is, and a window costs a little, a very
short one more. If speech continues through a cut, the earlier window also includes what follows it, and the
overlap is reconciled later. The later window begins at the cut, its quietest place: a model that first gets
the end of a sentence skips it, and often the next one too. Windows that later speech cannot change are
released at once. All positions are samples at 16 kHz.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from whisperd.audio.messages import SAMPLE_RATE
from whisperd.audio.speech import Span

__all__ = ["PAD", "REACH", "Window", "WindowPlanner", "cut_cost", "window_cost"]

PAD: Final = SAMPLE_RATE // 5
"""Samples kept around the speech of a window, unless they belong to a neighbour."""
REACH: Final = 2 * SAMPLE_RATE
"""How far a window extends beyond a cut through speech, where the next begins; at most 1/8 of the limit."""
STRETCH_PAUSE: Final = 3 * SAMPLE_RATE
"""A pause of at least this length is always cut."""
LOOKAHEAD: Final = 60 * SAMPLE_RATE
"""A decision waits for at most this much further speech."""
SHORT_WINDOW_S: Final = 6.0
"""A shorter window gives the model too little context."""
SHORT_WINDOW_COST: Final = 2.0
"""Extra cost of a window of zero length."""


@dataclass(frozen=True, slots=True)
class Window:
    """A slice `[start, end)` of the audio."""

    start: int
    end: int
    shared: int = 0
    """Samples at its end that the next window also includes, because that one begins before this one ends."""


def cut_cost(pause: int) -> float:
    """Return the cost of a cut in a pause of this many samples: for one second, about that of a window."""
    return 1.0 / (pause / SAMPLE_RATE + 0.05) ** 2


def window_cost(length: int) -> float:
    """Return the cost of a window of this many samples."""
    return 1.0 + SHORT_WINDOW_COST * max(0.0, 1.0 - length / SAMPLE_RATE / SHORT_WINDOW_S)


class WindowPlanner:
    """Takes the spans of one recording in order, and releases its windows in order."""

    def __init__(self, max_window_s: float) -> None:
        self._limit = int(max_window_s * SAMPLE_RATE)
        self._reach = int(min(REACH, max_window_s * SAMPLE_RATE / 8))
        self._floor = 0  # no window may begin earlier: the middle of the pause of the last cut
        self._settled = 0
        self._start_stretch()

    @property
    def keep_from(self) -> int:
        """Lower bound, in samples, for the beginning of future windows."""
        start = self._spans[0].start if self._spans else self._settled
        return max(start - PAD, self._floor)

    def add(self, span: Span) -> Iterator[Window]:
        """Add the next span of speech."""
        if self._spans and span.pause >= STRETCH_PAUSE:
            yield from self._hand_out(len(self._spans), _middle(self._spans[-1].end, span.start))
        for piece in _pieces(span, self._limit - PAD - max(PAD, self._reach)):
            self._extend(piece)
            yield from self._decided()

    def advance(self, settled: int) -> Iterator[Window]:
        """Note that no future span begins before `settled`; a long enough silence ends a stretch."""
        self._settled = max(self._settled, settled)
        if self._spans and settled - self._spans[-1].end >= STRETCH_PAUSE:
            yield from self._hand_out(len(self._spans), _middle(self._spans[-1].end, settled))

    def finish(self, total: int) -> Iterator[Window]:
        """End the audio after `total` samples."""
        if self._spans:
            yield from self._hand_out(len(self._spans), total)

    # A plan is a path over boundaries: boundary k lies before span k. `_cost[k]` is the cost of the best plan
    # up to there, `_from[k]` the boundary at which the last window of that plan begins.

    def _start_stretch(self) -> None:
        self._spans: list[Span] = []
        self._cost: list[float] = [0.0]
        self._from: list[int] = [0]

    def _extend(self, span: Span) -> None:
        self._spans.append(span)
        best_cost, best_from = math.inf, 0
        for begin in self._open_boundaries(span.end + self._reach_behind(span)):
            first = self._spans[begin]
            cost = self._cost[begin] + window_cost(span.end - first.start)
            if begin > 0:
                cost += cut_cost(first.pause)
            if cost < best_cost:
                best_cost, best_from = cost, begin
        self._cost.append(best_cost)
        self._from.append(best_from)

    def _open_boundaries(self, end: int) -> Iterator[int]:
        """Yield the boundaries where a window that ends at `end` may begin, the latest first."""
        for boundary in range(len(self._spans) - 1, -1, -1):
            start = self._spans[boundary].start
            if end - start > self._limit:
                return
            if end - start + PAD <= self._limit:
                yield boundary

    def _reach_behind(self, span: Span) -> int:
        """Return how much audio a window includes after a span."""
        return self._reach if span.goes_on else PAD

    def _decided(self) -> Iterator[Window]:
        """Release windows that later speech cannot change, and those that cannot wait any longer."""
        while (boundary := self._common_boundary()) > 0:
            yield from self._hand_out(boundary)
        while self._spans[-1].end - self._spans[0].start > LOOKAHEAD:
            yield from self._hand_out(self._path(len(self._spans))[0])

    def _common_boundary(self) -> int:
        """Return the last boundary that is on every plan that can still become the best."""
        alive = {
            len(self._spans),
            *self._open_boundaries(self._spans[-1].end + 1 + min(PAD, self._reach)),
        }
        while len(alive) > 1:
            latest = max(alive)
            alive.remove(latest)
            alive.add(self._from[latest])
        boundary = alive.pop()
        # The last window waits for the next span, which limits its padding.
        return boundary if boundary < len(self._spans) else self._from[boundary]

    def _path(self, boundary: int) -> list[int]:
        """Return the ends of the windows of the best plan up to `boundary`."""
        path = []
        while boundary > 0:
            path.append(boundary)
            boundary = self._from[boundary]
        return path[::-1]

    def _hand_out(self, boundary: int, until: int | None = None) -> Iterator[Window]:
        """Release the best plan up to `boundary`, and plan again from there.

        `until` is the latest end of the last window if no span follows it yet.
        """
        begin = 0
        for end in self._path(boundary):
            following = self._spans[end] if end < len(self._spans) else None
            speech_end = self._spans[end - 1].end
            last = until if following is None else _middle(speech_end, following.start)
            assert last is not None
            start = max(self._spans[begin].start - PAD, self._floor)
            if following is not None and self._spans[end - 1].goes_on:
                shared = min(self._reach, following.end - last)
                yield Window(start, last + shared, shared)
            else:
                yield Window(start, min(speech_end + PAD, last))
            self._floor = last
            begin = end
        rest = self._spans[boundary:]
        self._start_stretch()
        for span in rest:
            self._extend(span)


def _middle(start: int, end: int) -> int:
    return start + (end - start) // 2


def _pieces(span: Span, limit: int) -> Iterator[Span]:
    """Yield the span, or equal parts of it if it is too long for one window."""
    count = max(1, math.ceil((span.end - span.start) / limit))
    edges = [span.start + (span.end - span.start) * part // count for part in range(count + 1)]
    for part in range(count):
        goes_on = span.goes_on or part < count - 1
        yield Span(edges[part], edges[part + 1], 0 if part else span.pause, goes_on)
