"""What is told of a segment as soon as it is known. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from whisperd.jobs.segments import Segment
from whisperd.rpc.events import Event, SpokenWord, TranscriptionSegment, TranscriptionWord

__all__ = ["events_of"]


def events_of(job: str, segment: Segment, *, with_words: bool) -> Iterator[Event]:
    """The events that tell of a segment of a job: of its words, if they were asked for, then of itself."""
    words = [
        SpokenWord(word=word.text.strip(), start=word.start, end=word.end, probability=word.probability)
        for word in segment.words
    ]
    if with_words:
        for place, word in enumerate(words):
            yield TranscriptionWord(
                id=job,
                segment=segment.id,
                index=place,
                start=word.start,
                end=word.end,
                text=word.word,
                probability=word.probability,
                channel=segment.channel,
            )
    yield TranscriptionSegment(
        id=job,
        index=segment.id,
        start=segment.start,
        end=segment.end,
        text=segment.text.strip(),
        channel=segment.channel,
        language=segment.language,
        words=tuple(words) if with_words else None,
    )
