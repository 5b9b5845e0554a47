"""Builds the transcript of a job: orders its segments, publishes each as soon as it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from whisperd.audio import WindowAudio
from whisperd.jobs.job import Job
from whisperd.jobs.segments import Segment, Transcript
from whisperd.jobs.stitch import Stitcher
from whisperd.jobs.vote import LanguageVote
from whisperd.rpc.events import Event, SpokenWord, TranscriptionSegment, TranscriptionWord
from whisperd.worker.protocol import WindowResult

__all__ = ["TranscriptBuilder", "events_of"]


class TranscriptBuilder:
    """Takes the results of a job's windows, in any order."""

    def __init__(self, job: Job, publish: Callable[[Event], None]) -> None:
        self._job = job
        self._publish = publish
        self._stitcher = Stitcher(keep_words=job.options.wants_words)
        self.vote = LanguageVote()
        """The vote on the language of the recording."""

    @property
    def done_s(self) -> float:
        """Position up to which all windows are done."""
        return self._stitcher.done_s

    def add(self, window: WindowAudio, result: WindowResult) -> None:
        """Add the result of a window; publishes the segments that are now in order."""
        if result.segments:
            self.vote.add(result.language, result.language_probability, window.end - window.start)
        self._publish_all(self._stitcher.add(window, result))

    def finish(self, language: str | None, duration_s: float, total_s: float, elapsed_s: float) -> Transcript:
        """Return the transcript, as no more windows will come. `total_s` of `duration_s` were to be
        transcribed; without `language`, the vote decides."""
        self._publish_all(self._stitcher.finish())
        job = self._job
        job.duration_s = total_s
        job.speed = round(total_s / elapsed_s, 2)
        job.language = language or self.vote.leading
        return Transcript(
            task=job.options.task,
            language=job.language,
            duration=duration_s,
            text=self._stitcher.text,
            segments=tuple(self._stitcher.segments),
            runtime=job.runtime,
            elapsed=round(elapsed_s, 3),
            has_words=job.options.wants_words,
        )

    def _publish_all(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            for event in events_of(self._job, segment):
                self._publish(event)


def events_of(job: Job, segment: Segment) -> Iterator[Event]:
    """Yield the events of a segment: first its words, if they were requested, then the segment."""
    with_words = job.options.wants_words
    words = [
        SpokenWord(word=word.text.strip(), start=word.start, end=word.end, probability=word.probability)
        for word in segment.words
    ]
    if with_words:
        for place, word in enumerate(words):
            yield TranscriptionWord(
                id=job.id,
                segment=segment.id,
                index=place,
                start=word.start,
                end=word.end,
                text=word.word,
                probability=word.probability,
                channel=segment.channel,
            )
    yield TranscriptionSegment(
        id=job.id,
        index=segment.id,
        start=segment.start,
        end=segment.end,
        text=segment.text.strip(),
        channel=segment.channel,
        language=segment.language,
        words=tuple(words) if with_words else None,
    )
