"""Keeps decoded audio on the file's timeline. Pure: timestamps in, samples of silence out.

A container states for each frame when it is to be played. A late start or a gap becomes silence, so that
subtitles match the picture. An implausible timestamp shifts the clock instead of the audio, so that a small
hostile file cannot create hours of silence. Audio may be a little ahead of its clock: when a timestamp is
late, as in recordings of network streams, it is preceded by silence, and the next ones are on time again.
"""

from __future__ import annotations

from whisperd.audio.messages import SAMPLE_RATE

__all__ = ["Timeline"]

# Smaller differences are rounding or jitter of the container's clock.
TOLERANCE_S = 0.1
# Audio that is further ahead of its clock shifts it. If it always did, late timestamps would add up.
MAX_LEAD_S = 1.0
# A longer gap counts as a clock reset, as in joined recordings, unless it ends within the duration that the
# file states: a person in a meeting may be muted for most of it.
MAX_GAP_S = 15 * 60.0
# Limit of all gaps of a file together, unless it states a longer duration.
MAX_SILENCE_S = 60 * 60.0


class Timeline:
    """Follows the timestamps of one stream. `origin_s` is the timestamp at which the file begins."""

    def __init__(self, origin_s: float, duration_s: float) -> None:
        """`duration_s` is the duration that the file states; 0 if it states none."""
        self._duration_s = duration_s
        self._shift_s = -origin_s
        self._silence_s = 0.0

    @property
    def memory(self) -> tuple[float, float]:
        """Its state: the shift of the clock, and the silence so far, in seconds."""
        return self._shift_s, self._silence_s

    def restore(self, memory: tuple[float, float]) -> None:
        """Restore a state."""
        self._shift_s, self._silence_s = memory

    def silence_before(self, timestamp_s: float | None, position: int) -> int:
        """Return how many samples of silence precede a frame that comes after `position` samples."""
        if timestamp_s is None:
            return 0
        gap_s = timestamp_s + self._shift_s - position / SAMPLE_RATE
        if -MAX_LEAD_S < gap_s < TOLERANCE_S:
            return 0
        longest_s = max(MAX_GAP_S, self._duration_s - position / SAMPLE_RATE)
        limit_s = max(MAX_SILENCE_S, self._duration_s)
        if 0 < gap_s <= longest_s and self._silence_s + gap_s <= limit_s:
            self._silence_s += gap_s
            return round(gap_s * SAMPLE_RATE)
        self._shift_s -= gap_s
        return 0
