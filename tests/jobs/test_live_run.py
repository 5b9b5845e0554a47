"""The run of a live job, with fakes for the decoder process and the engine."""

from __future__ import annotations

import signal
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest

from job_fakes import FakeRuntime, an_error
from whisperd.audio import DecoderPool, Heard, Utterance
from whisperd.jobs.audio_buffer import AudioBuffer
from whisperd.jobs.dispatcher import Dispatcher
from whisperd.jobs.job import Job, JobInput
from whisperd.jobs.live import FEED_BYTES, HELD_S, LiveRun, check_live_options
from whisperd.jobs.options import JobOptions
from whisperd.jobs.segments import Transcript
from whisperd.jobs.vote import LanguageVote
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import Event, TranscriptionPartial, TranscriptionSegment
from whisperd.runtimes.loaded import LoadedRuntime
from whisperd.tasks import open_task_group
from whisperd.worker.process import Unwanted
from whisperd.worker.protocol import SAMPLE_RATE, BatchParams, EngineSegment, WindowResult
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio


def said(start: float, end: float, is_final: bool = True, *, is_likely_final: bool = False) -> Utterance:
    pcm = bytes(2 * round((end - start) * SAMPLE_RATE))
    return Utterance(start=start, end=end, is_final=is_final, is_likely_final=is_likely_final, pcm=pcm)


def killed(how: signal.Signals = signal.SIGKILL) -> WhisperdError:
    """Return the error of a decoder that was killed by a signal."""
    return WhisperdError("decoder.crashed", "It broke.", "Fix it.", {"status": -how})


class Listener:
    """Returns the utterances that the test chose, whatever is fed. A fake `DecoderPool` and `Listening`."""

    def __init__(self, last: Sequence[Utterance] = ()) -> None:
        self.last = tuple(last)
        self.next: tuple[Utterance, ...] = ()
        self.each: Callable[[int], tuple[Utterance, ...]] = lambda _: ()
        """Utterances that the n-th feed returns in addition."""
        self.fed = 0
        self.asked_for_partials: list[bool] = []
        self.open = self.begun = 0
        self.heard_bytes: list[int] = []
        self.error: WhisperdError | None = None
        """Raised by each feed."""
        self.deaths: list[WhisperdError] = []
        """Each is raised once, by the next feeds."""
        self.deaths_as_it_begins: list[WhisperdError] = []
        self.deaths_at_the_end: list[WhisperdError] = []

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        self.open += 1
        self.begun += 1
        try:
            if self.deaths_as_it_begins:
                raise self.deaths_as_it_begins.pop(0)
            yield self
        finally:
            self.open -= 1

    async def feed(self, pcm: bytes, *, partials: bool) -> Heard:
        self.heard_bytes.append(len(pcm))
        if self.deaths:
            raise self.deaths.pop(0)
        if self.error is not None:
            raise self.error
        self.asked_for_partials.append(partials)
        heard, self.next = (*self.next, *self.each(self.fed)), ()
        self.fed += 1
        return Heard(position=float(self.fed), utterances=heard)

    async def end(self) -> Heard:
        if self.deaths_at_the_end:
            raise self.deaths_at_the_end.pop(0)
        return Heard(position=float(self.fed), utterances=self.last)


class Talkative(FakeRuntime):
    """An engine whose text for a window is chosen by its length; by default, the text is the length."""

    def __init__(self, says: dict[float, str | None] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.says = says or {}
        self.language = "de"
        self.asked: list[tuple[str | None, int, tuple[float, ...], float]] = []

    async def transcribe(
        self, batch: BatchParams, unwanted: Unwanted | None = None, *, is_retry: bool = False
    ) -> list[WindowResult]:
        options = batch.options
        for window in batch.windows:
            asked = (options.language, options.beam_size, options.temperatures, window.duration_s)
            self.asked.append(asked)
        results = await super().transcribe(batch, unwanted, is_retry=is_retry)
        return [
            self._result(window.duration_s, result)
            for window, result in zip(batch.windows, results, strict=True)
        ]

    def _result(self, duration_s: float, result: WindowResult) -> WindowResult:
        text = self.says.get(duration_s, f"{duration_s:g}")
        segments: tuple[EngineSegment, ...] = ()
        if text is not None:
            segments = (
                EngineSegment(
                    start=0.0,
                    end=duration_s,
                    text=f" {text}",
                    tokens=(),
                    temperature=0.0,
                    avg_logprob=0.0,
                    compression_ratio=1.0,
                    no_speech_prob=0.0,
                ),
            )
        language, probability = (
            (result.language, result.language_probability)
            if duration_s in self.spoken
            else (self.language, 0.9)
        )
        return WindowResult(language=language, language_probability=probability, segments=segments)


class Stage:
    """A live run, advanced step by step."""

    def __init__(
        self, runtime: Talkative | None = None, last: Sequence[Utterance] = (), **options: Any
    ) -> None:
        self.runtime = runtime or Talkative()
        self.listener = Listener(last)
        self.audio_buffer = AudioBuffer()
        self.events: list[Event] = []
        self.job = Job(
            id="a",
            path="",
            input=JobInput(stream=True),
            options=JobOptions(**{"language": "en", **options}),
            runtime="toy",
        )
        self.transcript: Transcript | None = None
        self.error: WhisperdError | None = None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        async with open_task_group() as tasks:
            dispatcher = Dispatcher(cast(LoadedRuntime, self.runtime))
            tasks.start_soon(dispatcher.run)
            done = anyio.Event()

            async def transcribe() -> None:
                options = self.job.options.decode_options(5)
                run = LiveRun(self.job, self.audio_buffer, dispatcher, options, self.events.append)
                try:
                    self.transcript = await run.transcribe(cast(DecoderPool, self.listener))
                except WhisperdError as error:
                    self.error = error
                assert self.listener.open == 0, "a decoder is left behind"
                assert dispatcher._scheduler._jobs == {}, "the scheduler still knows the job"
                done.set()

            tasks.start_soon(transcribe)
            await anyio.wait_all_tasks_blocked()
            yield
            await self.audio_buffer.finish()
            with anyio.fail_after(LIMIT_S):
                await done.wait()
            tasks.cancel_scope.cancel()

    async def hear(self, *utterances: Utterance, pcm: bytes = b"\0\0") -> None:
        """Push audio that yields these utterances, and wait until everything is blocked."""
        self.listener.next = utterances
        await self.audio_buffer.push(pcm)
        await anyio.wait_all_tasks_blocked()

    def partials(self) -> list[tuple[str, str]]:
        return [(one.agreed, one.tentative) for one in self.events if isinstance(one, TranscriptionPartial)]

    def told(self) -> list[str]:
        """Return the published texts in order, hypotheses with a leading `?`."""
        shown = []
        for event in self.events:
            match event:
                case TranscriptionPartial():
                    shown.append(f"?{event.agreed}|{event.tentative}")
                case TranscriptionSegment():
                    shown.append(event.text)
        return shown


async def test_text_is_revised_until_its_utterance_ends() -> None:
    runtime = Talkative({1.0: "ask", 2.0: "ask knot", 3.0: "ask not what", 4.0: "Ask not what."})
    stage = Stage(runtime)
    async with stage.run():
        for end in (2.0, 3.0, 4.0):
            await stage.hear(said(1.0, end, False))
        await stage.hear(said(1.0, 5.0))
        await stage.hear(said(6.0, 8.0, False))
    assert stage.told() == ["?|ask", "?ask|knot", "?ask|not what", "Ask not what.", "?|ask knot"]
    assert stage.transcript is not None
    assert (stage.transcript.text, stage.transcript.duration) == ("Ask not what.", 5.0)
    (segment,) = stage.transcript.segments
    assert (segment.start, segment.end) == (1.0, 5.0)


async def test_the_end_makes_an_open_utterance_final() -> None:
    stage = Stage(last=[said(2.0, 5.0)])
    async with stage.run():
        await stage.hear(said(2.0, 4.0, False))
    assert stage.told() == ["?|2", "3"]


async def test_hypotheses_are_decoded_greedily_and_finals_with_beam_search() -> None:
    stage = Stage()
    async with stage.run():
        await stage.hear(said(0.0, 2.0, False))
        await stage.hear(said(0.0, 3.0))
    assert stage.runtime.asked == [("en", 1, (0.0,), 2.0), ("en", 5, (0.0, 0.4), 3.0)]


async def test_requested_temperatures_are_used() -> None:
    stage = Stage(temperature=(0.2, 0.6, 1.0))
    async with stage.run():
        await stage.hear(said(0.0, 3.0))
    assert stage.runtime.asked == [("en", 5, (0.2, 0.6, 1.0), 3.0)]


async def test_a_busy_engine_skips_hypotheses_instead_of_queueing_them() -> None:
    stage = Stage(Talkative(replicas=1))
    stage.runtime.may_compute = anyio.Event()
    async with stage.run():
        await stage.hear(said(0.0, 2.0, False))
        for end in (3.0, 4.0, 5.0):
            await stage.hear(said(0.0, end, False))
        assert [length for *_, length in stage.runtime.asked] == [2.0]
        stage.runtime.may_compute.set()
        await anyio.wait_all_tasks_blocked()
        await stage.hear(said(0.0, 6.0, False))
    assert stage.listener.asked_for_partials == [True, False, False, False, True]
    assert stage.told() == ["?|2", "?|6"]


async def test_a_final_text_discards_a_pending_hypothesis() -> None:
    stage = Stage(Talkative(replicas=2))
    stage.runtime.may_compute = anyio.Event()
    async with stage.run():
        await stage.hear(said(0.0, 2.0, False))
        await stage.hear(said(0.0, 3.0))
        stage.runtime.may_compute.set()
        await anyio.wait_all_tasks_blocked()
    assert stage.told() == ["3"]


async def test_final_texts_arrive_in_order_and_before_new_hypotheses() -> None:
    stage = Stage(Talkative(replicas=2, batch_size=1))
    stage.runtime.may_compute = anyio.Event()
    async with stage.run():
        await stage.hear(said(0.0, 3.0))
        await stage.hear(said(4.0, 6.0), said(7.0, 8.0, False))
        stage.runtime.may_compute.set()
        await anyio.wait_all_tasks_blocked()
    assert stage.told() == ["3", "2"]


@pytest.mark.parametrize("is_slow", [True, False])
async def test_a_hypothesis_from_a_pause_becomes_final_if_the_utterance_ended_there(is_slow: bool) -> None:
    stage = Stage()
    stage.runtime.may_compute = anyio.Event()
    async with stage.run():
        await stage.hear(said(0.0, 3.0, False, is_likely_final=True))
        if not is_slow:
            stage.runtime.may_compute.set()
            await anyio.wait_all_tasks_blocked()
        await stage.hear(said(0.0, 3.0))
        stage.runtime.may_compute.set()
        await anyio.wait_all_tasks_blocked()
    assert stage.told() == (["3"] if is_slow else ["?|3", "3"])
    assert stage.runtime.asked == [("en", 5, (0.0, 0.4), 3.0)], "decoded once, with beam search"


async def test_an_utterance_that_continues_after_a_pause_is_decoded_again() -> None:
    stage = Stage()
    async with stage.run():
        await stage.hear(said(0.0, 3.0, False, is_likely_final=True))
        await stage.hear(said(0.0, 4.0, False))
        await stage.hear(said(0.0, 5.0, False, is_likely_final=True))
        await stage.hear(said(0.0, 6.0))
    assert stage.told() == ["?|3", "?|4", "?|5", "6"]


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_pause_discards_a_pending_quick_hypothesis(replicas: int) -> None:
    stage = Stage(Talkative(replicas=replicas))
    stage.runtime.may_compute = anyio.Event()
    async with stage.run():
        await stage.hear(said(0.0, 2.0, False))
        await stage.hear(said(0.0, 3.0, False, is_likely_final=True))
        await stage.hear(said(0.0, 3.0))
        stage.runtime.may_compute.set()
        await anyio.wait_all_tasks_blocked()
    assert [length for *_, length in stage.runtime.asked] == [2.0, 3.0]
    assert stage.told() == ["3"]


async def test_noise_yields_no_text() -> None:
    stage = Stage(Talkative({2.0: None, 3.0: None}))
    async with stage.run():
        await stage.hear(said(0.0, 2.0, False))
        await stage.hear(said(0.0, 3.0))
    assert stage.told() == []
    assert stage.transcript is not None and stage.transcript.text == ""


async def test_a_hypothesis_without_a_final_text_is_withdrawn() -> None:
    stage = Stage(Talkative({2.0: "Thank you.", 3.0: None}))
    async with stage.run():
        await stage.hear(said(0.0, 2.0, False))
        await stage.hear(said(0.0, 3.0))
    assert stage.told() == ["?|Thank you.", "?|"]


async def test_with_auto_each_utterance_has_its_own_language() -> None:
    stage = Stage(language="auto")
    async with stage.run():
        for start in range(0, 20, 4):
            await stage.hear(said(start, start + 3.0))
    assert {language for language, *_ in stage.runtime.asked} == {None}


@pytest.mark.parametrize("language", ["auto", None])
async def test_an_uncertain_utterance_is_in_the_language_of_those_that_were_certain(
    language: str | None,
) -> None:
    stage = Stage(language=language)
    stage.runtime.spoken = {1.0: ("cy", 0.4), 3.0: ("de", 0.9), 1.5: ("he", 0.5)}
    async with stage.run():
        for start, length in ((0.0, 1.0), (4.0, 3.0), (8.0, 1.5)):
            await stage.hear(said(start, start + length))
    assert stage.transcript is not None
    assert [segment.language for segment in stage.transcript.segments] == ["cy", "de", "de"]


async def test_the_first_utterances_choose_the_language() -> None:
    stage = Stage(language=None)
    async with stage.run():
        for start in range(0, 20, 4):
            await stage.hear(said(start, start + 3.0))
    assert [language for language, *_ in stage.runtime.asked] == [None, None, None, "de", "de"]
    assert stage.transcript is not None and stage.transcript.language == "de"


async def test_a_few_single_words_do_not_choose_the_language() -> None:
    stage = Stage(language=None)
    stage.runtime.language = "tr"
    async with stage.run():
        for start in range(3):
            await stage.hear(said(start, start + 0.5))
        stage.runtime.language = "de"
        for start in range(4, 20, 5):
            await stage.hear(said(start, start + 4.0))
    assert [language for language, *_ in stage.runtime.asked] == [None] * 5 + ["de"] * 2
    assert stage.transcript is not None and stage.transcript.language == "de"


async def test_a_given_language_is_used() -> None:
    stage = Stage(language="en")
    async with stage.run():
        await stage.hear(said(0, 9.0))
    assert stage.transcript is not None and stage.transcript.language == "en"


async def test_a_slow_engine_blocks_the_sender_and_loses_nothing() -> None:
    stage = Stage()
    stage.runtime.may_compute = anyio.Event()
    stage.listener.each = lambda number: (said(number * 10, number * 10 + 9.0),)
    pushed = 0

    async def speak() -> None:
        nonlocal pushed
        for _ in range(40):
            await stage.audio_buffer.push(bytes(FEED_BYTES))
            pushed += 1

    async with stage.run():
        async with open_task_group() as tasks:
            tasks.start_soon(speak)
            await anyio.wait_all_tasks_blocked()
            assert HELD_S < stage.listener.fed * 9.0 <= HELD_S + 9.0
            assert pushed < 40
            stage.runtime.may_compute.set()
        await anyio.wait_all_tasks_blocked()
    assert stage.transcript is not None
    assert len(stage.transcript.segments) == 40


async def test_an_hour_of_audio_leaves_only_its_text_in_memory() -> None:
    stage = Stage()
    stage.listener.each = lambda number: (
        said(number * 4, number * 4 + 3.0),
        said(number * 4 + 3.5, number * 4 + 4.0, False),
    )
    async with stage.run():
        tracemalloc.start()
        for _ in range(900):
            await stage.audio_buffer.push(bytes(FEED_BYTES))
        await stage.audio_buffer.finish()
        await anyio.wait_all_tasks_blocked()
        _, most_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert stage.transcript is not None
    assert len(stage.transcript.segments) == 900
    assert most_bytes < 12_000_000, "the audio alone is 86 MB"


@pytest.mark.parametrize("is_final", [True, False])
async def test_an_engine_error_ends_the_run(is_final: bool) -> None:
    stage = Stage()
    stage.runtime.errors[3.0] = an_error("engine.problem")
    async with stage.run():
        await stage.hear(said(0.0, 3.0, is_final))
    assert stage.error is not None and stage.error.code == "engine.problem"


async def test_a_decoder_error_ends_the_run() -> None:
    stage = Stage()
    async with stage.run():
        stage.listener.error = an_error("decoder.crashed")
        await stage.hear()
    assert stage.error is not None and stage.error.code == "decoder.crashed"


async def test_a_killed_decoder_is_replaced() -> None:
    """The next decoder gets the audio of unfinished utterances, and its times continue from there."""
    stage = Stage(last=[said(2.0, 3.0)])
    async with stage.run():
        await stage.hear(said(0.0, 0.5), pcm=bytes(FEED_BYTES))
        await stage.hear(pcm=bytes(FEED_BYTES))
        stage.listener.deaths, stage.listener.fed = [killed()], 0  # the next decoder counts from zero
        await stage.hear(said(0.5, 1.0), pcm=bytes(FEED_BYTES))
    assert stage.error is None and stage.transcript is not None
    heard = [FEED_BYTES, FEED_BYTES, FEED_BYTES, 3 * FEED_BYTES - FEED_BYTES // 2]
    assert stage.listener.heard_bytes == heard, "audio of finished utterances was fed again"
    assert [(one.start, one.end) for one in stage.transcript.segments] == [(0.0, 0.5), (1.0, 1.5), (2.5, 3.5)]
    assert stage.listener.begun == 2 and stage.listener.open == 0


@pytest.mark.parametrize("error", [killed(), an_error("decoder.stuck")], ids=str)
async def test_decoders_may_be_killed_repeatedly_while_each_makes_progress(error: WhisperdError) -> None:
    stage = Stage()
    async with stage.run():
        for _ in range(9):
            stage.listener.deaths = [error.copy(), error.copy()]
            await stage.hear()
    assert stage.error is None
    assert stage.listener.begun == 19 and stage.listener.open == 0


async def test_three_decoders_killed_without_progress_end_the_run() -> None:
    stage = Stage()
    async with stage.run():
        stage.listener.deaths = [killed(), killed(), killed(signal.SIGTERM)]
        await stage.hear()
    assert stage.error is not None and stage.error.data == {"status": -signal.SIGTERM}
    assert stage.listener.begun == 3 and stage.listener.open == 0


async def test_a_decoder_killed_at_its_start_is_replaced() -> None:
    stage = Stage()
    stage.listener.deaths_as_it_begins = [killed()]
    async with stage.run():
        await stage.hear(said(0.0, 0.5))
        stage.listener.deaths, stage.listener.deaths_as_it_begins = [killed()], [killed()]
        await stage.hear(said(0.5, 1.0))
    assert stage.error is None and stage.transcript is not None
    assert len(stage.transcript.segments) == 2
    assert stage.listener.begun == 4 and stage.listener.open == 0


async def test_finished_utterances_survive_decoders_killed_at_the_end() -> None:
    """Audio that a decoder reported as finished is not fed to the next one."""
    stage = Stage(last=[said(0.5, 1.0)])
    async with stage.run():
        await stage.hear()
        stage.listener.deaths_at_the_end = [killed(), killed()]
        stage.listener.next = ()
        stage.listener.each = lambda number: (said(0.0, 0.25),) if number == 1 else ()
    assert stage.transcript is not None
    assert [(one.start, one.end) for one in stage.transcript.segments] == [(0.0, 0.25), (0.75, 1.25)]


async def test_a_decoder_killed_at_the_end_loses_no_words() -> None:
    stage = Stage(last=[said(0.5, 1.0)])
    async with stage.run():
        await stage.hear()
        stage.listener.deaths_at_the_end = [killed()]
    assert stage.transcript is not None and stage.transcript.text == "0.5"
    assert stage.listener.heard_bytes == [2, 2]


def test_a_short_utterance_does_not_outvote_a_long_one() -> None:
    vote = LanguageVote()
    assert (vote.leading, vote.decided) == (None, None)
    vote.add("cy", 0.4, 0.5)
    assert (vote.leading, vote.decided) == ("cy", None)
    vote.add("de", 0.9, 4.0)
    vote.add("cy", 0.4, 0.5)
    assert (vote.leading, vote.decided) == ("de", None)
    vote.add("de", 0.9, 3.0)
    assert (vote.leading, vote.decided) == ("de", "de")


def test_one_long_utterance_decides_the_language() -> None:
    vote = LanguageVote()
    vote.add("fr", 0.9, 9.0)
    assert vote.decided == "fr"


@pytest.mark.parametrize("option", [{"clip": "0:30-"}, {"channels": "split"}, {"vad": False}])
def test_options_that_live_jobs_refuse(option: dict[str, Any]) -> None:
    with pytest.raises(WhisperdError) as raised:
        check_live_options(JobOptions(**option))
    assert raised.value.code == "live.invalid_option"
    assert raised.value.data["option"] in option


def test_live_jobs_are_always_interactive() -> None:
    assert check_live_options(JobOptions(priority="bulk")).priority == "interactive"
