"""Speech that was found is found again without listening, wherever the first run was interrupted."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from whisperd.audio.finder import REPORT_EVERY, SpeechFinder
from whisperd.audio.known_speech import KnownSpeech, merge_found, pack, unpack
from whisperd.audio.messages import Found
from whisperd.audio.speech import FRAME_SAMPLES, LEAD_SAMPLES, Span

FRAMES_PER_CALL = 64
CALL_SAMPLES = FRAMES_PER_CALL * FRAME_SAMPLES


class FakeActivity:
    """Says of each frame what a seed says, with a state that counts the frames. Hears whole calls only."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._frames = 0
        self._waiting = 0
        self.heard_samples = 0

    @property
    def memory(self) -> bytes:
        assert self._waiting < CALL_SAMPLES
        return self._frames.to_bytes(8, "little")

    def restore(self, memory: bytes) -> None:
        self._frames = int.from_bytes(memory, "little")

    def skip(self, samples: range) -> None:
        assert not self._waiting

    def feed(self, samples: range) -> Iterator[tuple[float, float]]:
        self.heard_samples += len(samples)
        self._waiting += len(samples)
        while self._waiting >= CALL_SAMPLES:
            self._waiting -= CALL_SAMPLES
            for _ in range(FRAMES_PER_CALL):
                yield self._next()

    def finish(self) -> Iterator[tuple[float, float]]:
        for _ in range(-(-self._waiting // FRAME_SAMPLES)):
            yield self._next()

    def _next(self) -> tuple[float, float]:
        # Speech and pauses of some tenths of a second to some seconds, and clicks.
        stretch = random.Random(f"{self._seed} {self._frames // 20}").random()
        is_click = stretch > 0.9 and self._frames % 20 == 7
        self._frames += 1
        return (0.9 if stretch < 0.7 or is_click else 0.1), round(stretch * 256) / 256


def run(
    seed: int, total: int, block: int, known: KnownSpeech | None = None
) -> tuple[list[Span], list[Found], int]:
    """The speech that is found, what is told, and how many samples were listened to."""
    activity = FakeActivity(seed)
    finder = SpeechFinder(activity, 1, 2, known)
    spans: list[Span] = []
    told: list[Found] = []
    settled = 0
    for first in range(0, total, block):
        new = list(finder.feed(range(first, min(first + block, total))))
        assert all(span.start >= settled for span in new), "it was said that none begins before"
        settled = max(settled, finder.settled)
        assert settled <= first + block
        spans += new
        if (found := finder.found()) is not None:
            told.append(found)
    spans += finder.finish()
    return spans, told, activity.heard_samples


@given(
    seed=st.integers(0, 10**6),
    total=st.integers(1, 120 * 16_000),
    block=st.sampled_from([1024, 1152, 16_000, 50_000]),
    other_block=st.sampled_from([960, 4096, 100_000]),
    interrupted_after=st.integers(1, 6),
)
def test_the_same_speech_is_found_after_an_interruption(
    seed: int, total: int, block: int, other_block: int, interrupted_after: int
) -> None:
    spans, told, _ = run(seed, total, block)
    assert all(later.position - found.position >= REPORT_EVERY for found, later in pairwise(told))
    before = told[:interrupted_after]
    if not before:
        return
    (found,) = merge_found(before)
    assert (found.part, found.channel, found.position) == (1, 2, before[-1].position)
    again, told_later, heard_samples = run(seed, total, other_block, KnownSpeech(found))
    assert again == spans
    assert heard_samples == total - found.position, "nothing is listened to twice"
    assert merge_found([*before, *told_later])[0].spans == pack(
        span for span in spans if span.end <= (told_later or before)[-1].position
    )
    if max(block, other_block) <= CALL_SAMPLES:  # then each is asked after every call
        assert told_later == told[interrupted_after:]


def test_sound_goes_on_into_speech_from_what_was_heard_before() -> None:
    told: list[Found] = []

    class Speech(FakeActivity):
        def _next(self) -> tuple[float, float]:
            self._frames += 1
            return (0.9 if self._frames > 640 else 0.1), 1.0

    def spans_of(block: int, known: KnownSpeech | None = None) -> list[Span]:
        finder, spans, settled = SpeechFinder(Speech(0), 0, 0, known), [], 0
        for first in range(0, 900 * FRAME_SAMPLES, block):
            new = [*finder.feed(range(first, min(first + block, 900 * FRAME_SAMPLES)))]
            assert all(span.start >= settled for span in new)
            settled = finder.settled
            told.extend(filter(None, [finder.found()]))
            spans += new
        return [*spans, *finder.finish()]

    whole = spans_of(CALL_SAMPLES)
    assert told[-1].position == 640 * FRAME_SAMPLES
    assert whole[0].start == 640 * FRAME_SAMPLES - LEAD_SAMPLES
    assert spans_of(640 * FRAME_SAMPLES - 10, KnownSpeech(told[-1])) == whole


def test_a_recording_that_is_shorter_than_it_was_does_no_harm() -> None:
    known = KnownSpeech(
        Found(part=0, channel=0, position=100_000, spans=pack([Span(1000, 99_000, 1000)]), memory=b"")
    )
    assert run(1, 50_000, 1024, known)[0] == []


@given(st.lists(st.builds(Span, *[st.integers(0, 2**62)] * 3)))
def test_spans_travel(spans: list[Span]) -> None:
    assert list(unpack(pack(spans))) == spans
