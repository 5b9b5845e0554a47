"""The text of a job as it grows: put in order, told as soon as it is known, whole in the end."""

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
    """Takes what was heard in the windows of a job, in any order."""

    def __init__(self, job: Job, publish: Callable[[Event], None]) -> None:
        self._job = job
        self._publish = publish
        self._stitcher = Stitcher(keep_words=job.options.wants_words)
        self.vote = LanguageVote()
        """On the language of all of it."""

    @property
    def done_s(self) -> float:
        """How far all windows are done."""
        return self._stitcher.done_s

    def add(self, window: WindowAudio, result: WindowResult) -> None:
        """The result of a window has come; tells what is in order now."""
        if result.segments:
            self.vote.add(result.language, result.language_probability, window.end - window.start)
        self._tell(self._stitcher.add(window, result))

    def finish(self, language: str | None, duration_s: float, total_s: float, elapsed_s: float) -> Transcript:
        """No window comes any more. `total_s` of its `duration_s` were to be heard; without a language, it is
        that of most of them."""
        self._tell(self._stitcher.finish())
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

    def _tell(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            for event in events_of(self._job, segment):
                self._publish(event)


def events_of(job: Job, segment: Segment) -> Iterator[Event]:
    """The events that tell of a segment of a job: of its words, if they were asked for, then of itself."""
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
