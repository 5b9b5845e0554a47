"""Texts that are too short for the speech, and how the missing part is found."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.worker.coverage import (
    Missing,
    best_cut,
    cut_at_words,
    find_missing,
    is_exact,
    is_sparse,
    merge,
    overlap_s,
    spoken_letters,
    transcribe_whole,
)
from whisperd.worker.protocol import (
    SAMPLE_RATE,
    DecodeOptions,
    EngineSegment,
    EngineWindow,
    EngineWord,
    SpokenTime,
    WindowResult,
)

SENTENCE = "Ask not what your country can do for you, ask what you can do for your country."
"""Takes about five seconds to say."""


def segment(start: float, end: float, text: str, compression_ratio: float = 1.0) -> EngineSegment:
    return EngineSegment(
        start=start,
        end=end,
        text=text,
        tokens=(1,),
        temperature=0.0,
        avg_logprob=-0.1,
        compression_ratio=compression_ratio,
        no_speech_prob=0.0,
    )


class Forgetful:
    """An engine that returns a sentence for each stretch of speech, but only a limited number per window."""

    def __init__(self, most: int = 1, text: str = SENTENCE) -> None:
        self.most = most
        self.text = text
        self.heard: list[float] = []

    def say(self, time: SpokenTime) -> str:
        """Return the text, with a letter derived from its length to make it unique."""
        return f"{self.text} {chr(97 + round(10 * (time[1] - time[0])) % 26)}"

    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        self.heard += [window.duration_s for window in windows]
        return [
            WindowResult(language=options.language or "en", language_probability=0.9, segments=tuple(found))
            for window in windows
            for found in [[segment(*time, self.say(time)) for time in (window.spoken or ())[: self.most]]]
        ]


def window(*spoken: SpokenTime, duration_s: float) -> EngineWindow:
    return EngineWindow(pcm=bytes(2 * round(duration_s * SAMPLE_RATE)), spoken=spoken)


FOUR = ((0.2, 5.0), (5.6, 10.6), (12.0, 17.1), (17.4, 22.0))


def test_a_lost_sentence_is_found_in_the_parts_of_its_window() -> None:
    engine = Forgetful()
    (result,) = transcribe_whole(engine.transcribe, [window(*FOUR, duration_s=22.2)], DecodeOptions())
    assert [one.start for one in result.segments] == pytest.approx([0.2, 5.6, 12.0, 17.4], abs=0.002)
    assert [one.end for one in result.segments] == pytest.approx([5.0, 10.6, 17.1, 22.0], abs=0.002)
    assert engine.heard[1:3] == pytest.approx([11.3, 10.9])  # the longest pause is from 10.6 to 12.0


def test_a_complete_text_is_not_computed_again() -> None:
    engine = Forgetful(most=4)
    transcribe_whole(engine.transcribe, [window(*FOUR, duration_s=22.2)], DecodeOptions())
    assert engine.heard == [22.2]


def test_unwanted_windows_are_not_computed_again() -> None:
    engine = Forgetful()
    whole = window(*FOUR, duration_s=22.2)
    transcribe_whole(engine.transcribe, [whole], DecodeOptions(), lambda _window: False)
    assert engine.heard == [22.2]


def test_without_speech_times_no_text_is_doubted() -> None:
    engine = Forgetful()
    transcribe_whole(engine.transcribe, [EngineWindow(pcm=bytes(20 * 2 * SAMPLE_RATE))], DecodeOptions())
    assert len(engine.heard) == 1


def test_the_words_of_a_part_are_moved_to_their_place_in_the_window() -> None:
    word = EngineWord(text=" Ask", start=0.5, end=0.75, probability=0.5)
    one = msgspec.structs.replace(segment(0.5, 1.0, " Ask"), words=(word,))
    part = WindowResult(language="en", language_probability=1.0, segments=(one,))
    again = merge(part, part, 10.0)
    assert [(found.start, found.words[0].start, found.words[0].end) for found in again.segments] == [
        (0.5, 0.5, 0.75),
        (10.5, 10.5, 10.75),
    ]


def test_internal_word_times_locate_missing_speech_but_are_not_returned() -> None:
    class Skipping(Forgetful):
        """Transcribes only the last stretch of speech; times the first word from the start of the window."""

        def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
            self.heard += [window.duration_s for window in windows]
            return [self._hear(window) for window in windows]

        def _hear(self, window: EngineWindow) -> WindowResult:
            last = [time for time in window.spoken or () if time[1] - time[0] > 1][-1]
            words = tuple(
                EngineWord(text=text, start=last[0] + 0.2 * at, end=last[0] + 0.2 * (at + 1), probability=0.9)
                for at, text in enumerate(re.findall(r"\s*\S+", SENTENCE))
            )
            words = (msgspec.structs.replace(words[0], start=0.0), *words[1:])
            one = msgspec.structs.replace(segment(0.0, last[1], self.say(last)), words=words)
            return WindowResult(language="en", language_probability=1.0, segments=(one,))

    for word_times in (False, True):
        engine = Skipping()
        whole = window((0.0, 4.9), (5.4, 10.2), duration_s=10.4)
        (result,) = transcribe_whole(engine.transcribe, [whole], DecodeOptions(word_times=word_times))
        assert engine.heard == pytest.approx([10.4, 5.15, 5.25])
        assert [one.text[:-2] for one in result.segments] == [SENTENCE, SENTENCE]
        assert all(bool(one.words) is word_times for one in result.segments)


def test_parts_that_add_nothing_are_discarded() -> None:
    engine = Forgetful(text="Uh.")
    (result,) = transcribe_whole(engine.transcribe, [window(*FOUR, duration_s=22.2)], DecodeOptions())
    assert len(engine.heard) > 1
    assert len(result.segments) == 1


def test_a_repeated_sentence_is_no_gain() -> None:
    class Echoing(Forgetful):
        def say(self, time: SpokenTime) -> str:
            return self.text

    (result,) = transcribe_whole(Echoing().transcribe, [window(*FOUR, duration_s=22.2)], DecodeOptions())
    assert len(result.segments) == 1


@pytest.mark.parametrize("fits", [True, False])
def test_a_window_whose_text_the_decoder_had_to_cut_off_is_split(fits: bool) -> None:
    class Limited(Forgetful):
        def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
            answers = super().transcribe(windows, options)
            is_long = not fits or windows[0].duration_s > 20
            return [msgspec.structs.replace(answer, is_cut_off=is_long) for answer in answers]

    engine = Limited(most=4)
    (result,) = transcribe_whole(engine.transcribe, [window(*FOUR, duration_s=22.2)], DecodeOptions())
    assert engine.heard[1:3] == pytest.approx([11.3, 10.9])
    assert result.is_cut_off == (not fits)
    assert len(result.segments) == 4


def test_a_loop_is_broken_by_splitting() -> None:
    class Circling(Forgetful):
        def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
            answers = super().transcribe(windows, options)
            if windows[0].duration_s < 20:
                return answers
            circle = segment(0.0, 22.2, "and then " * 100, compression_ratio=20.0)
            return [WindowResult(language="en", language_probability=1.0, segments=(circle,))]

    (result,) = transcribe_whole(
        Circling(most=4).transcribe, [window(*FOUR, duration_s=22.2)], DecodeOptions()
    )
    assert len(result.segments) == 4


@pytest.mark.parametrize("logprob_of_parts", [-0.5, -1.3])
def test_a_sampled_text_gives_way_to_a_likelier_one_of_the_parts(logprob_of_parts: float) -> None:
    class Sampling(Forgetful):
        def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
            answers = super().transcribe(windows, options)
            if windows[0].duration_s < 20:
                likely = [
                    msgspec.structs.replace(one, avg_logprob=logprob_of_parts)
                    for answer in answers
                    for one in answer.segments
                ]
                return [msgspec.structs.replace(answers[0], segments=(one,)) for one in likely]
            guess = msgspec.structs.replace(
                segment(0.0, 22.2, f"Put a put {SENTENCE * 3}"), temperature=0.8, avg_logprob=-1.2
            )
            return [msgspec.structs.replace(answers[0], segments=(guess,))]

    two = window((0.2, 10.6), (12.0, 22.0), duration_s=22.2)
    (result,) = transcribe_whole(Sampling().transcribe, [two], DecodeOptions())
    is_likelier = logprob_of_parts > -1.2
    assert len(result.segments) == (2 if is_likelier else 1)


@pytest.mark.parametrize(
    ("segments", "spoken", "missing"),
    [
        ([segment(0, 20, SENTENCE)], [(0, 5.5)], False),  # silence afterwards
        ([segment(0, 20, SENTENCE)], [(0, 20)], True),  # speech afterwards
        ([segment(0, 5, SENTENCE), segment(14, 19, SENTENCE)], [(0, 5), (6, 13), (14, 19)], True),
        ([segment(0, 5, SENTENCE), segment(14, 19, SENTENCE)], [(0, 5), (6, 8), (14, 19)], False),
        ([segment(0, 12, "Thirteen, 14, 1598, 20071.")], [(0, 6)], False),
        ([segment(0, 8, "私はその人を常に先生と呼んでいた。")], [(0, 6.5)], False),
        ([], [(0, 2)], False),
        ([], [(0, 9)], True),
    ],
)
def test_missing_speech_is_measured(
    segments: list[EngineSegment], spoken: list[SpokenTime], *, missing: bool
) -> None:
    assert (find_missing(segments, spoken).length_s > 3.0) is missing


def test_word_times_locate_missing_speech() -> None:
    def of(*times: SpokenTime) -> list[EngineSegment]:
        texts = (" And", " so", " my", " fellow", " Americans", " ask", " not", " what", " your", " country")
        words = (
            EngineWord(text=text, start=start, end=end, probability=0.9)
            for text, (start, end) in zip(texts, times, strict=True)
        )
        return [msgspec.structs.replace(segment(0, 9, "".join(texts)), words=tuple(words))]

    even = [(0.9 * at, 0.9 * (at + 1)) for at in range(10)]
    late = [(4.5 + 0.45 * at, 4.5 + 0.45 * (at + 1)) for at in range(10)]
    assert find_missing(of(*even), [(0, 9)]).length_s < 1
    assert find_missing(of(*late), [(0, 9)]).length_s == pytest.approx(4.5)
    assert find_missing(of((0, 5), *late[1:]), [(0, 9)]).length_s > 4
    # A skipped passage is often timed as part of two or three words, none of which is too long on its own.
    spread = find_missing(of((0, 2.2), (2.2, 4.3), (4.3, 5.2), *late[3:]), [(0, 9)])
    assert spread.length_s > 3
    assert spread.start_s == 0
    assert 4 < spread.end_s < 6


texts = st.lists(
    st.tuples(st.floats(0, 4), st.floats(0.05, 4), st.sampled_from(["", "a", " so", " whoever", SENTENCE])),
    max_size=12,
)


@given(texts, st.lists(st.tuples(st.floats(0, 4), st.floats(0.05, 8)), max_size=8))
def test_no_more_is_missing_than_was_spoken(
    said: list[tuple[float, float, str]], heard: list[tuple[float, float]]
) -> None:
    segments, reached_s = [], 0.0
    for pause_s, length_s, text in said:
        segments.append(segment(reached_s + pause_s, reached_s + pause_s + length_s, text))
        reached_s = segments[-1].end
    spoken, spoken_until_s = [], 0.0
    for pause_s, length_s in heard:
        spoken.append((spoken_until_s + pause_s, spoken_until_s + pause_s + length_s))
        spoken_until_s = spoken[-1][1]
    found = find_missing(segments, spoken)
    assert 0 <= found.length_s <= overlap_s(spoken, found.start_s, found.end_s) + 1e-6
    edges = [0.0, *(edge for one in segments for edge in (one.start, one.end)), math.inf]
    gaps = [overlap_s(spoken, *gap) for gap in zip(edges[::2], edges[1::2], strict=True)]
    assert found.length_s >= max(gaps)


def test_without_pauses_the_cut_is_at_the_end_of_the_missing_part() -> None:
    split = ((0.0, 4.7), (4.7, 9.4), (9.4, 13.9), (13.9, 20.7))
    assert best_cut(split, 20.7, Missing(4.3, 0.0, 4.6)) == 4.7
    assert best_cut(split, 20.7, Missing(4.3, 9.3, math.inf)) == 9.4
    assert best_cut(split, 20.7, Missing(4.3, 9.3, 16.5)) == 16.5  # no quiet place is near
    assert best_cut([(0.0, 4.7), (4.7, 9.4), (9.9, 20.7)], 20.7, Missing(4.3, 0.0, 4.6)) == 9.65


SHORT = "He was not an ill-disposed young man."
"""Takes two seconds to say."""


class PassesOver:
    """Finds three sentences in speech without pauses, but the second only in a window that begins with it.

    The skipped sentence's time goes to the first two words after it. The samples encode a part's position.
    """

    SENTENCES = ((0.0, 5.0, SENTENCE), (5.0, 7.2, SHORT), (7.2, 12.2, SENTENCE.lower()))

    def __init__(self) -> None:
        self.heard: list[SpokenTime] = []

    @staticmethod
    def window(*spoken: SpokenTime) -> EngineWindow:
        """Return the whole window; each millisecond has its number as its samples."""
        pcm = b"".join(at.to_bytes(2, "little") * (SAMPLE_RATE // 1000) for at in range(12200))
        return EngineWindow(pcm=pcm, spoken=spoken)

    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        return [self._hear(window, options.language or "en") for window in windows]

    def _hear(self, window: EngineWindow, language: str) -> WindowResult:
        begin_s = int.from_bytes(window.pcm[:2], "little") / 1000
        end_s = begin_s + window.duration_s
        self.heard.append((begin_s, round(end_s, 2)))
        segments, skipped_s = [], 0.0
        for start_s, stop_s, text in self.SENTENCES:
            if not (begin_s - 0.1 <= start_s and stop_s <= end_s + 0.1):
                continue
            if text == SHORT and begin_s < start_s - 0.1:
                skipped_s = stop_s - start_s
                continue
            segments.append(self._said(start_s - begin_s, stop_s - begin_s, text, skipped_s))
            skipped_s = 0.0
        return WindowResult(language=language, language_probability=1.0, segments=tuple(segments))

    def _said(self, start_s: float, stop_s: float, text: str, skipped_s: float) -> EngineSegment:
        texts = re.findall(r"\s*\S+", text)
        each_s = (stop_s - start_s) / len(texts)
        starts = [start_s + each_s * at for at in range(len(texts))]
        starts[0] -= skipped_s / 2
        words = (
            EngineWord(text=text, start=start, end=end, probability=0.9)
            for text, start, end in zip(texts, starts, [*starts[1:], stop_s], strict=True)
        )
        return msgspec.structs.replace(segment(starts[0], stop_s, text), words=tuple(words))


def test_without_pauses_a_part_that_begins_with_it_recovers_a_short_sentence() -> None:
    engine = PassesOver()
    whole = engine.window((0.0, 4.4), (4.4, 9.0), (9.0, 12.2))
    (result,) = transcribe_whole(engine.transcribe, [whole], DecodeOptions(word_times=True))
    assert engine.heard == [(0.0, 12.2), (0.0, 5.0), (5.0, 12.2)]
    assert [(one.start, one.text) for one in result.segments] == [
        (start, text) for start, _, text in PassesOver.SENTENCES
    ]


def test_with_pauses_a_gap_of_two_seconds_is_not_doubted() -> None:
    engine = PassesOver()
    whole = engine.window((0.0, 4.4), (4.4, 9.0), (9.1, 12.2))
    transcribe_whole(engine.transcribe, [whole], DecodeOptions(word_times=True))
    assert engine.heard == [(0.0, 12.2)]


def test_word_times_are_exact_only_in_speech_without_pauses() -> None:
    (whole,) = PassesOver().transcribe([PassesOver.window()], DecodeOptions())
    assert is_exact(whole.segments, [(0.0, 5.0), (5.0, 12.2)])
    assert not is_exact(whole.segments, [(0.0, 5.0), (5.1, 12.2)])
    assert not is_exact(whole.segments, [(0.0, 12.2)])
    assert not is_exact([segment(0.0, 5.0, SENTENCE)], [(0.0, 5.0), (5.0, 12.2)])


def test_slow_speech_without_pauses_misses_nothing() -> None:
    word_s = 6 / 6.5  # letters per second
    words = (
        EngineWord(text=" slowly", start=word_s * at, end=word_s * (at + 1), probability=0.9)
        for at in range(26)
    )
    text = msgspec.structs.replace(segment(0.0, 24.0, " slowly" * 26), words=tuple(words))
    spoken = [(0.0, 12.0), (12.0, 24.0)]
    assert is_exact([text], spoken)
    assert find_missing([text], spoken).length_s < 1


@pytest.mark.parametrize(
    ("missing", "cut_s"),
    [
        (Missing(2.2, 12.8, 15.7), 12.8),
        (Missing(5.5, 0.0, 6.2), 6.2),  # no text before
        (Missing(4.0, 16.0, math.inf), 16.0),
        (Missing(1.6, 0.0, 1.7), None),
        (Missing(20.0, 0.0, math.inf), None),
    ],
)
def test_with_exact_word_times_the_cut_is_at_the_start_of_the_missing_part(
    missing: Missing, cut_s: float | None
) -> None:
    assert cut_at_words(missing, 20.0) == cut_s


def test_a_text_too_short_for_its_speech_is_sparse() -> None:
    assert not is_sparse(SENTENCE, [(0.0, 5.5)])
    assert is_sparse(SENTENCE, [(0.0, 5.5), (6.0, 7.5)])
    assert not is_sparse("", None)


def test_letters_are_counted_as_spoken_not_as_written() -> None:
    assert spoken_letters("7") == 4
    assert spoken_letters("-- ,") == 0
    assert spoken_letters("先生") == 5


@given(
    st.lists(st.tuples(st.floats(0.01, 6), st.floats(0, 3)), max_size=12),
    st.floats(0, 5),
)
def test_a_cut_leaves_at_least_two_seconds_on_both_sides(
    lengths: list[tuple[float, float]], rest_s: float
) -> None:
    spoken, position = [], 0.0
    for length, pause in lengths:
        spoken.append((position + pause, position + pause + length))
        position += pause + length
    cut = best_cut(spoken, position + rest_s)
    if cut is None:
        assert position + rest_s < 4
    else:
        assert 2 <= cut <= position + rest_s - 2
