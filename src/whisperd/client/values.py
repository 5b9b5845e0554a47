"""The values that clients return: plain tuples, without the import cost of msgspec."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["InOrder", "Segment", "Transcript", "Word", "end_of_job", "is_over"]


class Word(NamedTuple):
    """A word with its punctuation; times in seconds from the beginning of the file."""

    text: str
    start: float
    end: float
    probability: float

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Word:
        """Read a word of `verbose_json`."""
        return cls(wire["word"], wire["start"], wire["end"], wire["probability"])


class Segment(NamedTuple):
    """A piece of recognised speech; times in seconds from the beginning of the file."""

    id: int
    start: float
    end: float
    text: str
    channel: int | None = None
    """Counted from 0, if channels are transcribed separately."""
    words: tuple[Word, ...] = ()
    """If requested (`timestamps="word"`)."""
    language: str | None = None
    """The code of the language spoken in it."""

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Segment:
        """Read an event `transcription.segment`."""
        words = tuple(map(Word.from_wire, event.get("words") or ()))
        return cls(
            event["index"],
            event["start"],
            event["end"],
            event["text"],
            event["channel"],
            words,
            event["language"],
        )


class Transcript(NamedTuple):
    """The result of a job."""

    text: str
    language: str | None
    duration: float
    """Seconds of audio."""
    segments: tuple[Segment, ...]
    verbose: Mapping[str, Any]
    """The whole result, in the form of OpenAI's `verbose_json`."""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Transcript:
        """Read the answer to `jobs.wait`."""
        words: defaultdict[int, list[Word]] = defaultdict(list)
        for one in wire.get("words", ()):
            words[one["segment"]].append(Word.from_wire(one))
        segments = tuple(
            Segment(
                one["id"],
                one["start"],
                one["end"],
                one["text"].strip(),
                one.get("channel"),
                tuple(words[one["id"]]),
                one.get("language"),
            )
            for one in wire["segments"]
        )
        return cls(wire["text"], wire["language"], wire["duration"], segments, wire)


class InOrder:
    """Passes each segment once and in order, even if events were missed.

    After a gap it passes nothing more: the result has all segments, and `rest` returns the remaining ones.
    """

    def __init__(self) -> None:
        self._next_index = 0

    def is_next(self, index: int) -> bool:
        """Whether this segment follows the last one that was passed, and may now be shown."""
        if index != self._next_index:
            return False
        self._next_index += 1
        return True

    def is_whole(self, last_event: Mapping[str, Any]) -> bool:
        """Whether a job has completed, by its last event, and all its segments were passed."""
        return last_event.get("segments") == self._next_index

    def rest(self, transcript: Transcript) -> tuple[Segment, ...]:
        """Return the segments that were not passed yet."""
        return transcript.segments[self._next_index :]


def end_of_job(event: Mapping[str, Any]) -> bool:
    """Whether this is the last event of its job."""
    return event["type"] in ("transcription.completed", "transcription.failed", "transcription.cancelled")


def is_over(job: Mapping[str, Any]) -> bool:
    """Whether a job has ended, successfully or not."""
    return job["status"] in ("completed", "failed", "cancelled")
