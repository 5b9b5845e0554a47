"""The run of one job among fakes: language vote, backpressure, decoder and engine errors, resuming."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from job_fakes import FakeDecoders, FakeKeeper, FakeRuntime, an_error
from whisperd.audio import DecodeParams, DecoderPool
from whisperd.jobs.dispatcher import Dispatcher
from whisperd.jobs.job import Job, JobInput
from whisperd.jobs.journal import FinishedWindow, decode_window
from whisperd.jobs.keeper import JobKeeper, SavedProgress
from whisperd.jobs.lifecycle import conclude
from whisperd.jobs.options import JobOptions
from whisperd.jobs.run import HELD_S, JobRun, WindowsChanged
from whisperd.jobs.segments import Transcript
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import (
    Event,
    JobStarted,
    TranscriptionCompleted,
    TranscriptionProgress,
    TranscriptionSegment,
)
from whisperd.runtimes.loaded import LoadedRuntime
from whisperd.store import Ticket
from whisperd.tasks import open_task_group
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio


LENGTHS = [5.0, 6.0, 7.0, 5.5, 6.5]


class Keeper(FakeKeeper):
    """Records finished windows."""

    def __init__(self) -> None:
        self.finished: list[FinishedWindow] = []

    def save_windows(self, *given: Any) -> Ticket:
        self.finished += given[1]
        return self._keep()


class Stage:
    """A run of a job, and the events it publishes."""

    def __init__(self, decoders: FakeDecoders, runtime: FakeRuntime | None = None, **options: Any) -> None:
        self.decoders = decoders
        self.runtime = runtime or FakeRuntime()
        self.events: list[Event] = []
        self.job = Job(
            id="a",
            path="/a.wav",
            input=JobInput(path="/a.wav"),
            options=JobOptions(language=options.pop("language", "en"), **options),
            runtime="toy",
        )
        self.transcript: Transcript | None = None
        self.clock: Callable[[], float] = time.monotonic
        self.keeper = Keeper()
        self.progress = SavedProgress()

    async def run(self) -> Transcript:
        async with open_task_group() as tasks:
            dispatcher = Dispatcher(cast(LoadedRuntime, self.runtime))
            tasks.start_soon(dispatcher.run)
            options = self.job.options.decode_options(5)
            keeper = cast(JobKeeper, self.keeper)
            run = JobRun(self.job, dispatcher, options, self.events.append, keeper, self.progress, self.clock)
            try:
                pool = cast(DecoderPool, self.decoders)
                self.transcript = await run.transcribe(pool, DecodeParams(path=self.job.path))
            finally:
                assert self.decoders.open == 0, "a decoder is left behind"
                assert dispatcher._scheduler._jobs == {}, "the scheduler still knows the job"
            tasks.cancel_scope.cancel()
        return self.transcript

    @property
    def computed(self) -> int:
        return sum(len(lengths) for _, lengths in self.runtime.batches)

    def segments(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, TranscriptionSegment)]


async def test_a_file_is_transcribed() -> None:
    stage = Stage(FakeDecoders([5.0, 7.0, 6.0]))
    transcript = await stage.run()
    assert transcript.text == "5 7 6"
    assert (transcript.language, transcript.duration, transcript.task) == ("en", 19.0, "transcribe")
    assert [(one.start, one.end) for one in transcript.segments] == [(0.0, 5.0), (5.0, 12.0), (12.0, 18.0)]
    assert isinstance(stage.events[0], JobStarted)
    assert stage.segments() == ["5", "7", "6"]
    last = stage.events[-1]
    assert isinstance(last, TranscriptionProgress)
    assert (last.done, last.total) == (18.0, 19.0)


async def test_progress_estimates_the_remaining_time_on_a_slow_computer() -> None:
    stage = Stage(FakeDecoders([5.0, 7.0, 6.0]), FakeRuntime(batch_size=1))
    times = iter([0.0])
    stage.clock = lambda: next(times, 600.0)
    await stage.run()
    first = next(event for event in stage.events if isinstance(event, TranscriptionProgress))
    assert (first.done, first.total, first.speed) == (5.0, 19.0, 0.01)
    assert first.eta == (19.0 - 5.0) * 600.0 / 5.0


async def test_the_speed_of_a_clipped_job_counts_only_its_parts() -> None:
    stage = Stage(FakeDecoders([5.0, 7.0, 6.0]), clip="10-12; 15-")
    times = iter([0.0])
    stage.clock = lambda: next(times, 3.0)
    stage.job.transcript = await stage.run()
    event = conclude(stage.job, None)
    assert isinstance(event, TranscriptionCompleted)
    assert (event.duration, event.total, event.elapsed, event.speed) == (19.0, 6.0, 3.0, 2.0)
    assert stage.job.speed == event.speed


@pytest.mark.parametrize(("skipped", "codes"), [(1, []), (2, ["audio.corrupt"])])
async def test_a_damaged_recording_gets_a_warning_unless_only_its_end_is_missing(
    skipped: int, codes: list[str]
) -> None:
    stage = Stage(FakeDecoders([5.0]))
    stage.decoders.skipped = skipped
    stage.job.transcript = await stage.run()
    event = conclude(stage.job, None)
    assert isinstance(event, TranscriptionCompleted)
    assert [warning["code"] for warning in event.warnings] == codes
    assert stage.job.warnings == event.warnings


async def test_a_file_without_speech_has_no_text() -> None:
    stage = Stage(FakeDecoders(), language=None)
    transcript = await stage.run()
    assert (transcript.text, transcript.segments, transcript.language) == ("", (), None)
    assert not stage.runtime.batches


async def test_the_first_windows_vote_and_the_others_follow() -> None:
    stage = Stage(FakeDecoders([5.0, 6.0, 7.0, 5.5, 6.5]), language=None)
    transcript = await stage.run()
    assert stage.runtime.batches[0] == (None, [5.0, 6.0, 7.0])
    assert {language for language, _ in stage.runtime.batches[1:]} == {"de"}
    assert transcript.language == "de"
    assert transcript.text == "5 6 7 5.5 6.5"


async def test_a_short_file_votes_with_all_its_windows() -> None:
    stage = Stage(FakeDecoders([5.0, 6.0]), language=None)
    assert (await stage.run()).text == "5 6"
    assert stage.runtime.batches == [(None, [5.0, 6.0])]


async def test_a_vote_is_no_larger_than_a_batch() -> None:
    stage = Stage(FakeDecoders([5.0, 6.0, 7.0]), FakeRuntime(batch_size=1), language=None)
    assert (await stage.run()).text == "5 6 7"
    assert stage.runtime.batches == [(None, [5.0]), ("de", [6.0]), ("de", [7.0])]


async def test_samples_from_the_whole_file_outvote_its_first_windows() -> None:
    stage = Stage(FakeDecoders([5.0, 6.0, 7.0]), language=None)
    stage.decoders.samples = [3.0, 3.5, 4.0]
    stage.runtime.spoken = {3.0: ("en", 0.9), 3.5: ("fr", 0.4), 4.0: ("en", 0.7)}
    transcript = await stage.run()
    assert (transcript.language, transcript.text) == ("en", "5 6 7")
    assert sorted(lengths for _, batch in stage.runtime.batches for lengths in batch) == [3, 3.5, 4, 5, 6, 7]
    assert {one.language for one in transcript.segments} == {"en"}


@pytest.mark.parametrize("samples", [[], [3.0]])
async def test_the_detected_language_is_one_of_those_given(samples: list[float]) -> None:
    stage = Stage(FakeDecoders([5.0, 6.0]), language="en,fr")
    stage.decoders.samples = samples
    stage.runtime.spoken = {3.0: ("pl", 0.9), 5.0: ("pl", 0.9), 6.0: ("fr", 0.9)}
    assert (await stage.run()).language == "en"


async def test_changing_languages_are_among_those_given() -> None:
    stage = Stage(FakeDecoders([5.0, 6.0]), language="auto,en,fr")
    stage.runtime.spoken = {5.0: ("pl", 0.9), 6.0: ("fr", 0.9)}
    transcript = await stage.run()
    assert [one.language for one in transcript.segments] == ["en", "fr"]


async def test_with_auto_the_language_is_detected_per_window() -> None:
    stage = Stage(FakeDecoders([5.0, 6.0, 7.0, 8.0]), language="auto")
    stage.decoders.samples = [3.0, 4.0]
    stage.runtime.spoken = {
        3.0: ("en", 0.9), 4.0: ("en", 0.9), 5.0: ("en", 0.9), 6.0: ("de", 0.8), 7.0: ("nl", 0.3)
    }  # fmt: skip
    transcript = await stage.run()
    assert [one.language for one in transcript.segments] == ["en", "de", "en", "de"]
    told = [event.language for event in stage.events if isinstance(event, TranscriptionSegment)]
    assert told == ["en", "de", "en", "de"]
    assert transcript.language == "de"  # 14 s of 26 s


@pytest.mark.parametrize("language", [None, "auto"])
async def test_short_files_are_sampled_only_if_their_language_may_change(language: str | None) -> None:
    stage = Stage(FakeDecoders([5.0]), language=language)
    await stage.run()
    (asked,) = stage.decoders.asked
    assert asked.samples
    assert (asked.samples_from_s < 30) == (language == "auto")


@pytest.mark.parametrize("probability", [0.9, 0.3])
async def test_with_auto_the_samples_vote_once_and_only_if_a_language_is_uncertain(
    probability: float,
) -> None:
    stage = Stage(FakeDecoders([5.0, 6.0]), language="auto")
    stage.decoders.samples = [3.0, 4.0]
    stage.runtime.spoken = dict.fromkeys((3.0, 4.0), ("en", 0.9))
    stage.runtime.spoken |= dict.fromkeys((5.0, 6.0), ("nl", probability))
    transcript = await stage.run()
    computed = [length for _, batch in stage.runtime.batches for length in batch]
    assert [computed.count(length) for length in (3.0, 4.0)] == [int(probability < 0.5)] * 2
    assert {one.language for one in transcript.segments} == {"nl" if probability > 0.5 else "en"}


async def test_overlapping_windows_are_decoded_with_word_times() -> None:
    stage = Stage(FakeDecoders([5.0, 6.0, 7.0, 8.0]))
    stage.decoders.shared = [0.0, 2.0, 0.0, 0.0]
    stage.runtime.info = replace(stage.runtime.info, word_times=True)
    await stage.run()
    timed = {length for is_timed, lengths in stage.runtime.timed for length in lengths if is_timed}
    assert timed == {6.0, 7.0}


async def test_a_known_language_needs_no_samples() -> None:
    stage = Stage(FakeDecoders([5.0]), language="de")
    stage.decoders.samples = [3.0]
    await stage.run()
    assert stage.runtime.batches == [("de", [5.0])]


async def test_a_model_of_one_language_needs_no_vote() -> None:
    stage = Stage(FakeDecoders([5.0]), FakeRuntime(multilingual=False), language=None)
    assert (await stage.run()).language == "en"
    assert stage.runtime.batches == [("en", [5.0])]
    assert cast(JobStarted, stage.events[0]).language == "en"


@pytest.mark.parametrize("length_s", [1.0, 20.0, 26.0, 30.0])
@pytest.mark.parametrize(("batch_size", "replicas"), [(1, 1), (4, 2), (2, 64)])
async def test_a_slow_engine_holds_back_the_decoder(batch_size: int, replicas: int, length_s: float) -> None:
    stage = Stage(FakeDecoders([length_s] * 300), FakeRuntime(batch_size=batch_size, replicas=replicas))
    stage.runtime.may_compute = anyio.Event()
    async with open_task_group() as tasks:
        tasks.start_soon(stage.run)
        await anyio.wait_all_tasks_blocked()
        computed_s = sum(sum(lengths) for _, lengths in stage.runtime.batches)
        assert HELD_S - 30 < stage.decoders.taken * length_s - computed_s <= HELD_S
        stage.runtime.may_compute.set()
    assert stage.transcript is not None
    assert len(stage.transcript.segments) == 300


async def test_a_run_finishes_whatever_else_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Adding and subtracting floats leaves rounding errors, which these lengths provoke."""
    monkeypatch.setattr(Dispatcher, "has_enough", lambda *_: True)
    stage = Stage(FakeDecoders([5.0, 12.2, 17.8, 17.1]), FakeRuntime(batch_size=1))
    stage.runtime.may_compute = anyio.Event()
    with anyio.fail_after(LIMIT_S):
        async with open_task_group() as tasks:
            tasks.start_soon(stage.run)
            await anyio.wait_all_tasks_blocked()
            assert stage.decoders.taken == 4, "one window is computed, the other three wait"
            stage.runtime.may_compute.set()
    assert len(stage.segments()) == 4


async def test_a_slow_vote_holds_back_the_decoder() -> None:
    stage = Stage(FakeDecoders([20.0] * 30), language=None)
    stage.runtime.may_compute = anyio.Event()
    async with open_task_group() as tasks:
        tasks.start_soon(stage.run)
        await anyio.wait_all_tasks_blocked()
        assert stage.decoders.taken == 3
        stage.runtime.may_compute.set()
    assert len(stage.runtime.batches) > 1


async def failing(stage: Stage) -> WhisperdError:
    with anyio.fail_after(LIMIT_S), pytest.raises(WhisperdError) as raised:
        await stage.run()
    return raised.value


async def test_a_decoder_error_while_windows_are_computed_ends_the_run() -> None:
    stage = Stage(FakeDecoders([5.0] * 3, error=an_error("audio.damaged")))
    stage.runtime.may_compute = anyio.Event()
    assert (await failing(stage)).code == "audio.damaged"


def killed(how: signal.Signals = signal.SIGKILL) -> WhisperdError:
    """Return the error of a decoder that was killed by a signal."""
    return WhisperdError("decoder.crashed", "It broke.", "Fix it.", {"status": -how})


@pytest.mark.parametrize("options", [{}, {"language": None}, {"language": "auto"}], ids=str)
@pytest.mark.parametrize("place", range(5))
async def test_a_killed_decoder_is_replaced(place: int, options: dict[str, Any]) -> None:
    def stage_of() -> Stage:
        stage = Stage(FakeDecoders([5.0, 6.0, 7.0, 5.5, 6.5]), **options)
        stage.decoders.samples = [3.0, 3.5]
        return stage

    whole, stage = stage_of(), stage_of()
    stage.decoders.deaths[place] = [killed()]
    expected, transcript = await whole.run(), await stage.run()
    assert transcript.segments == expected.segments
    assert stage.segments() == whole.segments()
    assert sum(isinstance(event, JobStarted) for event in stage.events) == 1
    done = [event.done for event in stage.events if isinstance(event, TranscriptionProgress)]
    assert done == sorted(done)
    computed, computed_once = (
        sorted(length for _, lengths in one.runtime.batches for length in lengths) for one in (stage, whole)
    )
    assert computed == computed_once
    first, second = stage.decoders.asked
    assert second.done_until == sum([5.0, 6.0, 7.0, 5.5][: max(0, place - 1)])
    assert second.samples == (0 if place else first.samples)


async def test_decoders_may_be_killed_repeatedly_while_each_makes_progress() -> None:
    stage = Stage(FakeDecoders([5.0, 6.0, 7.0, 8.0]))
    stage.decoders.deaths = {place: [killed(), killed()] for place in range(4)}
    transcript = await stage.run()
    assert len(transcript.segments) == 4
    assert len(stage.decoders.asked) == 9


async def test_finding_more_silence_counts_as_progress() -> None:
    stage = Stage(FakeDecoders([5.0]))
    stage.decoders.silence = [1000, 2000, 3000, 4000]
    stage.decoders.deaths = {0: [killed(), killed(), killed(), killed()]}
    assert len((await stage.run()).segments) == 1
    assert [one.found[0].position if one.found else 0 for one in stage.decoders.asked] == [
        0, 1000, 2000, 3000, 4000
    ]  # fmt: skip


async def test_three_decoders_killed_at_the_same_place_are_an_error() -> None:
    stage = Stage(FakeDecoders([5.0, 6.0, 7.0, 8.0]))
    stage.decoders.deaths = {1: [killed()], 3: [killed(), killed(), killed(signal.SIGTERM)]}
    with pytest.raises(WhisperdError, match="It broke") as caught:
        await stage.run()
    assert caught.value.data == {"status": -signal.SIGTERM}
    assert len(stage.decoders.asked) == 4


@pytest.mark.parametrize(
    "error", [killed(signal.SIGSEGV), an_error("audio.broken"), an_error("decoder.stuck")]
)
async def test_crashes_and_errors_of_a_file_are_not_retried(error: WhisperdError) -> None:
    stage = Stage(FakeDecoders([5.0, 6.0]))
    stage.decoders.deaths[1] = [error]
    with pytest.raises(WhisperdError) as caught:
        await stage.run()
    assert caught.value.code == error.code
    assert len(stage.decoders.asked) == 1


async def test_a_file_that_changed_before_a_decoder_was_replaced_is_an_error() -> None:
    stage = Stage(FakeDecoders([5.0, 6.0, 7.0]))
    stage.decoders.deaths[2] = [killed()]
    stage.decoders.lengths_of_later_decodes = [5.0, 6.5, 7.0]
    with pytest.raises(WhisperdError) as caught:
        await stage.run()
    assert caught.value.code == "decoder.crashed"


async def test_an_engine_error_ends_the_run_while_the_decoder_continues() -> None:
    stage = Stage(FakeDecoders([5.0]))
    stage.decoders.may_continue = anyio.Event()
    stage.runtime.errors[5.0] = an_error("engine.problem")
    assert (await failing(stage)).code == "engine.problem"


async def test_a_window_that_the_engine_refuses_again_ends_the_run() -> None:
    stage = Stage(FakeDecoders([5.0, 6.0, 6.5]))
    stage.runtime.may_compute = anyio.Event()
    stage.runtime.errors[6.5] = an_error("engine.refused")
    async with open_task_group() as tasks:

        async def compute() -> None:
            await anyio.wait_all_tasks_blocked()
            stage.runtime.may_compute.set()

        tasks.start_soon(compute)
        assert (await failing(stage)).code == "engine.refused"
    assert [lengths for _, lengths in stage.runtime.batches] == [[5.0], [6.0, 6.5], [6.0], [6.5]]
    assert stage.segments() == ["5", "6"]


async def test_windows_that_fail_together_raise_one_error() -> None:
    stage = Stage(FakeDecoders([5.0] * 8), FakeRuntime(batch_size=8))
    stage.runtime.may_compute = anyio.Event()
    async with open_task_group() as tasks:

        async def unload() -> None:
            await anyio.wait_all_tasks_blocked()
            stage.runtime.unload(an_error("worker.died"))

        tasks.start_soon(unload)
        assert (await failing(stage)).code == "worker.died"


async def test_an_engine_error_in_the_vote_ends_the_run() -> None:
    stage = Stage(FakeDecoders([5.0, 6.0, 7.0, 8.0]), language=None)
    stage.runtime.errors[6.0] = an_error("engine.problem")
    assert (await failing(stage)).code == "engine.problem"


async def test_a_file_is_checked_for_changes_as_soon_as_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def look(job: Job) -> None:
        seen.append(job)

    seen: list[Job] = []
    stage = Stage(FakeDecoders([5.0, 6.0]))
    monkeypatch.setattr(stage.keeper, "check_unchanged", look)
    stage.runtime.may_compute = anyio.Event()
    stage.decoders.may_continue = anyio.Event()
    with anyio.fail_after(LIMIT_S):
        async with open_task_group() as tasks:
            tasks.start_soon(stage.run)
            await anyio.wait_all_tasks_blocked()
            assert stage.decoders.taken == 2 and not seen
            stage.decoders.may_continue.set()
            await anyio.wait_all_tasks_blocked()
            assert seen == [stage.job]
            stage.runtime.may_compute.set()


async def test_a_bug_is_not_reported_as_an_error_of_the_file() -> None:
    stage = Stage(FakeDecoders([5.0], error=ZeroDivisionError("a mistake")))
    with pytest.raises(ZeroDivisionError):
        await stage.run()


# Resuming


def run_over(
    finished: Sequence[FinishedWindow] = (), language: str = "en", batch_size: int = 1, replicas: int = 1
) -> Stage:
    """Return a finished run that resumed from these finished windows."""

    async def run() -> Stage:
        runtime = FakeRuntime(batch_size=batch_size, replicas=replicas)
        stage = Stage(FakeDecoders(LENGTHS), runtime, language=language)
        stage.progress = SavedProgress({one.index: one for one in finished})
        await stage.run()
        return stage

    return anyio.run(run)


def result_of(stage: Stage) -> tuple[Any, ...]:
    assert stage.transcript is not None
    return replace(stage.transcript, elapsed=0.0), stage.segments()


@given(st.data(), st.sampled_from(["en", "auto"]), st.integers(1, 4), st.integers(1, 3))
def test_a_resumed_run_has_the_same_result_wherever_it_stopped(
    data: st.DataObject, language: str, batch_size: int, replicas: int
) -> None:
    whole = run_over((), language, batch_size, replicas)
    assert sorted(one.index for one in whole.keeper.finished) == list(range(len(LENGTHS)))
    # Windows finish and are saved in any order, and the daemon may die after any of them.
    count = data.draw(st.integers(0, len(LENGTHS)))
    kept = [decode_window(msgspec.msgpack.encode(one)) for one in whole.keeper.finished[:count]]
    resumed = run_over(kept, language, batch_size, replicas)
    assert result_of(resumed) == result_of(whole)
    assert resumed.computed == len(LENGTHS) - count, "a finished window was computed again"
    assert {one.index for one in resumed.keeper.finished}.isdisjoint(one.index for one in kept)


def test_a_window_whose_position_changed_is_computed_again() -> None:
    first, *others = run_over().keeper.finished
    again = run_over([replace(one, start=one.start + 0.5) for one in others])
    assert again.computed == len(LENGTHS), "the first window was not finished either"
    again = run_over([first, *(replace(one, end=one.end + 0.5) for one in others[-2:])])
    assert again.computed == len(LENGTHS) - 1


def test_moved_windows_whose_audio_is_not_decoded_again_end_the_run() -> None:
    longer = [replace(one, end=one.end + 0.5) for one in run_over().keeper.finished]
    with pytest.raises(WindowsChanged):
        run_over(longer)


def test_time_spent_before_an_interruption_counts() -> None:
    kept = [replace(one, elapsed_s=100.0) for one in run_over().keeper.finished]
    transcript = run_over(kept).transcript
    assert transcript is not None and transcript.elapsed >= 100.0
