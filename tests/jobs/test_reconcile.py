"""Joining the texts of overlapping windows: nothing is repeated, nothing lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.jobs.reconcile import reconcile
from whisperd.jobs.segments import Segment, Word, join_texts


def segment(start: float, end: float, text: str, words: Sequence[Word] = ()) -> Segment:
    return Segment(id=0, seek=0, start=start, end=end, text=text, tokens=(1, 2), words=tuple(words))


def timed(*words: tuple[float, float, str]) -> Segment:
    spoken = [Word(text=text, start=start, end=end, probability=1.0) for start, end, text in words]
    return segment(spoken[0].start, spoken[-1].end, "".join(word.text for word in spoken), spoken)


def joined(earlier: Sequence[Segment], later: Sequence[Segment], start: float, end: float) -> str:
    before, after = reconcile(earlier, later, start, end)
    return join_texts(one.text for one in (*before, *after))


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [
        (
            "and so my fellow Americans as",
            "my fellow Americans, ask not",
            "and so my fellow Americans, ask not",
        ),
        ("we choose to go to the moon.", "to the moon in this", "we choose to go to the moon in this"),
        ("no no no no", "no no no yes", "no no no no yes"),
        ("only the one", "", "only the one"),
        ("", "only the other", "only the other"),
    ],
)
def test_texts_without_word_times_are_joined_by_their_words(earlier: str, later: str, expected: str) -> None:
    """Each word takes a second, without word times; the windows share three seconds."""
    count = len(earlier.split())
    before = [segment(0, count, earlier)] if earlier else []
    after = [segment(count - 3, count - 3 + len(later.split()), later)] if later else []
    assert joined(before, after, count - 3, count) == expected


def test_scripts_without_spaces_are_joined_by_their_characters() -> None:
    before, after = segment(0, 5.5, "私はその人を常に先生と"), segment(2.5, 8.5, "人を常に先生と呼んでいた")
    assert joined([before], [after], 2.5, 5.5) == "私はその人を常に先生と呼んでいた"


def test_without_a_common_word_the_time_decides() -> None:
    before = [segment(0, 6, " one two three four five six")]
    after = [segment(4, 10, " cinq seis seven eight nine ten")]
    assert joined(before, after, 4, 6) == "one two three four five seis seven eight nine ten"


def test_a_word_that_was_spoken_twice_stays() -> None:
    before = timed((0, 1, " yes"), (3, 4, " go"), (5, 6, " on"))
    after = timed((6, 7, " and"), (7, 8, " go"), (8, 9, " home"))
    assert joined([before], [after], 3, 9) == "yes go on and go home"


def test_a_first_word_that_begins_too_early_replaces_no_words() -> None:
    before = timed((3, 4, " four"), (4, 5, " five"), (5, 6, " six"))
    after = timed((3, 7, " seven"), (7, 9, " eight"))
    assert joined([before], [after], 3, 6) == "four five six seven eight"


def test_what_remains_of_a_segment_has_the_times_of_its_words() -> None:
    before = timed((0, 1, " one"), (1, 2, " two"), (2, 3, " three"), (3, 4, " four"))
    after = timed((2, 3, " three"), (3, 4, " four"), (4, 5, " five"))
    (first,), (second,) = reconcile([before], [after], 2, 4)
    assert (first.text, first.start, first.end) == (" one two three", 0, 3)
    assert (second.text, second.start, second.end) == (" four five", 3, 5)


def test_words_that_only_one_window_has_are_not_lost() -> None:
    before, after = segment(0, 6, " one two three four five six"), segment(8, 10, " seven eight")
    assert joined([before], [after], 4, 6) == "one two three four five six seven eight"
    before, after = segment(0, 3, " one two three"), segment(4, 8, " five six seven eight")
    assert joined([before], [after], 4, 6) == "one two three five six seven eight"


def test_segments_outside_the_overlap_are_unchanged() -> None:
    first, last = segment(0, 5, " Dear all,"), segment(30, 35, " all,")
    shared = segment(15, 20, " all the best"), segment(18, 22, " the best.")
    before, after = reconcile([first, shared[0]], [shared[1], last], 18, 20)
    assert before[0] == first
    assert after[-1] == last
    assert join_texts(one.text for one in (*before, *after)) == "Dear all, all the best. all,"


words = st.text("abcdef", min_size=3, max_size=8)


@given(st.lists(words, min_size=12, max_size=40, unique=True), st.data(), st.booleans())
def test_nothing_is_repeated_or_lost(spoken: list[str], data: st.DataObject, timed: bool) -> None:
    """A window may mishear the word cut by its edge. Each word takes half a second."""
    shared = data.draw(st.integers(3, 5))
    cut = data.draw(st.integers(shared, len(spoken) - shared))
    first_end, second_start = cut + shared // 2 + 1, cut - shared // 2 - 1
    heard_first, heard_second = spoken[:first_end], spoken[second_start:]
    if data.draw(st.booleans()):
        heard_first = [*heard_first[:-1], heard_first[-1][:1] + "x"]
    if data.draw(st.booleans()):
        heard_second = ["x" + heard_second[0][1:], *heard_second[1:]]

    def segments(texts: list[str], first: int) -> list[Segment]:
        timed_words = [
            Word(text=f" {text}", start=(first + at) / 2, end=(first + at + 1) / 2, probability=1.0)
            for at, text in enumerate(texts)
        ]
        text = "".join(word.text for word in timed_words)
        return [segment(first / 2, (first + len(texts)) / 2, text, timed_words if timed else ())]

    earlier, later = segments(heard_first, 0), segments(heard_second, second_start)
    assert joined(earlier, later, second_start / 2, first_end / 2) == " ".join(spoken)
    before, after = reconcile(earlier, later, second_start / 2, first_end / 2)
    assert all(one.start <= one.end for one in (*before, *after))
    if timed:
        kept = [word.text.strip() for one in (*before, *after) for word in one.words]
        assert kept == spoken


texts = st.lists(st.sampled_from(["a", "the", "no", "well.", "Yes,", "先生", "-", "and"]), max_size=12).map(
    " ".join
)
times = st.tuples(st.floats(0, 40), st.floats(0, 20))


@given(st.lists(st.tuples(times, texts), max_size=4), st.lists(st.tuples(times, texts), max_size=4), times)
def test_any_input_is_accepted(
    earlier: list[tuple[tuple[float, float], str]],
    later: list[tuple[tuple[float, float], str]],
    shared: tuple[float, float],
) -> None:
    def segments(found: list[tuple[tuple[float, float], str]]) -> list[Segment]:
        return [segment(start, start + length, text) for (start, length), text in sorted(found)]

    before, after = reconcile(segments(earlier), segments(later), shared[0], sum(shared))
    assert all(one.text for one in before if one not in segments(earlier))
    assert len(before) <= len(earlier)
    assert len(after) <= len(later)
