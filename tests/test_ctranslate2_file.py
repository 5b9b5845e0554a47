"""Locating the variables of a model in CTranslate2's format, in valid and damaged files."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctranslate2_models import string, weights
from fuzzing import CHANGES, Change, spoil
from whisperd.ctranslate2_file import (
    UnreadableModel,
    aliases_bytes,
    head_bytes,
    read_index,
    variable_bytes,
)

HEADS = string("decoder/num_heads")


def rewritten(data: bytes) -> bytes:
    """Write a file again from its index."""
    index = read_index(BytesIO(data))
    parts = [head_bytes(index, len(index.variables))]
    for name, one in index.variables.items():
        parts.append(variable_bytes(name, one.type, one.shape, one.size_bytes))
        parts.append(data[one.offset : one.offset + one.size_bytes])
    return b"".join([*parts, aliases_bytes(index)])


@pytest.mark.parametrize("alias", [False, True])
def test_a_file_survives_a_round_trip(alias: bool) -> None:
    assert rewritten(weights(alias=alias)) == weights(alias=alias)


def test_a_variable_is_found_by_its_other_name() -> None:
    index = read_index(BytesIO(weights(alias=True)))
    assert index.find("decoder/num_heads") == index.find("encoder/num_heads") is not None
    assert index.find("decoder/nothing") is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "damaged"),
        (struct.pack("<I", 7) + weights()[4:], "version 7 of CTranslate2's format"),
        (weights().replace(b"WhisperSpec", b"WeatherSpec"), "^model.bin is not a Whisper model in"),
        (b"<!DOCTYPE html>" + b" " * 99_999, "^model.bin is not a Whisper model in"),
        (weights()[:90], "truncated"),
        (weights(layers=[0, 0]), "same name"),
        (weights()[:-60], "damaged"),
        (weights().replace(HEADS + b"\0\2", HEADS + b"\0\x77"), "type"),
    ],
)
def test_an_unreadable_file_says_why(data: bytes, said: str) -> None:
    with pytest.raises(UnreadableModel, match=said):
        read_index(BytesIO(data))


@given(changes=CHANGES, alias=st.booleans())
def test_a_corrupted_file_is_read_or_refused(changes: list[Change], alias: bool) -> None:
    data = spoil(weights(alias=alias), changes)
    try:
        index = read_index(BytesIO(data))
    except UnreadableModel:
        return
    assert all(one.offset + one.size_bytes <= len(data) for one in index.variables.values())
