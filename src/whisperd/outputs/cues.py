"""Readable subtitles: cut a transcript into cues of at most two lines. Pure.

The limits are those that broadcasters publish, such as Netflix' "Timed Text Style Guide": 42 columns, two
lines, 17 characters a second, at least 5/6 of a second and at most 7. Cuts are chosen by dynamic programming
over the gaps between words, as Knuth and Plass break paragraphs into lines.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from whisperd.jobs.line_breaks import clean, divided, pieces
from whisperd.jobs.segments import Segment
from whisperd.text_width import text_width
from whisperd.worker.sentences import ends_clause, ends_sentence

__all__ = ["Cue", "Piece", "cues"]

LINE_COLUMNS: Final = 42
LINES: Final = 2
CHARACTERS_PER_SECOND: Final = 17
SHORTEST_S: Final = 5 / 6
LONGEST_S: Final = 7.0
LONG_PAUSE_S: Final = 2.0
"""A cue does not span a pause longer than this."""

_CUE_COST: Final = 1.0
"""Cost of each cue, so that there are no more than needed."""
_BREAK_COST: Final = {"sentence": 0.0, "clause": 0.6, "word": 1.6}
"""Cost of ending a cue after a sentence, clause or word."""
_PAUSE_DISCOUNT: Final = 1.0
"""Taken off the break cost for each second of pause at the break."""
_FAST_COST: Final = 0.15
"""Cost of each character a second above the reading speed."""
_FORBIDDEN_COST: Final = 1000.0
"""Cost of breaking a limit, which happens only if there is no alternative."""


@dataclass(frozen=True)
class Piece:
    """Text that no line break may divide, with its time in seconds. A space before it is part of the text."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Cue:
    """A subtitle: the text shown at one time."""

    start: float
    end: float
    lines: tuple[tuple[Piece, ...], ...]
    channel: int | None = None
    """Set if channels are transcribed separately."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each line."""
        return tuple("".join(piece.text for piece in line).strip() for line in self.lines)


def cues(segments: Iterable[Segment], duration_s: float) -> list[Cue]:
    """Cut segments into cues, ordered by start, none beyond the end of the recording.

    A cue is shown longer than its speech lasts if there is time and reading takes longer. Cues of one channel
    do not overlap; those of two channels may.
    """
    by_channel: dict[int | None, list[Cue]] = {}
    for segment in segments:
        found = _cues_of(_timed_pieces(segment))
        by_channel.setdefault(segment.channel, []).extend(
            replace(cue, channel=segment.channel) for cue in found
        )
    readable = [cue for found in by_channel.values() for cue in _readable(found, duration_s)]
    return sorted(readable, key=lambda cue: cue.start)


def _timed_pieces(segment: Segment) -> list[Piece]:
    if not segment.words:
        return _spread(clean(segment.text), segment.start, segment.end)
    found: list[Piece] = []
    for word in segment.words:
        if text := clean(word.text):
            gap = " " if found and word.text[:1].isspace() else ""
            found += _spread(gap + text, word.start, word.end)
    return found


def _spread(text: str, start_s: float, end_s: float) -> list[Piece]:
    """Split a text into pieces, and distribute its time among them in proportion to their width."""
    parts = [part for piece in pieces(text) for part in divided(piece, LINE_COLUMNS)]
    total = sum(map(text_width, parts)) or 1
    found, done = [], 0
    for part in parts:
        first, done = done, done + text_width(part)
        length = end_s - start_s
        found.append(Piece(part, start_s + length * first / total, start_s + length * done / total))
    return found


class _Run:
    """Consecutive pieces, measured once. In methods, `start` is the first piece, `end` one past the last."""

    def __init__(self, parts: Sequence[Piece]) -> None:
        self.parts = parts
        self._reached = [0, *itertools.accumulate(text_width(piece.text) for piece in parts)]
        self._gaps = [len(piece.text) - len(piece.text.lstrip()) for piece in parts]
        # With two words before each: a number may be an ordinal.
        texts = [piece.text for piece in parts]
        self.ends = [_break_kind("".join(texts[max(0, at - 2) : at + 1])) for at in range(len(texts))]
        """The unit that ends with each piece: `sentence`, `clause` or `word`."""

    def columns(self, start: int, end: int) -> int:
        """Return the width of these pieces on one line."""
        return self._reached[end] - self._reached[start] - self._gaps[start] if end > start else 0

    def full_line(self, start: int, end: int) -> int:
        """Return the end of the fullest line that begins at `start`, with at least one piece."""
        room = self._reached[start] + self._gaps[start] + LINE_COLUMNS
        return min(max(bisect.bisect_right(self._reached, room) - 1, start + 1), end)

    def fits(self, start: int, end: int) -> bool:
        """Whether these pieces fit on the lines of a cue."""
        for _ in range(LINES):
            if self.columns(start, end) <= LINE_COLUMNS:
                return True
            start = self.full_line(start, end)
        return start == end


def _cues_of(parts: Sequence[Piece]) -> list[Cue]:
    """Find the cheapest cuts, by dynamic programming over the possible ends of a cue."""
    run = _Run(parts)
    costs, cut_before = [0.0, *([math.inf] * len(parts))], [0] * (len(parts) + 1)
    for end in range(1, len(parts) + 1):
        for start in range(end - 1, -1, -1):
            # A single piece must form a cue, however wide it is.
            if start < end - 1 and not run.fits(start, end):
                break
            cost = costs[start] + _cost(run, start, end)
            if cost < costs[end]:
                costs[end], cut_before[end] = cost, start
    found: list[Cue] = []
    end = len(parts)
    while end:
        start = cut_before[end]
        found.append(Cue(parts[start].start, parts[end - 1].end, _lines(run, start, end)))
        end = start
    return found[::-1]


def _cost(run: _Run, start: int, end: int) -> float:
    parts = run.parts
    spoken_s = parts[end - 1].end - parts[start].start
    cost = _CUE_COST + max(0.0, SHORTEST_S - spoken_s)
    if end < len(parts):
        pause_s = parts[end].start - parts[end - 1].end
        cost += max(0.0, _BREAK_COST[run.ends[end - 1]] - _PAUSE_DISCOUNT * pause_s)
    speed = run.columns(start, end) / max(spoken_s, SHORTEST_S)
    cost += _FAST_COST * max(0.0, speed - CHARACTERS_PER_SECOND)
    if end - start > 1:
        pauses_s = (parts[at].start - parts[at - 1].end for at in range(start + 1, end))
        if spoken_s > LONGEST_S or max(pauses_s) > LONG_PAUSE_S:
            cost += _FORBIDDEN_COST
    return cost


def _lines(run: _Run, start: int, end: int) -> tuple[tuple[Piece, ...], ...]:
    """Return one line if the pieces fit, else two of similar width, preferably cut at the end of a clause."""
    if end - start == 1 or run.columns(start, end) <= LINE_COLUMNS:
        return (tuple(run.parts[start:end]),)
    cut = min(range(start + 1, end), key=lambda at: _line_cost(run, start, at, end))
    return tuple(run.parts[start:cut]), tuple(run.parts[cut:end])


def _line_cost(run: _Run, start: int, cut: int, end: int) -> float:
    above, below = run.columns(start, cut), run.columns(cut, end)
    overflow = max(0, above - LINE_COLUMNS) + max(0, below - LINE_COLUMNS)
    wanted = {"sentence": -8, "clause": -6, "word": 0}[run.ends[cut - 1]]
    return _FORBIDDEN_COST * overflow + abs(above - below) + wanted + (above > below)


def _break_kind(text: str) -> str:
    if ends_sentence(text):
        return "sentence"
    return "clause" if ends_clause(text) else "word"


def _readable(found: Sequence[Cue], duration_s: float) -> Iterator[Cue]:
    """Extend each cue until it can be read, but not into the next one."""
    followers = [*(cue.start for cue in found), max(duration_s, 0.0)][1:]
    for cue, until_s in zip(found, followers, strict=True):
        columns = sum(map(text_width, cue.texts))
        wanted_s = min(max(columns / CHARACTERS_PER_SECOND, SHORTEST_S), LONGEST_S)
        end_s = max(cue.end, min(cue.start + wanted_s, until_s))
        yield replace(cue, end=min(end_s, max(until_s, cue.start)))
