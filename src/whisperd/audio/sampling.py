"""Chooses the samples of a recording that are used to detect its language. Pure.

A file may begin with music, an advert or another person's greeting. So short pieces are taken from places
spread over the whole file. Times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from whisperd.audio.clips import Clip
from whisperd.audio.messages import SAMPLE_RATE
from whisperd.audio.speech import Span

__all__ = ["SAMPLE_S", "best_stretch", "places"]

HEARD_S = 14.0
"""Length decoded at each place."""
SAMPLE_S = 7.0
"""Length of the sample taken from that."""
MIN_SPEECH_S = 1.5
"""A place with less speech is of no use."""


def places(duration_s: float | None, clips: Sequence[Clip], count: int, from_s: float) -> list[Clip]:
    """Return places, evenly spread over the parts of a recording: at most `count`, and none if it is shorter
    than `from_s`, or its length is unknown."""
    if duration_s is None:
        return []
    parts = [
        (clip.start, duration_s if clip.end is None else min(clip.end, duration_s))
        for clip in clips or (Clip(0.0),)
    ]
    total_s = sum(max(0.0, end_s - start_s) for start_s, end_s in parts)
    if total_s < from_s:
        return []
    count = min(count, math.ceil(total_s / HEARD_S))
    found = []
    for number in range(count):
        rest_s = total_s * (number + 0.5) / count
        for start_s, end_s in parts:
            length_s = max(0.0, end_s - start_s)
            if rest_s < length_s:
                begin_s = max(start_s, min(start_s + rest_s, end_s - HEARD_S))
                found.append(Clip(begin_s, min(begin_s + HEARD_S, end_s)))
                break
            rest_s -= length_s
    return found


def best_stretch(spans: Sequence[Span], total: int) -> tuple[int, int] | None:
    """Return the stretch `[start, end)` with the most speech, in samples; None if there is too little."""
    length = int(SAMPLE_S * SAMPLE_RATE)

    def spoken_from(start: int) -> int:
        return sum(max(0, min(span.end, start + length) - max(span.start, start)) for span in spans)

    start = max((min(span.start, max(0, total - length)) for span in spans), key=spoken_from, default=0)
    if spoken_from(start) < MIN_SPEECH_S * SAMPLE_RATE:
        return None
    return start, min(start + length, total)
