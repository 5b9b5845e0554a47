"""What a file is by its beginning."""

from __future__ import annotations

import io
import wave
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.audio.kinds import BEGINNING_BYTES, is_outdated_wav, is_single_ogg, is_wav, kind_of
from whisperd_testing import AUDIO


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "<document/>")
    return file.getvalue()


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        ("Grüße aus Köln, 12.3.\n".encode(), "a text file"),
        (b"\xef\xbb\xbf1\r\n00:00:01,000 --> 00:00:02,000\r\nYes.\r\n", "a text file"),
        (("a" * (BEGINNING_BYTES - 1) + "é").encode()[:BEGINNING_BYTES], "a text file"),
        (b"\n<!DOCTYPE HTML><title>Not found</title>", "a web page"),
        (b"#EXTM3U\nhttp://radio/stream\n", "a playlist, which contains no audio"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (zipped(), "a ZIP archive, which may be an office document"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "an image"),
        (b"", None),
        (b"RIFF\x24\0\0\0WAVEfmt ", None),
        (b"\xff\xfb\x90\x64\0\0", None),
        (b"text with \x07", None),
    ],
)
def test_what_it_is(beginning: bytes, kind: str | None) -> None:
    assert kind_of(beginning) == kind


def test_a_recording_is_none_of_them() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes(bytes(8000))
    assert kind_of(file.getvalue()[:BEGINNING_BYTES]) is None
    for recording in AUDIO.iterdir():
        if recording.suffix in (".flac", ".wav", ".ogg", ".mp3"):
            assert kind_of(recording.read_bytes()[:BEGINNING_BYTES]) is None, recording


@pytest.mark.parametrize("mark", [b"RIFF", b"RF64", b"BW64", b"RIFX"])
def test_a_wav_of_any_kind(mark: bytes) -> None:
    assert is_wav(mark + b"\x24\0\0\0WAVEfmt ")


@pytest.mark.parametrize("beginning", [b"RIFF\x24\0\0\0AVI LIST", b"fLaC", b"", b"Dear reader, RIFF"])
def test_what_is_no_wav(beginning: bytes) -> None:
    assert not is_wav(beginning)


@pytest.mark.parametrize(
    ("beginning", "size", "is_outdated"),
    [
        (b"RIFF\0\1\0\0WAVEfmt ", 10_000, True),
        (b"RIFF\0\1\0\0WAVEfmt ", 264, False),
        (b"RIFF\0\1\0\0WAVEfmt ", 500, False),  # something is appended
        (b"RIFF\0\0\0\0WAVEfmt ", 10_000, False),  # the size is unknown
        (b"RF64\0\1\0\0WAVEds64", 10_000, False),
        (b"RIFF\0\1\0\0AVI LIST", 10_000, False),
    ],
)
def test_a_wav_that_is_far_larger_than_its_header_says(
    beginning: bytes, size: int, is_outdated: bool
) -> None:
    assert is_outdated_wav(beginning, size) == is_outdated


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(beginning: bytes) -> None:
    kind_of(beginning)
    is_wav(beginning)
    is_outdated_wav(beginning, 1)


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=99))
def test_words_are_a_text(text: str) -> None:
    assert kind_of(b"Dear reader, " + text.encode()) == "a text file"


def pages(*pages: tuple[int, bytes]) -> bytes:
    """Return pages of an Ogg file by their flags and tracks."""
    return b"".join(
        b"OggS\0" + bytes([flags]) + bytes(8) + track.ljust(4, b"\0") + b"content" for flags, track in pages
    )


@pytest.mark.parametrize(
    ("beginning", "ending", "is_single"),
    [
        (pages((2, b"a"), (0, b"a")), pages((0, b"a"), (4, b"a")), True),
        (pages((2, b"film"), (2, b"a"), (0, b"film")), pages((4, b"a")), True),
        (pages((2, b"a"), (0, b"a"), (4, b"a"), (2, b"b")), pages((0, b"b"), (4, b"b")), False),
        (pages((2, b"a"), (0, b"a")), b"damaged", False),
        (b"RIFF", pages((4, b"a")), False),
    ],
)
def test_an_ogg_file_is_one_recording_if_it_ends_with_a_track_of_its_beginning(
    beginning: bytes, ending: bytes, is_single: bool
) -> None:
    assert is_single_ogg(beginning, ending) == is_single


@given(st.lists(st.sampled_from([b"OggS\0", b"\2", b"\0", b"abcd"])).map(b"".join), st.binary())
def test_any_bytes_may_claim_to_be_ogg(beginning: bytes, ending: bytes) -> None:
    is_single_ogg(beginning, ending)
