"""Parts of a recording, as a user writes them: `0:30-1:45; 2:00-2:15`. Pure.

A time is seconds, or minutes and seconds, or hours, minutes and seconds, with an optional fraction: `90`,
`1:30`, `0:01:30.25`. Either end may be omitted: `1:00-` continues to the end of the file, `-0:30` starts at
its beginning. Parts that overlap or touch are merged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from whisperd.rpc.errors import WhisperdError

__all__ = ["Clip", "beyond_end", "elapsed_within", "parse_clips"]

MAX_CLIPS: Final = 1000
SHORTEST_S: Final = 0.001
"""A shorter part contains no sound."""

_TIME = re.compile(r"(?:(?:(\d{1,4}):)?(\d{1,5}):)?(\d{1,7}(?:[.,]\d{1,9})?)")
_DASH = re.compile("[-\u2010-\u2015]")


class Clip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part, in seconds from the beginning of the file; without an `end` it is the rest of the file."""

    start: float
    end: float | None = None


def parse_clips(text: str) -> tuple[Clip, ...]:
    """Parse parts from a text; returns them in order of time, merged.

    Raises `clips.invalid`; its message shows the text with the faulty place marked.
    """
    found: list[Clip] = []
    place = 0
    for part in re.split("([;\n])", text):
        if part.strip() and part not in ";\n":
            found.append(_parse_clip(text, part, place))
        place += len(part)
    if not found:
        raise _invalid(text, 0, max(1, len(text)), "names no part")
    if len(found) > MAX_CLIPS:
        raise _invalid(text, 0, len(text), f"names more than {MAX_CLIPS} parts")
    return _merged(found)


def elapsed_within(clips: Sequence[Clip], position_s: float) -> float:
    """Return how many seconds of the parts lie before a position; without parts, return the position."""
    if not clips:
        return position_s
    ends_s = (position_s if clip.end is None else min(position_s, clip.end) for clip in clips)
    return sum(max(0.0, end_s - clip.start) for clip, end_s in zip(clips, ends_s, strict=True))


def beyond_end(clip: Clip, duration_s: float | None, path: str) -> WhisperdError:
    """Return the error for a part that begins after the end of the file; `duration_s` is None if unknown."""
    length = "" if duration_s is None else f", which is {_written(duration_s)} long"
    return WhisperdError(
        "clips.beyond_end",
        f"The part from {_written(clip.start)} begins after the end of {path}{length}.",
        "Give parts that lie within the recording.",
        {"path": path, "start": clip.start, "duration": duration_s},
    )


def _parse_clip(text: str, part: str, place: int) -> Clip:
    start_place, end_place = place + len(part) - len(part.lstrip()), place + len(part.rstrip())
    dashes = list(_DASH.finditer(part))
    if len(dashes) != 1:
        why = "needs one dash between start and end, such as 0:30-1:45"
        raise _invalid(text, start_place, end_place, why)
    dash = dashes[0]
    start = _parse_time(text, part[: dash.start()], place)
    end = _parse_time(text, part[dash.end() :], place + dash.end())
    if start is None and end is None:
        raise _invalid(text, start_place, end_place, "has neither a start nor an end")
    clip = Clip(start or 0.0, end)
    if clip.end is not None and round(clip.end - clip.start, 6) < SHORTEST_S:
        why = "ends before it begins" if clip.end < clip.start else "is empty"
        raise _invalid(text, start_place, end_place, why)
    return clip


def _parse_time(text: str, written: str, place: int) -> float | None:
    time = written.strip()
    if not time:
        return None
    first = place + len(written) - len(written.lstrip())
    found = _TIME.fullmatch(time)
    if found is None:
        raise _invalid(text, first, first + len(time), "is not a time such as 90, 1:30 or 1:02:03.5")
    hours, minutes, seconds = found.groups()
    seconds_s = float(seconds.replace(",", "."))
    if minutes is not None and seconds_s >= 60:
        raise _invalid(text, first, first + len(time), "has more than 59 seconds in a minute")
    if hours is not None and int(minutes) >= 60:
        raise _invalid(text, first, first + len(time), "has more than 59 minutes in an hour")
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + seconds_s


def _merged(clips: Sequence[Clip]) -> tuple[Clip, ...]:
    merged: list[Clip] = []
    for clip in sorted(clips, key=lambda clip: clip.start):
        last = merged[-1] if merged else None
        if last is not None and last.end is None:
            break
        if last is None or last.end is None or clip.start > last.end:
            merged.append(clip)
        else:
            merged[-1] = Clip(last.start, None if clip.end is None else max(last.end, clip.end))
    return tuple(merged)


def _written(seconds: float) -> str:
    """Format a time as `1:02:03.5`, or `2:03.5` within the first hour."""
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    clock = f"{rest:06.3f}".rstrip("0").rstrip(".")
    return f"{hours:.0f}:{minutes:02.0f}:{clock}" if hours else f"{minutes:.0f}:{clock}"


def _invalid(text: str, start: int, end: int, why: str) -> WhisperdError:
    before, faulty, after = text[:start][-80:], text[start:end][:80], text[end:][:80]
    marked = " ".join(f"{before}>>{faulty}<<{after}".split())
    return WhisperdError(
        "clips.invalid",
        f"{faulty!r} {why}: {marked}" if text.strip() else "There are no parts in an empty text.",
        "Write parts as `0:30-1:45; 2:00-2:15`, or `1:00-` for everything from there on.",
        {"clips": text, "start": start, "end": end},
    )
