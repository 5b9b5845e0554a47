"""A live job's way from what is being spoken to text.

Audio comes in through an `AudioBuffer`, a decoder finds the utterances in it, and the engine hears each
as a whole once it is over. That text is final. While an utterance goes on, what there is of it is heard
now and then, quickly and only where the engine has nothing better to do: a hypothesis that comes late is
worth nothing, and a final text never waits for more than one of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import anyio
import msgspec
from anyio.abc import TaskGroup

from whisperd.audio import SAMPLE_RATE, DecoderPool, Utterance, WindowAudio, follow
from whisperd.jobs.agreement import Agreement
from whisperd.jobs.audio_buffer import AudioBuffer
from whisperd.jobs.batching import Parcel
from whisperd.jobs.dispatcher import Dispatcher
from whisperd.jobs.job import Job
from whisperd.jobs.lifecycle import begin
from whisperd.jobs.options import JobOptions
from whisperd.jobs.segments import Transcript, join_texts
from whisperd.jobs.transcript_builder import TranscriptBuilder
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import Event, TranscriptionPartial
from whisperd.tasks import RepeatedEvent, open_task_group
from whisperd.worker.protocol import DecodeOptions, EngineWindow, WindowResult

__all__ = ["LiveRun", "check_live_options"]

FEED_BYTES: Final = 2 * SAMPLE_RATE
"""What the decoder process hears at once: a second, if so much has come already."""
HELD_S: Final = 40.0
"""Speech that waits for the engine at most. Beyond it nothing more is taken in, and whoever pushes waits."""

TEMPERATURES: Final = (0.0, 0.4)
"""Tried where none are asked for: somebody waits, and cannot wait for all that a file is given."""


class _Hypothesis:
    """An utterance that is not over yet, and what the engine makes of it."""

    def __init__(self, utterance: Utterance) -> None:
        self.utterance = utterance
        self.scope = anyio.CancelScope()
        self.is_done = anyio.Event()
        self.result: WindowResult | None = None

    def is_of_all(self, utterance: Utterance) -> bool:
        """Whether it was heard as thoroughly as a final one, and nothing came after it."""
        ours = self.utterance
        is_same = (ours.start, ours.end) == (utterance.start, utterance.end)
        return ours.is_likely_final and is_same

    async def wait(self) -> WindowResult:
        """The result; it is not given up any more."""
        await self.is_done.wait()
        assert self.result is not None
        return self.result


class LiveRun:
    """The run of one live job on a leased runtime."""

    def __init__(
        self,
        job: Job,
        audio_buffer: AudioBuffer,
        dispatcher: Dispatcher,
        options: DecodeOptions,
        publish: Callable[[Event], None],
    ) -> None:
        self._job = job
        self._audio_buffer = audio_buffer
        self._dispatcher = dispatcher
        self._options = options
        self._publish = publish
        self._began_s = time.monotonic()
        self._builder = TranscriptBuilder(job, publish)
        self._finals = 0  # utterances that are over
        self._pending: dict[int, float] = {}  # seconds of those that the engine has not answered yet
        self._pending_changed = RepeatedEvent()
        self._hypothesis: _Hypothesis | None = None  # the last one on the utterance that is open
        self._hypotheses = 0
        self._agreement = Agreement()  # on the utterance that is open
        self._shown: Utterance | None = None  # what the last partial event was about
        if job.options.temperature is None:
            self._options = msgspec.structs.replace(options, temperatures=TEMPERATURES)
        info = dispatcher.runtime.info
        if not info.multilingual:
            self._options = msgspec.structs.replace(self._options, language=info.languages[0])

    async def transcribe(self, decoders: DecoderPool) -> Transcript:
        """Do it, until the audio_buffer is finished. Raises `WhisperdError`."""
        self._dispatcher.add_job(self._job.id, "interactive")
        try:
            async with follow(decoders) as listening, open_task_group() as tasks:
                self._publish(begin(self._job, self._options.language, None))
                while pcm := await self._audio_buffer.take(FEED_BYTES):
                    heard = await listening.feed(pcm, partials=self._may_guess)
                    self._job.done_s = heard.position
                    await self._take(heard.utterances, tasks)
                heard = await listening.end()
                await self._take(heard.utterances, tasks)
                if self._hypothesis is not None:
                    self._hypothesis.scope.cancel()
        finally:
            self._dispatcher.remove_job(self._job.id)
        elapsed_s = max(time.monotonic() - self._began_s, 1e-6)
        duration_s = round(heard.position, 3)
        return self._builder.finish(self._options.language, duration_s, duration_s, elapsed_s)

    @property
    def _may_guess(self) -> bool:
        """Whether a hypothesis is worth having: one at a time."""
        return not self._is_guessing and self._has_room

    @property
    def _may_hear_all(self) -> bool:
        """Whether what is probably over may be heard before it is: then our own guess gives way."""
        return self._has_room or (self._is_guessing and not self._pending)

    @property
    def _is_guessing(self) -> bool:
        return self._hypothesis is not None and not self._hypothesis.is_done.is_set()

    @property
    def _has_room(self) -> bool:
        """Whether a hypothesis is in nobody's way: final texts go first, and so does all that waits."""
        return not self._pending and self._dispatcher.has_room

    async def _take(self, utterances: tuple[Utterance, ...], tasks: TaskGroup) -> None:
        for utterance in utterances:
            if utterance.is_final:
                early = self._take_hypothesis(utterance)
                self._agreement, shown, self._shown = Agreement(), self._shown, None
                self._pending[self._finals] = utterance.end - utterance.start
                tasks.start_soon(self._finalise, utterance, self._finals, shown, early)
                self._finals += 1
            elif self._may_guess or (utterance.is_likely_final and self._may_hear_all):
                if self._hypothesis is not None:
                    self._hypothesis.scope.cancel()  # this one says more
                self._hypothesis = _Hypothesis(utterance)
                tasks.start_soon(self._guess, self._hypothesis)
        await self._pending_changed.wait_for(lambda: sum(self._pending.values()) <= HELD_S)

    async def _finalise(
        self, utterance: Utterance, index: int, shown: Utterance | None, early: _Hypothesis | None
    ) -> None:
        if early is None:
            result = await self._dispatch(index, utterance, self._options)
        else:
            result = await early.wait()
        window = WindowAudio(index=index, start=utterance.start, end=utterance.end, pcm=b"")
        if shown is not None and not result.segments:
            self._publish_partial(shown, "", "")
        self._builder.add(window, result)
        if self._options.language is None and not self._job.options.is_language_free:
            self._options = msgspec.structs.replace(self._options, language=self._builder.vote.decided)
        self._job.language = self._options.language or self._builder.vote.leading
        del self._pending[index]
        self._pending_changed.set()

    async def _guess(self, hypothesis: _Hypothesis) -> None:
        """Hear what there is of an utterance: in the quickest way, unless that is probably all of it."""
        self._hypotheses += 1
        utterance, options = hypothesis.utterance, self._options
        if not utterance.is_likely_final:
            options = msgspec.structs.replace(
                options, beam_size=1, temperatures=options.temperatures[:1], word_times=False
            )
        with hypothesis.scope:
            hypothesis.result = await self._dispatch(-self._hypotheses, utterance, options)
        hypothesis.is_done.set()
        if hypothesis is not self._hypothesis or hypothesis.result is None:
            return  # its utterance was over before we got to hear of it
        self._agreement.add(join_texts(segment.text for segment in hypothesis.result.segments))
        agreed, tentative = self._agreement.agreed, self._agreement.tentative
        if agreed or tentative or self._shown is not None:
            self._publish_partial(utterance, agreed, tentative)
            self._shown = utterance

    def _take_hypothesis(self, utterance: Utterance) -> _Hypothesis | None:
        """The hypothesis on an utterance that is over now, if it was on all of it; any other is given up."""
        hypothesis, self._hypothesis = self._hypothesis, None
        if hypothesis is not None and hypothesis.is_of_all(utterance):
            return hypothesis
        if hypothesis is not None:
            hypothesis.scope.cancel()
        return None

    async def _dispatch(self, index: int, utterance: Utterance, options: DecodeOptions) -> WindowResult:
        (result,) = await self._dispatcher.transcribe(
            Parcel(
                job=self._job.id,
                indexes=(index,),
                windows=(EngineWindow(pcm=utterance.pcm),),
                options=options,
            )
        )
        return result

    def _publish_partial(self, utterance: Utterance, agreed: str, tentative: str) -> None:
        self._publish(
            TranscriptionPartial(
                id=self._job.id,
                start=round(utterance.start, 3),
                end=round(utterance.end, 3),
                agreed=agreed,
                tentative=tentative,
            )
        )


def check_live_options(options: JobOptions) -> JobOptions:
    """The options of a live job, which is always `interactive`. Raises `live.invalid_option`."""
    for name, value, why in (
        ("clip", options.clip, "its length is not known in advance"),
        ("channels", options.channels != "mix", "it has only one channel"),
        ("track", options.track, "it has only one track"),
        ("vad", not options.vad, "voice activity detection finds the ends of its utterances"),
    ):
        if value:
            raise WhisperdError(
                "live.invalid_option",
                f"Live speech does not support the option {name}: {why}.",
                "Remove it from the request, or from the profile in use.",
                {"option": name},
            )
    return msgspec.structs.replace(options, priority="interactive")
