"""Joins the texts of two windows where they overlap. Pure.

If someone speaks without a pause, a cut would go through a word. So both windows include the time around the
cut, and each is unreliable at its own edge. Their texts are joined in the middle of the longest run of words
found in both; if there is none, in the middle of the shared time. Times are seconds on the file's timeline;
if word times are unknown, words are assumed to be evenly spaced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from whisperd.jobs.segments import Segment, is_chinese_or_japanese, letters

__all__ = ["reconcile"]

SLACK_S = 3.0
"""Tolerance of estimated word times."""
NEAR_S = 0.7
"""Tolerance of known word times."""
WORD_S = 1.0
"""Longest plausible length of a word."""
SHORT_LETTERS = 5
"""With fewer letters, two windows may agree by chance if word times are unknown."""

_SPACED = re.compile(r"\s*\S+")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A word of a segment, or a character of a script without spaces."""

    segment: int
    text: str
    start: float
    end: float
    is_timed: bool
    """Whether its times come from the engine, rather than from even spacing."""

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2

    @property
    def letters(self) -> str:
        return letters(self.text)


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of words found on both sides, from `before` on one and `after` on the other."""

    before: int
    after: int
    count: int


def reconcile(
    earlier: Sequence[Segment], later: Sequence[Segment], start_s: float, end_s: float
) -> tuple[list[Segment], list[Segment]]:
    """Return what remains of the segments of two windows that share the time from `start_s` to `end_s`.

    Segments well before or after that time are unchanged.
    """
    before, after = _pieces(earlier), _pieces(later)
    first = next((at for at, one in enumerate(before) if one.end > start_s - SLACK_S), len(before))
    last = next((at for at, one in enumerate(after) if one.start >= end_s + SLACK_S), len(after))
    run = _best_run(before[first:], after[:last])
    if run is not None:
        kept = run.count - run.count // 2  # the first half from the earlier window, the rest from the later
        keep, drop = first + run.before + kept, run.after + kept
    elif not before or not after:
        keep, drop = len(before), 0
    else:
        # Text found in only one window is not a duplicate, so it stays. The first word of a window is
        # reported to begin with the window, however late it comes, and the last one to end with it.
        middle = (start_s + end_s) / 2
        until = max(middle, after[0].start, after[0].end - WORD_S)
        since = min(middle, before[-1].end, before[-1].start + WORD_S)
        keep = next((at for at, one in enumerate(before) if one.middle >= until), len(before))
        drop = next((at for at, one in enumerate(after) if one.middle >= since), len(after))
    return _rebuilt(earlier, before, 0, keep), _rebuilt(later, after, drop, len(after))


def _best_run(before: Sequence[_Piece], after: Sequence[_Piece]) -> _Run | None:
    """Return the longest run of common words; of equally long ones, the one whose times agree best."""
    runs = [
        _Run(i, j, count)
        for i in range(len(before))
        for j in range(len(after))
        if (count := _common(before[i:], after[j:]))
    ]
    plausible = [run for run in runs if _is_plausible(run, before, after)]
    return max(
        plausible, key=lambda run: (_letters(run, before), -_apart_s(run, before, after)), default=None
    )


def _common(before: Sequence[_Piece], after: Sequence[_Piece]) -> int:
    count = 0
    for one, other in zip(before, after, strict=False):
        if one.letters != other.letters:
            break
        count += 1
    return count


def _is_plausible(run: _Run, before: Sequence[_Piece], after: Sequence[_Piece]) -> bool:
    letters, apart_s = _letters(run, before), _apart_s(run, before, after)
    is_timed = before[run.before].is_timed and after[run.after].is_timed
    is_short = is_timed or letters < SHORT_LETTERS
    return letters > 0 and apart_s <= (NEAR_S if is_short else SLACK_S)


def _letters(run: _Run, before: Sequence[_Piece]) -> int:
    return sum(len(one.letters) for one in before[run.before : run.before + run.count])


def _apart_s(run: _Run, before: Sequence[_Piece], after: Sequence[_Piece]) -> float:
    return abs(before[run.before].middle - after[run.after].middle)


def _pieces(segments: Sequence[Segment]) -> list[_Piece]:
    found: list[_Piece] = []
    for number, segment in enumerate(segments):
        if segment.words:
            found += [
                _Piece(number, word.text, word.start, word.end, is_timed=True) for word in segment.words
            ]
            continue
        texts = _split(segment.text)
        per_letter_s = (segment.end - segment.start) / max(1, sum(map(len, texts)))
        position = 0
        for text in texts:
            start_s = segment.start + position * per_letter_s
            position += len(text)
            end_s = segment.start + position * per_letter_s
            found.append(_Piece(number, text, start_s, end_s, False))
    return found


def _split(text: str) -> list[str]:
    texts: list[str] = []
    for word in _SPACED.findall(text):
        if any(map(is_chinese_or_japanese, word)):
            texts += word
        else:
            texts.append(word)
    return texts


def _rebuilt(segments: Sequence[Segment], pieces: Sequence[_Piece], first: int, last: int) -> list[Segment]:
    """Return the segments, reduced to the pieces that stay."""
    rebuilt = []
    for number, segment in enumerate(segments):
        own = [at for at, piece in enumerate(pieces) if piece.segment == number]
        kept = [at for at in own if first <= at < last]
        if kept == own:
            rebuilt.append(segment)
        elif kept:
            rebuilt.append(
                msgspec.structs.replace(
                    segment,
                    text="".join(pieces[at].text for at in kept),
                    tokens=(),  # unknown which tokens belong to the remaining words
                    start=segment.start if kept[0] == own[0] else round(pieces[kept[0]].start, 3),
                    end=segment.end if kept[-1] == own[-1] else round(pieces[kept[-1]].end, 3),
                    words=segment.words[kept[0] - own[0] : kept[-1] - own[0] + 1],
                )
            )
    return rebuilt
