"""Turns speech probabilities into spans of speech. Pure: numbers in, spans out, frame by frame.

A network at its start, or after some silence, reacts late: it misses a word at the very beginning of a
recording. So sound that leads directly into speech counts as part of it (measured, docs/benchmarks.md).

All positions are samples at 16 kHz from the beginning of the audio.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from whisperd.audio.messages import SAMPLE_RATE

__all__ = ["FRAME_SAMPLES", "LEAD_SAMPLES", "EverythingSpoken", "Span", "SpeechDetector"]

FRAME_SAMPLES = 512
"""Samples per probability: 32 ms."""
SPLIT_SAMPLES: Final = 5 * SAMPLE_RATE
"""Speech without a pause is split at a quiet place about this often."""

THRESHOLD: Final = 0.5
"""Speech begins at this probability …"""
_RELEASE: Final = 0.35
"""… and continues down to this one."""
_MIN_SPEECH: Final = SAMPLE_RATE * 64 // 1000
"""Shorter sounds are clicks."""
_MIN_SILENCE: Final = SAMPLE_RATE // 10
"""Shorter silences belong to the speech around them."""

_LEAD_FRAMES: Final = 32
LEAD_SAMPLES: Final = _LEAD_FRAMES * FRAME_SAMPLES
"""Longest sound before the first frame of speech that counts as part of it."""
_LEAD_LEVEL: Final = 0.3
"""Minimum loudness of that sound, relative to that frame."""
_LEAD_GAP_FRAMES: Final = 5
"""Quieter frames allowed in it in a row: a consonant that closes the mouth."""
_LEAD_PAUSE: Final = SAMPLE_RATE
"""After a shorter pause, the network does not react late."""
_LEVELS: Final = struct.Struct(f"<{_LEAD_FRAMES}f")


@dataclass(frozen=True, slots=True)
class Span:
    """An uninterrupted stretch `[start, end)` that may be speech."""

    start: int
    end: int
    pause: int
    """Samples without speech before it: the more, the better a place to cut. 0 if a long span was split
    there. Up to half of them belong to this span, if their sound leads into it."""
    goes_on: bool = False
    """Whether speech continues right behind it: a long span was split, and the next one is the rest."""


class SpeechDetector:
    """Finds spans, with hysteresis. Splits those that never pause, so that nothing waits for their end."""

    def __init__(self) -> None:
        self._position = 0
        self._start: int | None = None  # of the open span
        self._heard = 0  # where the network first detected it
        self._pause = 0  # before the open span
        self._joined = False  # to the previous span, which was split off
        self._silence: int | None = None  # where the quiet at the end of the open span began
        self._last_end = 0
        self._levels: list[float] = []  # loudness of each frame of the open span
        self._before = deque([0.0] * _LEAD_FRAMES, _LEAD_FRAMES)  # and of the last frames overall

    @property
    def position(self) -> int:
        """Number of samples searched for speech so far."""
        return self._position

    @property
    def settled(self) -> int:
        """Lower bound, in samples, for the beginning of future spans."""
        if self._start is None:
            return max(self._last_end, self._position - LEAD_SAMPLES)
        return self._start

    @property
    def is_quiet(self) -> bool:
        """Whether no one is speaking. Then `position`, the last end of speech and `memory` are the state."""
        return self._start is None

    @property
    def pause(self) -> int:
        """Samples without speech before what is being spoken."""
        return self._pause

    @property
    def memory(self) -> bytes:
        """The last loudness values, valid while no one is speaking; packed without loss as 32-bit floats."""
        return _LEVELS.pack(*self._before)

    def resume(self, position: int, speech_end: int, memory: bytes) -> None:
        """Restore the state at a quiet position, where speech last ended at `speech_end`."""
        self._position, self._last_end = position, speech_end
        self._before.extend(_LEVELS.unpack(memory))

    def feed(self, probability: float, level: float) -> Iterator[Span]:
        """Take the next frame: its speech probability and its loudness (on any scale)."""
        position = self._position
        self._position += FRAME_SAMPLES
        if self._start is None and probability >= THRESHOLD:
            self._heard, self._pause = position, position - self._last_end
            self._joined, self._levels = False, self._lead(level)
            self._start = position - len(self._levels) * FRAME_SAMPLES
        self._before.append(level)
        if self._start is None:
            return
        self._levels.append(level)
        if probability >= THRESHOLD:
            self._silence = None
        elif probability < _RELEASE and self._silence is None:
            self._silence = position
        if self._silence is not None and self._position - self._silence >= _MIN_SILENCE:
            yield from self._close(self._silence)
        elif self._silence is None and self._position - self._start >= SPLIT_SAMPLES:
            yield self._split_off()

    def finish(self, total: int) -> Iterator[Span]:
        """End the audio after `total` samples."""
        if self._start is not None:
            yield from self._close(total if self._silence is None else min(self._silence, total))

    def _lead(self, level: float) -> list[float]:
        """Return the levels of the frames before a speech frame of this level that count as part of it."""
        if self._last_end == 0:
            room = self._heard
        elif self._pause >= _LEAD_PAUSE:  # half of it remains, for the cut
            room = self._pause // 2
        else:
            room = 0
        length = 0
        for place, before in enumerate(reversed(self._before), 1):
            if place * FRAME_SAMPLES > room or place - length > _LEAD_GAP_FRAMES + 1:
                break
            if before > level * _LEAD_LEVEL:
                length = place
        return list(self._before)[_LEAD_FRAMES - length :]

    def _close(self, end: int) -> Iterator[Span]:
        assert self._start is not None
        if self._joined or end - self._heard >= _MIN_SPEECH:
            yield Span(self._start, end, self._pause)
            self._last_end = end
        else:  # a click: `settled` has already ruled out that a later span begins before it
            self._before.extend([*[0.0] * _LEAD_FRAMES, *self._levels])
        self._start = self._silence = None

    def _split_off(self) -> Span:
        assert self._start is not None
        half = len(self._levels) // 2
        # Sums of three frames, because a single quiet one may lie within a syllable.
        around = [sum(self._levels[at - 1 : at + 2]) for at in range(half, len(self._levels) - 1)]
        cut_frame = half + around.index(min(around))
        # Counted from the end: `_levels` has the whole frame in which the previous span was split off.
        cut = self._position - (len(self._levels) - cut_frame) * FRAME_SAMPLES + FRAME_SAMPLES // 2
        span = Span(self._start, cut, self._pause, goes_on=True)
        self._start = self._last_end = cut
        self._pause, self._joined, self._levels = 0, True, self._levels[cut_frame:]
        return span


class EverythingSpoken:
    """Widens spans until they cover all of the audio, for jobs that want no speech detection.

    Pauses remain good places to cut, in their middle. Long silence is released in pieces.
    """

    PIECE = 2 * SAMPLE_RATE

    def __init__(self) -> None:
        self._start = 0  # of the audio not released yet
        self._end = 0  # how far that is speech, or known silence
        self._pause = 0  # before it

    @property
    def settled(self) -> int:
        """Lower bound, in samples, for the beginning of future spans."""
        return self._start

    def add(self, span: Span) -> Iterator[Span]:
        """Add a span of speech."""
        yield from self.advance(span.start)
        middle = self._end + (span.start - self._end) // 2
        yield from self._hand_out(middle, span.pause, goes_on=span.start == self._end)
        self._end = span.end

    def advance(self, settled: int) -> Iterator[Span]:
        """Note that no future speech begins before `settled`."""
        while settled - self._end >= 2 * self.PIECE:
            yield from self._hand_out(self._end + self.PIECE, self.PIECE // 2)

    def finish(self, total: int) -> Iterator[Span]:
        """End the audio after `total` samples."""
        yield from self.advance(total)
        yield from self._hand_out(total, 0)

    def _hand_out(self, end: int, next_pause: int, *, goes_on: bool = False) -> Iterator[Span]:
        if end > self._start:
            yield Span(self._start, end, self._pause, goes_on)
            self._pause = next_pause
        self._start = end
        self._end = max(self._end, end)
