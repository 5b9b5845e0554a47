"""Trials of one setting on one worker: what is computed, and how slow, hung or wrong engines are judged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.calibration.bench import Bench, Limits, OutOfTime
from whisperd.calibration.values import Setting
from whisperd.calibration.workload import CLIP_S, audio_s, count_words, portions, windows, wrong_words
from whisperd.rpc.errors import WhisperdError
from whisperd.speech import samples, words
from whisperd.worker.protocol import BatchParams, DecodeOptions, EngineSegment, WindowResult

pytestmark = pytest.mark.anyio

SETTING = Setting(
    variant="any", compute_type="int8", replicas=2, cpu_threads=1, batch_size=4, context_margin_s=2.0
)
FASTER_THAN = Limits(left_s=math.inf, patience_s=math.inf, fastest=1e-6)
NO_LIMITS = Limits(left_s=math.inf, patience_s=math.inf, fastest=0.0)


class FakeWorker:
    """Transcribes what is said, and takes as long as it is told, by its own clock."""

    def __init__(self, batch_s: float = 1.0, hears: Callable[[str], str] = lambda text: text) -> None:
        self.batches: list[int] = []
        self.now_s = 0.0
        self.at_once = 0
        self.most_at_once = 0
        self.stuck_from = math.inf
        self._batch_s = batch_s
        self._hears = hears

    async def transcribe(self, batch: BatchParams) -> list[WindowResult]:
        self.batches.append(len(batch.windows))
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await anyio.sleep(0)
        if len(self.batches) > self.stuck_from:
            await anyio.sleep_forever()
        self.now_s += self._batch_s
        self.at_once -= 1
        said = {sample.pcm: sample.text for sample in (*samples(), *windows(samples()))}
        return [heard(self._hears(said[window.pcm])) for window in batch.windows]


def heard(text: str) -> WindowResult:
    segment = EngineSegment(
        start=0,
        end=1,
        text=text,
        tokens=(),
        temperature=0,
        avg_logprob=0,
        compression_ratio=1,
        no_speech_prob=0,
    )
    return WindowResult(language="en", language_probability=1.0, segments=(segment,))


def bench(worker: FakeWorker) -> Bench:
    return Bench(worker, DecodeOptions(language="en"), lambda: worker.now_s)  # type: ignore[arg-type]


@given(replicas=st.integers(1, 16), batch_size=st.integers(1, 32))
def test_every_replica_has_full_batches_and_every_recording_is_transcribed(
    replicas: int, batch_size: int
) -> None:
    setting = msgspec.structs.replace(SETTING, replicas=replicas, batch_size=batch_size)
    work = portions(setting, samples())
    clips = [sample for sample in samples() if sample.duration_s < CLIP_S]
    assert [portion.samples for portion in work[-len(clips) :]] == [(clip,) for clip in clips]
    file = work[: -len(clips)]
    assert len(file) % replicas == 0
    assert {len(portion.samples) for portion in file} == {batch_size}
    count = Counter(sample.name for portion in file for sample in portion.samples)
    assert set(count) == {window.name for window in windows(samples())}
    assert sum(count.values()) >= 8


def test_a_long_file_has_windows_of_all_lengths() -> None:
    lengths_s = sorted(window.duration_s for window in windows(samples()))
    assert lengths_s[0] < 6 < lengths_s[1] < 10 < lengths_s[2] < 15 < 20 < lengths_s[3] < 26


def test_the_worst_text_of_a_recording_counts() -> None:
    work = portions(SETTING, samples())
    results = [(portion, [heard(sample.text) for sample in portion.samples]) for portion in work]
    assert wrong_words(results) == 0
    portion, answers = results[0]
    worse = [heard(""), *answers[1:]]
    lost = len(words(portion.samples[0].text))
    assert wrong_words([(portion, worse), *results[1:]]) == lost


async def test_the_fastest_of_several_short_passes_counts() -> None:
    worker = FakeWorker(batch_s=0.05)
    trial = await bench(worker).measure(SETTING, FASTER_THAN)
    a_pass = portions(SETTING, samples())
    assert len(worker.batches) == SETTING.replicas + 3 * len(a_pass), (
        "the warm-up clips are not part of a pass"
    )
    assert worker.most_at_once == SETTING.replicas
    assert (trial.outcome, trial.errors) == ("measured", 0)
    assert trial.speed == pytest.approx(audio_s(a_pass) / (0.05 * len(a_pass)))
    assert len(trial.speeds) == 1


async def test_a_long_pass_is_computed_once() -> None:
    worker = FakeWorker(batch_s=3.0)
    subject = bench(worker)
    await subject.measure(SETTING, FASTER_THAN)
    assert len(worker.batches) == SETTING.replicas + len(portions(SETTING, samples()))
    await subject.measure(SETTING, FASTER_THAN)
    assert len(worker.batches) == SETTING.replicas + 2 * len(portions(SETTING, samples())), (
        "the worker is already warm"
    )


async def test_the_first_trial_checks_every_text_once() -> None:
    worker = FakeWorker(batch_s=3.0)
    trial = await bench(worker).measure(SETTING, NO_LIMITS)
    assert sum(worker.batches) == len(windows(samples())) + len(portions(SETTING, samples())) - 2
    assert trial.errors == 0


async def test_wrong_words_are_counted() -> None:
    worker = FakeWorker(hears=lambda text: text.replace("Americans", "Canadians"))
    trial = await bench(worker).measure(SETTING, NO_LIMITS)
    assert trial.errors == 2, "two windows contain the word, one of them joined"
    assert trial.words == count_words(portions(SETTING, samples()))
    assert trial.words > sum(len(words(sample.text)) for sample in samples())


@pytest.mark.parametrize("answers, outcome", [(0, "stuck"), (2, "slower")])
async def test_a_hopeless_setting_is_given_up(answers: int, outcome: str) -> None:
    worker = FakeWorker()
    worker.stuck_from = answers
    subject = bench(worker)
    trial = await subject.measure(SETTING, Limits(left_s=math.inf, patience_s=math.inf, fastest=1e6))
    assert trial.outcome == outcome
    assert trial.problem is not None
    assert trial.problem["code"] == f"calibration.{outcome}"
    assert subject.is_spent, "the worker may still be computing"


async def test_in_the_first_trial_only_a_hang_is_too_slow() -> None:
    worker = FakeWorker()
    worker.stuck_from = 0
    trial = await bench(worker).measure(SETTING, Limits(left_s=math.inf, patience_s=0.01, fastest=0.0))
    assert trial.outcome == "stuck"


async def test_a_trial_cut_off_by_the_budget_has_no_result() -> None:
    worker = FakeWorker()
    worker.stuck_from = 2
    with pytest.raises(OutOfTime):
        await bench(worker).measure(SETTING, Limits(left_s=0.01, patience_s=math.inf, fastest=0.0))


async def test_if_several_replicas_fail_one_error_is_raised() -> None:
    class Refusing(FakeWorker):
        async def transcribe(self, batch: BatchParams) -> list[WindowResult]:
            raise WhisperdError("toy.error", "This is refused.", "")

    with pytest.raises(WhisperdError, match="refused"):
        await bench(Refusing()).measure(SETTING, NO_LIMITS)
