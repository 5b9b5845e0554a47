"""Telling raw audio from encoded files."""

from __future__ import annotations

import io
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.cli.raw_audio import not_raw


def wav(channels: int = 1, rate: int = 16_000, width: int = 2) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(channels)
        file.setframerate(rate)
        file.setsampwidth(width)
        file.writeframes(bytes(96))
    return content.getvalue()


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"", None),
        (bytes(40), None),
        (b"RIFF", None),
        (b"RIFF    AVI " + bytes(40), None),
        (wav(), None),
        (wav(channels=2), "a WAV file (channels: 2, samples per second: 16000, bits: 16, encoding: 1)"),
        (wav(rate=44_100), "a WAV file (channels: 1, samples per second: 44100, bits: 16, encoding: 1)"),
        (wav(width=3), "a WAV file (channels: 1, samples per second: 16000, bits: 24, encoding: 1)"),
        (b"fLaC\0", "a FLAC file"),
        (b"ID3\4", "an MP3 file"),
        (b"\0\0\0\x20ftypM4A ", "an MP4 file"),
    ],
)
def test_encoded_files_are_recognised_by_their_beginning(beginning: bytes, kind: str | None) -> None:
    assert not_raw(beginning) == kind


@given(st.binary(max_size=64))
def test_any_bytes_are_accepted(beginning: bytes) -> None:
    assert not_raw(beginning) is None or beginning
