"""Keeping decoded audio on the file's own time line. Pure: timestamps in, samples of silence out.

A container says with each frame when it is to be heard. A late beginning or a hole becomes
silence, so that subtitles fit the picture. A timestamp that nobody can believe moves the clock
and not the audio, so that a hostile file cannot make hours of silence.
"""

from __future__ import annotations

from whisperd.audio.messages import SAMPLE_RATE

__all__ = ["Timeline"]

# Below this a difference is rounding or jitter of the container's clock.
TOLERANCE_S = 0.1
# A longer hole than this is taken for a clock that was set anew, as in joined recordings, unless it ends
# within what the file says of its duration: who is muted in a meeting may be so for half of it.
MAX_GAP_S = 15 * 60.0
# All holes of a file together.
MAX_SILENCE_S = 60 * 60.0


class Timeline:
    """Follows the timestamps of one stream. `origin_s` is the timestamp at which the file begins."""

    def __init__(self, origin_s: float, duration_s: float) -> None:
        """`duration_s` is what the file says of it; 0 where it says nothing."""
        self._duration_s = duration_s
        self._shift_s = -origin_s
        self._silence_s = 0.0

    @property
    def memory(self) -> tuple[float, float]:
        """What it has seen: how far the clock is shifted, and how much silence there is, in seconds."""
        return self._shift_s, self._silence_s

    def restore(self, memory: tuple[float, float]) -> None:
        """Go on from there."""
        self._shift_s, self._silence_s = memory

    def silence_before(self, timestamp_s: float | None, position: int) -> int:
        """How many samples of silence belong before a frame, `position` samples being there already."""
        if timestamp_s is None:
            return 0
        gap_s = timestamp_s + self._shift_s - position / SAMPLE_RATE
        if abs(gap_s) < TOLERANCE_S:
            return 0
        longest_s = max(MAX_GAP_S, self._duration_s - position / SAMPLE_RATE)
        if 0 < gap_s <= longest_s and self._silence_s + gap_s <= MAX_SILENCE_S:
            self._silence_s += gap_s
            return round(gap_s * SAMPLE_RATE)
        self._shift_s -= gap_s
        return 0
