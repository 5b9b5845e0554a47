"""The shipped recordings, and how texts are compared with their references."""

from __future__ import annotations

import struct

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.speech import read_au, samples, word_errors, words


def test_the_recordings_are_half_a_minute_and_below_a_mebibyte() -> None:
    assert 25 < sum(sample.duration_s for sample in samples()) < 40
    assert sum(len(sample.pcm) for sample in samples()) < 1_048_576
    assert [sample.duration_s for sample in samples()] == sorted(sample.duration_s for sample in samples())


def test_every_recording_is_loud_enough_and_has_its_text() -> None:
    for sample in samples():
        loudest = max(abs(value) for value in memoryview(sample.pcm).cast("h"))
        assert loudest > 5000, sample.name
        assert sample.language == "en"
        assert 1.5 < len(words(sample.text)) / sample.duration_s < 4, sample.name


def au(samples: bytes, *, encoding: int = 1, rate: int = 16_000) -> bytes:
    return struct.pack(">4s5I", b".snd", 24, len(samples), encoding, rate, 1) + samples


def test_mu_law_is_decoded_as_g_711_specifies() -> None:
    levels = struct.unpack("<8h", read_au(au(bytes([0x00, 0x80, 0x0F, 0x8F, 0x7F, 0xFF, 0x70, 0xF0]))))
    assert levels == (-32124, 32124, -16764, 16764, 0, 0, -120, 120)


@pytest.mark.parametrize("data", [au(b"", encoding=3), au(b"", rate=8000), b"RIFF" + bytes(40)])
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="16 kHz mono"):
        read_au(data)


@pytest.mark.parametrize(
    "text, errors",
    [
        ("He was not an ill-disposed young man.", 0),
        ("he was not an ill disposed young man", 0),
        ("He was not ill-disposed, young man.", 1),
        ("He was not an ill-disposed young man. Thank you.", 2),
        ("", 8),
    ],
)
def test_case_and_punctuation_do_not_count(text: str, errors: int) -> None:
    assert word_errors("He was not an ill-disposed young man.", text) == errors


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=8).map(" ".join)


@given(WORDS, WORDS)
def test_errors_are_counted_like_jiwer_does(reference: str, text: str) -> None:
    output = jiwer.process_words(reference, text)
    assert word_errors(reference, text) == output.substitutions + output.deletions + output.insertions
