from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from whisperd.audio.messages import SAMPLE_RATE
from whisperd.audio.speech import (
    FRAME_SAMPLES,
    SPLIT_SAMPLES,
    THRESHOLD,
    EverythingSpoken,
    Span,
    SpeechDetector,
)

FRAMES_PER_S = SAMPLE_RATE / FRAME_SAMPLES


def detect(probabilities: list[float], levels: list[float] | None = None) -> list[Span]:
    detector, spans = SpeechDetector(), []
    levels = levels or [1.0 if probability >= 0.3 else 0.0 for probability in probabilities]
    for probability, level in zip(probabilities, levels, strict=True):
        spans += detector.feed(probability, level)
    return spans + list(detector.finish(len(probabilities) * FRAME_SAMPLES))


def frames(spans: list[Span]) -> list[tuple[float, float, float]]:
    return [tuple(n / FRAME_SAMPLES for n in (span.start, span.end, span.pause)) for span in spans]


def test_silence_has_no_speech() -> None:
    assert detect([0.49] * 100) == []
    assert detect([]) == []


def test_speech_begins_at_the_threshold_and_ends_below_the_release() -> None:
    assert frames(detect([0.1] * 10 + [0.5] * 5 + [0.36] * 20 + [0.34] * 10)) == [(10, 35, 10)]


def test_a_short_silence_does_not_end_speech_and_a_longer_one_does() -> None:
    assert frames(detect([0.9] * 10 + [0.1] * 2 + [0.9] * 10)) == [(0, 22, 0)]
    assert frames(detect([0.9] * 10 + [0.1] * 5 + [0.9] * 10)) == [(0, 10, 0), (15, 25, 5)]


def test_a_click_is_no_speech_and_the_pause_goes_on_through_it() -> None:
    assert frames(detect([0.9] * 10 + [0.1] * 9 + [0.9] + [0.1] * 10 + [0.9] * 10)) == [
        (0, 10, 0),
        (30, 40, 20),
    ]


def test_speech_without_a_pause_is_split_where_it_is_quietest() -> None:
    levels = [1.0] * 200
    levels[120:123] = [0.2, 0.1, 0.2]
    first, second = detect([0.9] * 200, levels)
    assert first.end == second.start == 121 * FRAME_SAMPLES + FRAME_SAMPLES // 2
    assert second.pause == 0


@given(st.integers(20, 70), st.integers(2000, 4000))
def test_for_minutes_too_and_in_the_middle_of_its_quietest_frame(every: int, count: int) -> None:
    *split, last = detect([0.9] * count, [abs(place % every - every // 2) / every for place in range(count)])
    assert len(split) > 11
    assert {span.end % (every * FRAME_SAMPLES) for span in split} == {(every // 2 + 0.5) * FRAME_SAMPLES}
    assert last.end == count * FRAME_SAMPLES > last.start


def test_sound_at_the_beginning_that_goes_on_into_speech_belongs_to_it() -> None:
    levels = [0.0] * 3 + [0.7] * 6 + [0.1] * 5 + [0.7] * 4 + [1.0] * 20
    assert frames(detect([0.2] * 18 + [0.9] * 20, levels)) == [(3, 38, 18)]
    levels[8] = 0.1
    assert frames(detect([0.2] * 18 + [0.9] * 20, levels)) == [(14, 38, 18)], "a gap"


def test_after_a_long_pause_too_but_half_of_it_stays() -> None:
    after = [0.9] * 20 + [0.1] * 40 + [0.9] * 20
    assert frames(detect(after, [1.0] * 20 + [0.0] * 35 + [0.5] * 25)) == [(0, 20, 0), (55, 80, 40)]
    assert frames(detect(after, [1.0] * 80)) == [(0, 20, 0), (40, 80, 40)]


def test_a_short_pause_is_none_of_the_speech_behind_it() -> None:
    assert frames(detect([0.9] * 20 + [0.1] * 20 + [0.9] * 20, [1.0] * 60)) == [(0, 20, 0), (40, 60, 20)]


def test_a_click_in_noise_is_no_speech() -> None:
    assert detect([0.1] * 20 + [0.9] + [0.1] * 20, [1.0] * 41) == []


def test_what_was_settled_by_a_click_is_not_taken_back() -> None:
    detector, settled = SpeechDetector(), 0
    fed = [(0.1, 0.1)] * 40 + [(0.9, 1.0)] + [(0.1, 0.1)] * 20 + [(0.9, 0.2)] * 20 + [(0.1, 0.0)] * 10
    for probability, level in fed:
        settled = max(settled, detector.settled)
        assert all(span.start >= settled for span in detector.feed(probability, level))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=600))
def test_spans_are_in_order_bounded_and_hold_all_speech(fed: list[tuple[float, float]]) -> None:
    detector = SpeechDetector()
    spans: list[Span] = []
    settled = 0
    for probability, level in fed:
        settled = max(settled, detector.settled)
        new = list(detector.feed(probability, level))
        assert all(span.start >= settled for span in new)
        spans += new
    total = len(fed) * FRAME_SAMPLES
    spans += detector.finish(total)
    ends = [0, *(span.end for span in spans)]
    for before, span in zip(ends, spans, strict=False):
        assert before <= span.start < span.end <= total
        assert span.pause == 0 or span.start - before <= span.pause
        assert span.start - before >= span.pause // 2 or before == 0, "half of a pause stays one"
        assert span.end - span.start <= SPLIT_SAMPLES + SAMPLE_RATE // 5
    spoken = {index for index, (probability, _) in enumerate(fed) if probability >= THRESHOLD}
    held = {
        index for span in spans for index in range(span.start // FRAME_SAMPLES, -(-span.end // FRAME_SAMPLES))
    }
    # What is missed is clicks: a frame of speech, with quiet or the end around it.
    assert all(index + 1 not in spoken for index in spoken - held)


spans_of_speech = st.lists(
    st.tuples(st.integers(0, 12 * SAMPLE_RATE), st.integers(1, 8 * SAMPLE_RATE)), max_size=12
).map(lambda pairs: [*_laid_out(pairs)])


def _laid_out(pairs: list[tuple[int, int]]):  # type: ignore[no-untyped-def]
    end = 0
    for pause, length in pairs:
        yield Span(end + pause, end + pause + length, pause)
        end += pause + length


@given(spans_of_speech, st.integers(0, 10 * SAMPLE_RATE), st.lists(st.floats(0, 1), max_size=12))
def test_everything_is_covered_without_a_gap_however_the_silence_is_told(
    spans: list[Span], tail: int, hints: list[float]
) -> None:
    total = (spans[-1].end if spans else 0) + tail

    def cover(hinted: bool) -> list[Span]:
        everything, covered, end = EverythingSpoken(), [], 0
        for index, span in enumerate(spans):
            if hinted and index < len(hints):
                covered += everything.advance(end + int(hints[index] * (span.start - end)))
            covered += everything.add(span)
            end = span.end
        return covered + list(everything.finish(total))

    covered = cover(hinted=False)
    assert cover(hinted=True) == covered
    edges = [0, *(span.end for span in covered)]
    assert [span.start for span in covered] == edges[:-1]
    assert edges[-1] == total
    longest = max((span.end - span.start for span in spans), default=0)
    assert all(span.end - span.start <= longest + 4 * EverythingSpoken.PIECE for span in covered)
