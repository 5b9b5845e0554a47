"""Splitting a stream into frames, whatever arrives and however it is divided."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.framing import FrameLimits, FrameReader

SMALL = FrameLimits(max_frame_bytes=4096, max_depth=6, max_items=60)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=12,
)
messages = st.lists(values, max_size=6)


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Yield the data in chunks of these sizes, repeating the last size."""
    while data:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        yield data[:size]
        data = data[size:]


def read(reader: FrameReader, pieces: Iterator[bytes]) -> list[bytes]:
    return [frame for piece in pieces for frame in reader.feed(piece)]


def depth(value: Any) -> int:
    match value:
        case list() | dict():
            inner = value if isinstance(value, list) else value.values()
            return 1 + max(map(depth, inner), default=0)
        case _:
            return 0


def items(value: Any) -> int:
    match value:
        case list():
            return 1 + sum(map(items, value))
        case dict():
            return 1 + sum(1 + items(inner) for inner in value.values())
        case _:
            return 1


@given(st.lists(messages, min_size=1, max_size=5), st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_frames_do_not_depend_on_chunking(sent: list[Any], sizes: list[int]) -> None:
    packed = [msgpack.packb(message) for message in sent]
    assert read(FrameReader(), cut(b"".join(packed), sizes)) == packed


@given(messages)
def test_limits_on_depth_and_items_are_exact(message: list[Any]) -> None:
    frame = msgpack.packb(message)
    is_fine = depth(message) <= SMALL.max_depth and items(message) <= SMALL.max_items
    try:
        assert read(FrameReader(SMALL), iter([frame])) == [frame]
        assert is_fine
    except WhisperdError as error:
        assert not is_fine
        assert error.code in ("rpc.frame_too_deep", "rpc.frame_too_large")


@given(st.binary(max_size=400), st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_garbage_raises_only_our_error(garbage: bytes, sizes: list[int]) -> None:
    try:
        frames = read(FrameReader(SMALL), cut(garbage, sizes))
    except WhisperdError as error:
        assert error.code.startswith("rpc.frame_")
        assert error.message and error.fix
    else:
        assert garbage.startswith(b"".join(frames))


@given(messages, st.data())
def test_a_damaged_frame_raises_only_our_error(message: list[Any], data: st.DataObject) -> None:
    frame = bytearray(msgpack.packb(message))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(FrameReader(SMALL), iter([bytes(frame)]))
    except WhisperdError as error:
        assert error.code.startswith("rpc.frame_")


@given(messages, st.data())
def test_the_rest_of_a_truncated_frame_is_awaited(message: list[Any], data: st.DataObject) -> None:
    frame = msgpack.packb(message)
    reader = FrameReader()
    split = data.draw(st.integers(0, len(frame) - 1))
    assert read(reader, iter([frame[:split]])) == []
    assert read(reader, iter([frame[split:]])) == [frame]


@pytest.mark.parametrize("size", [4095, 4096, 4097])
def test_the_limit_on_bytes_is_exact(size: int) -> None:
    frame = msgpack.packb([b"x" * (size - 4)])
    assert len(frame) == size
    reader = FrameReader(SMALL)
    if size <= SMALL.max_frame_bytes:
        assert read(reader, cut(frame, [100])) == [frame]
    else:
        with pytest.raises(WhisperdError, match="larger than 4,096 bytes"):
            read(reader, cut(frame, [100]))


def test_the_limit_applies_to_a_frame_not_to_a_chunk() -> None:
    frame = msgpack.packb([b"x" * 3000])
    assert read(FrameReader(SMALL), iter([frame * 50])) == [frame] * 50


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("array", b"\x94\x00\x01\xa1m\xdd\xff\xff\xff\xff"),
        ("map", b"\x94\x00\x01\xa1m\xdf\xff\xff\xff\xff"),
        ("text", b"\x94\x00\x01\xa1m\xdb\xff\xff\xff\xff"),
        ("bytes", b"\x94\x00\x01\xa1m\xc6\xff\xff\xff\xff"),
        ("extension", b"\x94\x00\x01\xa1m\xc9\xff\xff\xff\xff\x01"),
    ],
)
def test_a_claim_of_four_billion_elements_costs_nothing(name: str, head: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WhisperdError) as caught:
            read(FrameReader(SMALL), iter([head] + [b"\x01" * 1000] * 10))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # msgpack takes an extension of this length for an empty one, then finds a number in place of a message.
    assert caught.value.code == f"rpc.frame_{'malformed' if name == 'extension' else 'too_large'}"
    assert peak_bytes < 100_000


@pytest.mark.parametrize("element", [b"\x90", b"\x80", b"\xc0", b"\x91\x90"])
def test_memory_is_bounded_by_the_size_of_a_frame(element: bytes) -> None:
    """Two megabytes of empty lists would become a hundred megabytes of objects."""
    count = 2_000_000 // len(element)
    frame = b"\x91\xdd" + count.to_bytes(4, "big") + element * count
    pieces = [frame[at : at + 65536] for at in range(0, len(frame), 65536)]
    tracemalloc.start()
    try:
        with pytest.raises(WhisperdError) as caught:
            read(FrameReader(), iter(pieces))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "rpc.frame_too_large"
    assert peak_bytes < 4 * len(frame)


@pytest.mark.parametrize("opening", [b"\x91", b"\xdc\x00\x01", b"\x81\xa1k"])
@pytest.mark.parametrize("levels", [17, 200, 1_000_000])
def test_nesting_is_refused_however_deep(opening: bytes, levels: int) -> None:
    frame = b"\x91" + opening * levels + b"\xc0"
    with pytest.raises(WhisperdError) as caught:
        read(FrameReader(), iter([frame]))
    assert caught.value.code == "rpc.frame_too_deep"


@pytest.mark.parametrize("frame", [b"\x01", b"\xa3abc", b"\x80", b"\xc1"])
def test_a_frame_other_than_an_array_is_refused(frame: bytes) -> None:
    with pytest.raises(WhisperdError) as caught:
        read(FrameReader(), iter([frame]))
    assert caught.value.code == "rpc.frame_malformed"
