"""Subtitles, read back by third-party parsers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from io import StringIO

import msgspec
import pytest
import srt
import webvtt
from hypothesis import example, given
from hypothesis import strategies as st

from whisperd.jobs.line_breaks import clean, pieces
from whisperd.jobs.segments import Segment, Transcript, Word
from whisperd.outputs import FORMATS, render, verbose
from whisperd.outputs.cues import CHARACTERS_PER_SECOND, LINE_COLUMNS, LINES, LONGEST_S, cues
from whisperd.text_width import text_width

Spoken = tuple[float, float, str]

LONG = (
    " He hoped there would be stew for dinner, turnips and carrots and bruised potatoes and fat mutton"
    " pieces to be ladled out in thick, peppered, flour-fattened sauce."
)
HOSTILE = [
    " a --> b",
    " 2\n00:00:00,000 --> 00:00:09,000\nforged",
    " <i>tag</i> & <c.red>x</c> &amp;",
    " \u202eright to left\u202c and \u05e9\u05dc\u05d5\u05dd",
    " \U0001f469\u200d\U0001f469\u200d\U0001f467 family",
    "\n\n\n",
    " NOTE this",
    " [00:01.00] not a time",
    " tab\there",
    " nul\x00bell\x07",
    " # heading\n- item\n1. one\n> quote `code` *bold* [link](x)",
]


def transcript(*spoken: Spoken, words: bool = False, duration: float | None = None) -> Transcript:
    segments = tuple(
        Segment(
            id=index,
            seek=0,
            start=start,
            end=end,
            text=text,
            words=tuple(_words(start, end, text)) if words else (),
        )
        for index, (start, end, text) in enumerate(spoken)
    )
    return Transcript(
        task="transcribe",
        language="en",
        duration=(spoken[-1][1] + 1 if spoken else 1.0) if duration is None else duration,
        text=" ".join(clean(text) for _, _, text in spoken),
        segments=segments,
        runtime="base",
        elapsed=0.5,
        has_words=words,
    )


def _words(start: float, end: float, text: str) -> list[Word]:
    parts = text.split()
    step = (end - start) / max(1, len(parts))
    return [
        Word(text=f" {part}", start=start + n * step, end=start + (n + 1) * step, probability=0.5)
        for n, part in enumerate(parts)
    ]


def spoken(texts: Sequence[str], seconds: float = 4.0) -> list[Spoken]:
    return [(n * seconds, n * seconds + seconds - 0.5, text) for n, text in enumerate(texts)]


texts = st.lists(
    st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(codec="utf-8"), max_size=200)), max_size=6
)


@st.composite
def speech(draw: st.DrawFn) -> list[Spoken]:
    """Draw segments in order, without overlap, some of zero length."""
    at, found = 0.0, []
    for text in draw(texts):
        at += draw(st.floats(0, 5))
        end = at + draw(st.floats(0, 30))
        found.append((at, end, text))
        at = end
    return found


def test_a_long_sentence_is_split_after_a_clause_into_lines_of_42_columns() -> None:
    found = cues(transcript((20.0, 31.0, LONG)).segments, 40.0)
    assert [cue.texts for cue in found] == [
        ("He hoped there would be stew for dinner,", "turnips and carrots and bruised potatoes"),
        ("and fat mutton pieces to be ladled out", "in thick, peppered, flour-fattened sauce."),
    ]


def test_chinese_is_double_width_and_breaks_anywhere_but_before_punctuation() -> None:
    text = (
        "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u6563\u6b65\u5427\u3002" * 4
    )
    found = cues(transcript((0.0, 20.0, text)).segments, 20.0)
    lines = [line for cue in found for line in cue.texts]
    assert "".join(lines) == text
    assert all(text_width(line) <= LINE_COLUMNS for line in lines)
    assert not any(line[0] in "\uff0c\u3002" for line in lines)
    assert text_width("\uff0c\u6211") == 4
    assert text_width("e\u0301") == 1


def test_korean_breaks_only_at_spaces() -> None:
    assert list(pieces("\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4")) == [
        "\uc548\ub155\ud558\uc138\uc694",
        " \uc138\uacc4",
    ]


def test_japanese_breaks_neither_before_small_kana_nor_within_katakana() -> None:
    parts = list(pieces("\u30b3\u30f3\u30d4\u30e5\u30fc\u30bf\u30fc\u306f\u304d\u3087\u3046"))
    assert parts == ["\u30b3\u30f3\u30d4\u30e5\u30fc\u30bf\u30fc", "\u306f", "\u304d\u3087", "\u3046"]


def test_french_punctuation_after_spaces_stays_with_its_word() -> None:
    assert list(pieces("dit : \u00ab Bonjour ! \u00bb puis 5 % \u00bbja\u00ab !important")) == [
        "dit :",
        " \u00ab Bonjour ! \u00bb",
        " puis",
        " 5 %",
        " \u00bbja\u00ab",
        " !important",
    ]


def test_a_script_without_spaces_is_split_into_lines() -> None:
    text = (
        "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22\u0e17\u0e35\u0e48\u0e2a\u0e27\u0e22\u0e07\u0e32\u0e21"
        * 12
    )
    found = cues(transcript((0.0, 30.0, text)).segments, 30.0)
    lines = [line for cue in found for line in cue.texts]
    assert "".join(lines) == text
    assert all(text_width(line) <= LINE_COLUMNS for line in lines)
    assert not any(line[0] in "\u0e32\u0e35\u0e48" or line[-1] == "\u0e44" for line in lines)


@pytest.mark.parametrize("stacked", ["\u1780\u17d2\u1789\u17bb", "\u1014\u1039\u1010\u1031"])
def test_a_line_ends_in_no_cluster_of_consonants(stacked: str) -> None:
    """In Khmer and Burmese, a mark that puts the next consonant below the previous one joins them."""
    found = cues(transcript((0.0, 30.0, stacked[0] + stacked * 50)).segments, 30.0)
    lines = [line for cue in found for line in cue.texts]
    assert len(lines) > 1
    assert not any(line[-1] == stacked[1] for line in lines)


@pytest.mark.parametrize(
    "end", ["\u0964", "\u061f", "\u06d4", "\u1362", "\u104b", "\u17d4", "\u0f0d", "\u0589"]
)
def test_a_sentence_ends_with_the_full_stop_of_its_script(end: str) -> None:
    sentence = "aaaa bbbb cccc dddd eeee ffff" + end
    found = cues(transcript((0.0, 20.0, f"{sentence} {sentence} {sentence} {sentence}")).segments, 20.0)
    assert [line for cue in found for line in cue.texts] == [sentence] * 4
    paragraphs = render(transcript((0.0, 2.0, sentence), (5.0, 7.0, sentence)), "md").split("\n\n")
    assert len(paragraphs) == 2


@pytest.mark.parametrize("stop", ["Mr.", "J.", "am 3.", "z.B."])
def test_no_subtitle_ends_with_an_abbreviation_or_an_ordinal(stop: str) -> None:
    text = f"aaaa bbbb cccc dddd eeee ffff gggg {stop} hhhh iiii jjjj kkkk llll mmmm nnnn oooo pppp"
    found = cues(transcript((0.0, 9.0, text)).segments, 9.0)
    assert not any(line.endswith(stop) for cue in found for line in cue.texts)


def test_a_text_without_full_stops_still_has_paragraphs() -> None:
    content = render(transcript(*spoken([" one two three four five six seven" * 5] * 30)), "md")
    assert max(map(len, content.split("\n\n"))) < 1500


def test_a_cue_ends_before_a_long_pause() -> None:
    words = (
        Word(text=" Well", start=0.0, end=0.5, probability=1.0),
        Word(text=" then", start=6.0, end=6.5, probability=1.0),
    )
    segment = Segment(id=0, seek=0, start=0.0, end=6.5, text=" Well then", words=words)
    assert [cue.texts for cue in cues([segment], 10.0)] == [("Well",), ("then",)]


def test_a_short_cue_is_extended_up_to_the_next_cue() -> None:
    first, second = cues(transcript((0.0, 0.2, " Yes."), (0.5, 0.6, " No.")).segments, 10.0)
    assert first.end == 0.5
    assert second.end == pytest.approx(0.5 + 5 / 6)
    (last,) = cues(transcript((9.9, 10.0, " Yes.")).segments, 10.0)
    assert last.end == 10.0


@given(speech(), st.booleans())
def test_cues_preserve_words_and_order_and_respect_limits(said: list[Spoken], words: bool) -> None:
    whole = transcript(*said, words=words)
    found = cues(whole.segments, whole.duration)
    shown = "".join("".join(cue.texts) for cue in found)
    assert "".join(shown.split()) == "".join("".join(clean(text) for _, _, text in said).split())
    for before, after in itertools.pairwise(found):
        assert before.start <= before.end <= after.start
    for cue in found:
        assert len(cue.lines) <= LINES
        for line, text in zip(cue.lines, cue.texts, strict=True):
            # Only indivisible pieces may be wider.
            assert (
                text_width(text) <= LINE_COLUMNS
                or len(line) == 1
                or len(cue.lines) == 2 == sum(map(len, cue.lines))
            )


@given(speech())
def test_a_cue_before_a_pause_is_shown_long_enough_to_read(said: list[Spoken]) -> None:
    whole = transcript(*((start * 3, start * 3 + (end - start), text) for start, end, text in said))
    found = cues(whole.segments, whole.duration + 60)
    for cue, following in itertools.zip_longest(found, found[1:]):
        columns = sum(map(text_width, cue.texts))
        is_pressed = following is not None and cue.end >= following.start - 1e-6
        shown_s = cue.end - cue.start
        assert is_pressed or shown_s >= min(columns / CHARACTERS_PER_SECOND, LONGEST_S) - 1e-6


@given(speech(), st.booleans())
def test_srt_is_read_back_by_another_parser(said: list[Spoken], words: bool) -> None:
    whole = transcript(*said, words=words)
    read = list(srt.parse(render(whole, "srt")))
    expected = cues(whole.segments, whole.duration)
    assert [entry.index for entry in read] == list(range(1, len(expected) + 1))
    for entry, cue in zip(read, expected, strict=True):
        assert entry.content.replace("\N{LONG RIGHTWARDS ARROW}", "-->").split("\n") == list(cue.texts)
        assert entry.start.total_seconds() == pytest.approx(cue.start, abs=0.001)
        assert entry.end > entry.start, "players do not show empty cues"
        assert entry.end.total_seconds() == pytest.approx(cue.end, abs=0.0021)


@given(speech(), st.booleans())
def test_vtt_is_read_back_by_another_parser(said: list[Spoken], words: bool) -> None:
    whole = transcript(*said, words=words)
    read = webvtt.from_buffer(StringIO(render(whole, "vtt"))).captions
    expected = cues(whole.segments, whole.duration)
    assert len(read) == len(expected)
    for caption, cue in zip(read, expected, strict=True):
        shown = re.sub(r"<[^>]*>", "", caption.raw_text)
        plain = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        assert plain.split("\n") == list(cue.texts)
        assert caption.start < caption.end, "players do not show empty cues"


@pytest.mark.parametrize("format_name", ["srt", "vtt"])
def test_every_cue_has_a_length_in_milliseconds(format_name: str) -> None:
    """Players skip a cue without one."""
    written = render(transcript((0.0, 0.003, "好" * 168)), format_name)
    times = re.findall(r"(\S+) --> (\S+)", written)
    assert len(times) == 4
    assert all(start < end for start, end in times)


def test_cues_of_two_channels_may_overlap() -> None:
    question = Segment(id=0, seek=0, start=0.1, end=2.8, text=LONG, channel=0)
    answer = Segment(id=1, seek=0, start=0.2, end=2.9, text=" Yes.", channel=1)
    found = cues([question, answer], 5.0)
    assert [cue.channel for cue in found] == [0, 1, 0]
    assert all(cue.end - cue.start > 0.8 for cue in found)
    whole = Transcript(
        task="transcribe",
        language="en",
        duration=5.0,
        text="",
        segments=(question, answer),
        runtime="base",
        elapsed=0.5,
    )
    captions = webvtt.from_buffer(StringIO(render(whole, "vtt"))).captions
    assert [caption.voice for caption in captions] == ["Speaker 1", "Speaker 2", "Speaker 1"]
    assert "Speaker 2: Yes." in render(whole, "srt")
    assert render(whole, "text").splitlines()[1] == "Speaker 2: Yes."
    assert "**0:00 Speaker 2** Yes." in render(whole, "md")


def test_vtt_words_have_no_timestamp_equal_to_the_start_of_the_cue() -> None:
    words = (
        Word(text=" a", start=0.9996, end=2.0, probability=1.0),
        Word(text=" b", start=1.0004, end=2.9, probability=1.0),
    )
    segment = Segment(id=0, seek=0, start=0.9996, end=3.0, text=" a b", words=words)
    whole = msgspec.structs.replace(transcript(words=True), segments=(segment,), duration=9.0)
    assert "00:00:01.000 --> 00:00:02.900\n<c>a</c> <c>b</c>\n" in render(whole, "vtt")


def test_vtt_words_with_equal_times_share_a_timestamp_across_lines() -> None:
    long, other = "a" * 30, "c" * 35
    words = (
        Word(text=f" {long}", start=1.0, end=2.0, probability=1.0),
        Word(text=" b", start=2.0, end=2.0, probability=1.0),
        Word(text=f" {other}", start=2.0, end=4.0, probability=1.0),
    )
    segment = Segment(id=0, seek=0, start=1.0, end=4.0, text=f" {long} b {other}", words=words)
    whole = msgspec.structs.replace(transcript(words=True), segments=(segment,), duration=9.0)
    assert f"<c>{long}</c> <00:00:02.000><c>b</c>\n<c>{other}</c>\n" in render(whole, "vtt")


def test_the_speaker_is_named_with_the_first_words_not_with_silence() -> None:
    silence = Segment(id=0, seek=0, start=0.0, end=1.0, text=" ", channel=0)
    words = Segment(id=1, seek=0, start=3.0, end=4.0, text=" Yes.", channel=0)
    whole = msgspec.structs.replace(transcript(duration=5.0), segments=(silence, words))
    assert render(whole, "srt") == "1\n00:00:03,000 --> 00:00:04,000\nSpeaker 1: Yes.\n"
    assert render(whole, "lrc") == "[00:00.00] \n[00:03.00] Speaker 1: Yes.\n"


def test_vtt_words_have_increasing_timestamps() -> None:
    content = render(transcript((7201.0, 7204.0, " one two three"), words=True), "vtt")
    assert "02:00:01.000 --> 02:00:04.000" in content
    assert "<c>one</c> <02:00:02.000><c>two</c> <02:00:03.000><c>three</c>" in content


@given(speech())
def test_tsv_has_three_columns_in_each_row(said: list[Spoken]) -> None:
    rows = render(transcript(*said), "tsv").split("\n")
    assert rows[0] == "start\tend\ttext"
    assert rows[-1] == ""
    for row, (start, end, text) in zip(rows[1:-1], said, strict=True):
        assert row.split("\t") == [str(round(start * 1000)), str(round(end * 1000)), clean(text)]


@given(speech(), st.booleans())
def test_lrc_lines_start_with_one_timestamp(said: list[Spoken], words: bool) -> None:
    lines = render(transcript(*said, words=words), "lrc").splitlines()
    for line in lines:
        times = re.match(r"(\[\d+:\d\d\.\d\d\])+", line)
        assert times is not None
        assert times.group().count("[") == 1


def test_lrc_counts_minutes_beyond_the_hour() -> None:
    assert render(transcript((6003.4, 6005.0, " late")), "lrc") == "[100:03.40] late\n"


def test_markdown_has_paragraphs_and_escapes_the_text() -> None:
    content = render(
        transcript((0.0, 2.0, " # One *two*."), (2.1, 3.0, " <b>[three](x)"), (5.0, 6.0, " 1. four.")), "md"
    )
    assert content == "**0:00** \\# One \\*two\\*. \\<b\\>\\[three\\](x) 1. four.\n"
    content = render(transcript((0.0, 2.0, " One."), (2.5, 3.0, " "), (3601.0, 3602.0, " 1. two")), "md")
    assert content == "**0:00** One.\n\n**1:00:01** 1\\. two\n"


@given(texts, st.booleans())
def test_the_openai_client_reads_verbose_json(said: list[str], words: bool) -> None:
    from openai.types.audio import TranscriptionVerbose  # takes most of a second; only this test needs it

    whole = transcript(*spoken(said), words=words)
    shape = verbose(whole)
    read = TranscriptionVerbose.model_validate({**shape, "language": "en"}, strict=True)
    assert read.text == whole.text
    assert [segment.text for segment in read.segments or []] == [segment.text for segment in whole.segments]
    assert (read.words is not None) == words


@pytest.mark.parametrize("name", sorted(FORMATS))
@given(said=texts, words=st.booleans())
@example(said=HOSTILE, words=False)
@example(said=HOSTILE, words=True)
def test_every_format_accepts_any_text(said: list[str], name: str, words: bool) -> None:
    content = render(transcript(*spoken(said), words=words), name)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", content) or "json" in name
    assert content == "" or content.endswith("\n")
    content.encode()
