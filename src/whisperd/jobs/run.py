"""The run of one job from file to text: decoder, windows, dispatcher, stitching."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count

import anyio
import msgspec
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from whisperd.audio import (
    MAX_KILLED,
    MAX_WINDOW_S,
    Decoded,
    DecodeParams,
    DecoderPool,
    Found,
    Opened,
    SpeechSample,
    WindowAudio,
    elapsed_within,
    merge_found,
    was_killed,
)
from whisperd.jobs.batching import Parcel
from whisperd.jobs.dispatcher import Dispatcher
from whisperd.jobs.job import Job
from whisperd.jobs.journal import FinishedWindow
from whisperd.jobs.keeper import JobKeeper, SavedProgress
from whisperd.jobs.lifecycle import begin
from whisperd.jobs.segments import Transcript
from whisperd.jobs.transcript_builder import TranscriptBuilder
from whisperd.jobs.vote import LanguageVote, is_unsure
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import Event, TranscriptionProgress
from whisperd.tasks import open_task_group
from whisperd.worker.protocol import DecodeOptions, EngineWindow, WindowResult

__all__ = ["JobRun", "WindowsChanged"]

log = logging.getLogger(__name__)

HELD_S = 120.0
"""Limit of decoded audio of a job that waits here, in seconds. Without room for another window the decoder is
not read, so it pauses. Windows being computed do not count, or batches would not be full."""
VOTING_SAMPLES = 5
"""Pieces of speech, spread over a file, that vote on its language: its beginning may be an advert."""
VOTING_WINDOWS = 3
"""Windows that vote if there are no samples, because the file is short or not seekable."""
FREE_WINDOW_S = 15.0
"""Longest window if the language may change from one window to the next."""
FREE_SAMPLES_FROM_S = 14.0
"""Length of a recording from which on it is then sampled: a shorter one is hardly more than one window."""


class WindowsChanged(Exception):
    """The recording is cut into other windows than the finished ones, so its content has changed."""


class JobRun:
    """The run of one job on a leased runtime."""

    def __init__(
        self,
        job: Job,
        dispatcher: Dispatcher,
        options: DecodeOptions,
        publish: Callable[[Event], None],
        keeper: JobKeeper,
        progress: SavedProgress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`progress` is that of earlier runs: their finished windows are not computed again."""
        self._job = job
        self._dispatcher = dispatcher
        self._options = options
        self._clips = job.options.clips
        self._publish = publish
        self._clock = clock
        self._keeper = keeper
        self._progress = progress
        self._finished = dict(progress.windows)
        # Earlier runs count towards the elapsed time.
        self._began_s = clock() - max((window.elapsed_s for window in self._finished.values()), default=0.0)
        self._builder = TranscriptBuilder(job, publish)
        self._received: list[WindowAudio] = []  # windows received from a decoder, without samples
        self._found: list[Found] = []
        self._samples: list[SpeechSample] = []
        self._voting: list[WindowAudio] = []
        self._overlapping: set[int] = set()  # windows that share audio with another one
        # per channel, whether the last window shares audio with the next
        self._goes_on: dict[int | None, bool] = {}
        self._usual_language: str | None = None
        self._samples_vote = anyio.Lock()
        info = dispatcher.runtime.info
        self._is_free = info.multilingual and job.options.is_language_free
        if not info.multilingual:
            self._options = msgspec.structs.replace(options, language=info.languages[0])
        elif self._options.language is None and self._finished and not self._is_free:
            # The vote took place in an earlier run, and all windows have the language that won.
            first = self._finished[min(self._finished)]
            self._options = msgspec.structs.replace(options, language=first.language)

    async def transcribe(
        self,
        decoders: DecoderPool,
        params: DecodeParams,
        on_decoded: Callable[[], None] = lambda: None,
    ) -> Transcript:
        """Transcribe the file; calls `on_decoded` when the next file may be decoded.

        Raises `WhisperdError`, and `WindowsChanged` if the finished windows do not fit.
        """
        done_until_s = _done_until_s(self._finished)
        params = msgspec.structs.replace(params, found=self._progress.found, done_until=done_until_s)
        if self._options.language is None:
            params = msgspec.structs.replace(params, samples=VOTING_SAMPLES)
        if self._is_free:
            longest_s = min(params.max_window_s, FREE_WINDOW_S)
            params = msgspec.structs.replace(
                params, max_window_s=longest_s, samples_from_s=FREE_SAMPLES_FROM_S
            )
        self._dispatcher.add_job(self._job.id, self._job.options.priority, self._progress.past)
        try:
            async with open_task_group() as tasks:
                decoded = await self._decode(decoders, params, tasks)
                tasks.start_soon(self._keeper.check_unchanged, self._job)
                tasks.start_soon(self._vote)
                await checkpoint()  # now all decoded windows are queued
                self._dispatcher.complete(self._job.id)
                await self._until_more_is_needed()
                on_decoded()
        finally:
            self._dispatcher.remove_job(self._job.id)
        elapsed_s = max(self._clock() - self._began_s, 1e-6)
        total_s = self._total_s(decoded.duration) or 0.0
        transcript = self._builder.finish(self._options.language, decoded.duration, total_s, elapsed_s)
        return msgspec.structs.replace(transcript, skipped=decoded.skipped)

    async def _decode(self, decoders: DecoderPool, params: DecodeParams, tasks: TaskGroup) -> Decoded:
        """Decode the file; if its process is killed from outside, another one continues."""
        asked, in_vain = params, 0
        killed: WhisperdError | None = None
        while True:
            reached = self._reached
            try:
                return await self._follow(decoders, asked, tasks)
            except WindowsChanged as error:  # published segments cannot be withdrawn
                raise killed or error from None
            except WhisperdError as error:
                in_vain = 1 if self._reached > reached else in_vain + 1
                if in_vain == MAX_KILLED or not was_killed(error):
                    raise
                killed = error
            log.warning("job %s: its decoder was killed; another one continues", self._job.id)
            asked = self._rest_of(params)

    @property
    def _reached(self) -> tuple[int, int]:
        """How far the decoders got: windows, and samples searched for speech."""
        listened = {(found.part, found.channel): found.position for found in self._found}
        return len(self._received), sum(listened.values())

    def _rest_of(self, params: DecodeParams) -> DecodeParams:
        """Return the parameters for another decoder, which skip everything already known."""
        params = msgspec.structs.replace(params, found=merge_found([*params.found, *self._found]))
        if not self._received:
            self._samples.clear()  # they will all be sent again
            return params
        done_until = max(params.done_until, self._received[-1].start)
        return msgspec.structs.replace(params, samples=0, done_until=done_until)

    async def _follow(self, decoders: DecoderPool, params: DecodeParams, tasks: TaskGroup) -> Decoded:
        is_patient = self._job.options.priority != "interactive"
        async with decoders.decode(params, is_patient=is_patient) as decoding:
            async for event in decoding:
                match event:
                    case Opened():
                        self._opened(event)
                    case SpeechSample():
                        self._samples.append(event)
                    case WindowAudio() if self._is_new(event):
                        await self._take(event, tasks)
                    case Found():
                        self._found.append(event)
                        self._keeper.save_found(self._job, event)
                    case _:
                        pass  # progress is measured by the engine's results
            assert decoding.result is not None
            return decoding.result

    def _is_new(self, window: WindowAudio) -> bool:
        """Whether no earlier decoder sent this window."""
        if window.index < len(self._received):
            if not _is_same(self._received[window.index], window):
                raise WindowsChanged
            return False
        self._received.append(msgspec.structs.replace(window, pcm=b""))
        return True

    async def _until_more_is_needed(self) -> None:
        """Wait until the engine has begun all of this file, or would soon run out of work."""
        dispatcher, job = self._dispatcher, self._job
        while dispatcher.waiting_s(job.id) and dispatcher.has_enough(job.options.priority):
            await dispatcher.wait_for_batch()

    def _opened(self, event: Opened) -> None:
        self._job.duration_s = self._total_s(event.duration)
        if self._job.started is not None:  # already published for an earlier decoder
            return
        self._publish(begin(self._job, self._options.language, event.duration))

    async def _take(self, window: WindowAudio, tasks: TaskGroup) -> None:
        if window.shared or self._goes_on.get(window.channel):
            self._overlapping.add(window.index)
        self._goes_on[window.channel] = window.shared > 0
        if (finished := self._finished.pop(window.index, None)) is not None and _is_same(finished, window):
            self._add_results((window,), [finished.result])
            return
        if not window.pcm:
            raise WindowsChanged
        if self._samples and not self._is_free:
            await self._vote_by_samples()
        if self._options.language is None and not self._is_free:
            self._voting.append(window)
            if len(self._voting) == min(VOTING_WINDOWS, self._dispatcher.runtime.batch_size):
                await self._vote()
            return
        tasks.start_soon(self._compute, [window])
        await checkpoint()  # now the window is queued
        while self._dispatcher.waiting_s(self._job.id) > HELD_S - MAX_WINDOW_S:
            await self._dispatcher.wait_for_batch()

    async def _vote_by_samples(self) -> None:
        """Detect the language from speech spread over the file; the text of the samples is ignored."""
        samples, self._samples = self._samples, []
        options = DecodeOptions(
            task=self._options.task, languages=self._options.languages, beam_size=1, temperatures=(0.0,)
        )
        vote = LanguageVote()

        async def detect(number: int, window: EngineWindow) -> None:
            (result,) = await self._dispatcher.transcribe(
                Parcel(job=self._job.id, indexes=(-1 - number,), windows=(window,), options=options)
            )
            if result.segments:
                vote.add(result.language, result.language_probability, window.duration_s)

        async with open_task_group() as tasks:
            for number, sample in enumerate(samples):
                tasks.start_soon(detect, number, EngineWindow(pcm=sample.pcm))
        if self._is_free:
            self._usual_language = vote.leading
        else:
            self._options = msgspec.structs.replace(self._options, language=vote.leading)

    async def _vote(self) -> None:
        """Let the first windows vote on the language of the file, and transcribe them in it."""
        if not self._voting:
            return
        windows, self._voting = self._voting, []
        await self._compute(windows)

    async def _compute(self, windows: Sequence[WindowAudio]) -> None:
        results = await self._dispatch(windows)
        if self._is_free:
            if is_unsure(results[0]):
                async with self._samples_vote:
                    if self._samples:
                        await self._vote_by_samples()
                if self._usual_language is not None:
                    results = await self._dispatch(windows, self._usual_language)
        elif self._options.language is None:
            self._options = msgspec.structs.replace(self._options, language=results[0].language)
        self._save_windows(windows, results)
        self._add_results(windows, results)

    async def _dispatch(
        self, windows: Sequence[WindowAudio], language: str | None = None
    ) -> list[WindowResult]:
        options = self._options
        if language is not None:
            options = msgspec.structs.replace(options, language=language)
        if self._overlapping.intersection(window.index for window in windows):
            # Its word times are needed to join it with its neighbour.
            options = msgspec.structs.replace(options, word_times=self._dispatcher.runtime.info.word_times)
        return await self._dispatcher.transcribe(
            Parcel(
                job=self._job.id,
                indexes=tuple(window.index for window in windows),
                windows=tuple(EngineWindow(pcm=window.pcm, spoken=window.spoken) for window in windows),
                options=options,
            )
        )

    def _save_windows(self, windows: Sequence[WindowAudio], results: list[WindowResult]) -> None:
        """Save computed windows, so that they are never computed again."""
        elapsed_s = round(self._clock() - self._began_s, 3)
        self._keeper.save_windows(
            self._job,
            [
                FinishedWindow(
                    index=window.index,
                    start=window.start,
                    end=window.end,
                    channel=window.channel,
                    language=self._options.language,
                    elapsed_s=elapsed_s,
                    result=result,
                )
                for window, result in zip(windows, results, strict=True)
            ],
        )

    def _add_results(self, windows: Sequence[WindowAudio], results: list[WindowResult]) -> None:
        for window, result in zip(windows, results, strict=True):
            self._builder.add(window, result)
        self._job.language = self._options.language or self._builder.vote.leading
        self._job.done_s = elapsed_within(self._clips, self._builder.done_s)
        self._publish(self._progress_event())

    def _total_s(self, duration_s: float | None) -> float | None:
        """Return how much audio there is to transcribe, if known."""
        if self._clips and self._clips[-1].end is not None:
            duration_s = min(self._clips[-1].end, math.inf if duration_s is None else duration_s)
        return None if duration_s is None else elapsed_within(self._clips, duration_s)

    def _progress_event(self) -> TranscriptionProgress:
        elapsed_s = max(self._clock() - self._began_s, 1e-6)
        done_s, total_s = self._job.done_s, self._job.duration_s
        speed = done_s / elapsed_s
        eta_s = round(max(0.0, total_s - done_s) / speed, 1) if total_s and speed else None
        self._job.speed = round(speed, 2)
        return TranscriptionProgress(
            id=self._job.id, done=round(done_s, 2), total=total_s, speed=self._job.speed, eta=eta_s
        )


def _is_same(known: FinishedWindow | WindowAudio, window: WindowAudio) -> bool:
    """Whether this is the same window. The same file is always cut in the same way."""
    return (known.start, known.end, known.channel) == (window.start, window.end, window.channel)


def _done_until_s(finished: Mapping[int, FinishedWindow]) -> float:
    """Return the start of the last window that is finished along with all windows before it."""
    first_missing = next(index for index in count() if index not in finished)
    return finished[first_missing - 1].start if first_missing else 0.0
