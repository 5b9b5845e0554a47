"""The run of a live job, from incoming audio to text.

Audio arrives in an `AudioBuffer`, a decoder process cuts it into utterances, and the engine transcribes each
one as a whole once it ends. That text is final. While an utterance continues, the audio so far is transcribed
from time to time, with fast settings and only if the engine has nothing better to do: a late hypothesis is
worthless, and a final text never waits for more than one of them.
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
from whisperd.jobs.vote import LanguageVote, is_unsure
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import Event, TranscriptionPartial
from whisperd.tasks import RepeatedEvent, open_task_group
from whisperd.worker.protocol import DecodeOptions, EngineWindow, WindowResult

__all__ = ["LiveRun", "check_live_options"]

FEED_BYTES: Final = 2 * SAMPLE_RATE
"""Audio sent to the decoder process at once: a second, if that much has arrived."""
HELD_S: Final = 40.0
"""Limit of speech waiting for the engine, in seconds. Beyond it, no more audio is taken and pushes wait."""

TEMPERATURES: Final = (0.0, 0.4)
"""Default temperatures: fewer than for files, because a person is waiting."""


class _Hypothesis:
    """An unfinished utterance, and the engine's result for it."""

    def __init__(self, utterance: Utterance) -> None:
        self.utterance = utterance
        self.scope = anyio.CancelScope()
        self.is_done = anyio.Event()
        self.result: WindowResult | None = None

    def covers(self, utterance: Utterance) -> bool:
        """Whether its result can serve as the final one: same audio, same thorough settings."""
        ours = self.utterance
        is_same = (ours.start, ours.end) == (utterance.start, utterance.end)
        return ours.is_likely_final and is_same

    async def wait(self) -> WindowResult:
        """Wait for the result of a hypothesis that will not be cancelled."""
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
        self._sure = LanguageVote()  # of the utterances whose language is certain
        self._finals = 0  # finished utterances
        self._pending: dict[int, float] = {}  # their lengths in seconds, while the engine has not answered
        self._pending_changed = RepeatedEvent()
        self._hypothesis: _Hypothesis | None = None  # the last one of the open utterance
        self._hypotheses = 0
        self._agreement = Agreement()  # of the open utterance
        self._shown: Utterance | None = None  # the subject of the last partial event
        if job.options.temperature is None:
            self._options = msgspec.structs.replace(options, temperatures=TEMPERATURES)
        info = dispatcher.runtime.info
        if not info.multilingual:
            self._options = msgspec.structs.replace(self._options, language=info.languages[0])

    async def transcribe(self, decoders: DecoderPool) -> Transcript:
        """Transcribe until the client finishes the audio. Raises `WhisperdError`."""
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
        """Whether to compute a hypothesis now: only one at a time."""
        return not self._is_guessing and self._has_room

    @property
    def _may_transcribe_all(self) -> bool:
        """Whether to transcribe a probably finished utterance now; a running hypothesis then gives way."""
        return self._has_room or (self._is_guessing and not self._pending)

    @property
    def _is_guessing(self) -> bool:
        return self._hypothesis is not None and not self._hypothesis.is_done.is_set()

    @property
    def _has_room(self) -> bool:
        """Whether a hypothesis delays nothing: final texts go first, and so do all waiting windows."""
        return not self._pending and self._dispatcher.has_room

    async def _take(self, utterances: tuple[Utterance, ...], tasks: TaskGroup) -> None:
        for utterance in utterances:
            if utterance.is_final:
                early = self._take_hypothesis(utterance)
                self._agreement, shown, self._shown = Agreement(), self._shown, None
                self._pending[self._finals] = utterance.end - utterance.start
                tasks.start_soon(self._finalise, utterance, self._finals, shown, early)
                self._finals += 1
            elif self._may_guess or (utterance.is_likely_final and self._may_transcribe_all):
                if self._hypothesis is not None:
                    self._hypothesis.scope.cancel()  # the new one covers more audio
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
        if is_unsure(result):
            if self._sure.leading not in (None, result.language):
                options = msgspec.structs.replace(self._options, language=self._sure.leading)
                result = await self._dispatch(index, utterance, options)
        elif result.segments:
            self._sure.add(result.language, result.language_probability, utterance.end - utterance.start)
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
        """Transcribe the audio of an utterance so far: with fast settings, unless it is probably complete."""
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
            return  # the utterance ended meanwhile
        self._agreement.add(join_texts(segment.text for segment in hypothesis.result.segments))
        agreed, tentative = self._agreement.agreed, self._agreement.tentative
        if agreed or tentative or self._shown is not None:
            self._publish_partial(utterance, agreed, tentative)
            self._shown = utterance

    def _take_hypothesis(self, utterance: Utterance) -> _Hypothesis | None:
        """Return the hypothesis of the utterance that just ended if it covers all of it; cancel any other."""
        hypothesis, self._hypothesis = self._hypothesis, None
        if hypothesis is not None and hypothesis.covers(utterance):
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
    """Return the options of a live job, which is always `interactive`. Raises `live.invalid_option`."""
    for name, value, why in (
        ("clip", options.clip, "its length is not known in advance"),
        ("channels", options.channels != "mix", "it has only one channel"),
        ("track", options.track, "it has only one track"),
        ("vad", not options.vad, "it needs voice activity detection to find the ends of utterances"),
    ):
        if value:
            raise WhisperdError(
                "live.invalid_option",
                f"Live speech does not support the option {name}: {why}.",
                "Remove it from the request, or from the profile in use.",
                {"option": name},
            )
    return msgspec.structs.replace(options, priority="interactive")
