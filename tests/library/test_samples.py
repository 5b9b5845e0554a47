"""Samples in memory are converted to a WAV file."""

from __future__ import annotations

import io
import mmap
import struct
import wave
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.library.samples import is_samples, wav_pieces
from whisperd.rpc.errors import WhisperdError

RATES = st.integers(1_000, 768_000)


@given(st.lists(st.integers(-32_768, 32_767), min_size=1), RATES)
def test_integers_survive_a_round_trip(values: list[int], rate: int) -> None:
    samples = array("h", values)
    for source in (samples, samples.tobytes()):
        with wave.open(io.BytesIO(b"".join(wav_pieces(source, rate)))) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, rate)
            assert file.readframes(len(values) + 1) == samples.tobytes()


@given(st.sampled_from("fd"), st.lists(st.floats(-1, 1, width=32), min_size=1))
def test_floats_keep_their_precision(code: str, values: list[float]) -> None:
    samples = array(code, values)
    data = b"".join(wav_pieces(samples, 16_000))
    form, channels, rate, rate_bytes, frame_bytes, bits = struct.unpack_from("<HHIIHH", data, 20)
    assert (form, channels, rate, bits) == (3, 1, 16_000, 8 * samples.itemsize)
    assert (rate_bytes, frame_bytes) == (16_000 * samples.itemsize, samples.itemsize)
    assert data[44:] == samples.tobytes()
    assert struct.unpack_from("<I", data, 40)[0] == len(data) - 44
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8


def test_large_arrays_are_written_in_pieces() -> None:
    samples = array("f", bytes(4 * 1_000_000))
    pieces = list(wav_pieces(samples, 16_000))
    assert max(map(len, pieces)) <= 1024 * 1024
    assert sum(map(len, pieces)) == 44 + 4_000_000


def test_a_strided_view_is_written() -> None:
    view = memoryview(array("h", range(10)))[::2]
    assert b"".join(wav_pieces(view, 16_000))[44:] == array("h", range(0, 10, 2)).tobytes()


@pytest.mark.parametrize(
    ("source", "are_samples"),
    [
        (b"RIFF", False),
        (bytearray(4), False),
        (memoryview(b"RIFF"), False),
        (mmap.mmap(-1, 4), False),
        ("a path", False),
        (io.BytesIO(b"RIFF"), False),
        (None, False),
        (array("h", [1]), True),
        (array("f", [1.0]), True),
        (memoryview(array("d", [1.0])), True),
    ],
)
def test_which_sources_are_samples(source: object, are_samples: bool) -> None:
    assert is_samples(source) is are_samples


@pytest.mark.parametrize(
    ("source", "rate", "code"),
    [
        (array("h"), 16_000, "audio.empty"),
        (b"", 16_000, "audio.empty"),
        (b"odd", 16_000, "audio.not_samples"),
        (array("q", [1]), 16_000, "audio.not_samples"),
        (memoryview(bytes(8)).cast("h", (2, 2)), 16_000, "audio.not_samples"),
        (array("h", [1]), 0, "audio.not_samples"),
        (array("h", [1]), -16_000, "audio.not_samples"),
    ],
)
def test_invalid_samples_are_refused(source: bytes, rate: int, code: str) -> None:
    with pytest.raises(WhisperdError) as raised:
        list(wav_pieces(source, rate))
    assert raised.value.code == code and raised.value.fix
