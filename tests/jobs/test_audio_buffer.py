"""The buffer for incoming live audio: order, bounds, and the end."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.jobs.audio_buffer import HELD_S, MAX_PUSH_BYTES, AudioBuffer, AudioBufferClosed
from whisperd.tasks import open_task_group
from whisperd.worker.protocol import SAMPLE_RATE

pytestmark = pytest.mark.anyio

HELD_BYTES = int(HELD_S * 2 * SAMPLE_RATE)


@given(st.lists(st.binary(max_size=7)), st.integers(2, 9))
def test_pushed_audio_comes_out_in_whole_samples(pieces: Sequence[bytes], most: int) -> None:
    async def scenario() -> list[bytes]:
        audio_buffer, taken = AudioBuffer(), []
        for piece in pieces:
            await audio_buffer.push(piece)
        await audio_buffer.finish()
        while pcm := await audio_buffer.take(most):
            taken.append(pcm)
        return taken

    taken = anyio.run(scenario)
    assert all(len(pcm) % 2 == 0 and len(pcm) <= most for pcm in taken)
    whole = b"".join(pieces)
    assert b"".join(taken) == whole[: len(whole) // 2 * 2]


async def test_half_a_sample_waits_for_its_other_half() -> None:
    audio_buffer = AudioBuffer()
    async with open_task_group() as tasks:
        taken: list[bytes] = []

        async def take() -> None:
            taken.append(await audio_buffer.take(100))

        await audio_buffer.push(b"\x01")
        tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        assert taken == []
        await audio_buffer.push(b"\x02\x03")
    assert taken == [b"\x01\x02"]
    await audio_buffer.push(b"\x04")
    assert await audio_buffer.take(100) == b"\x03\x04"


async def test_pushes_to_a_full_buffer_wait_in_order() -> None:
    audio_buffer = AudioBuffer()
    for _ in range(HELD_BYTES // MAX_PUSH_BYTES):
        await audio_buffer.push(bytes(MAX_PUSH_BYTES))
    async with open_task_group() as tasks:
        for mark in (b"\1\1", b"\2\2", b"\3\3"):
            tasks.start_soon(audio_buffer.push, mark)
        tasks.start_soon(audio_buffer.finish)
        await anyio.wait_all_tasks_blocked()
        assert audio_buffer.held_s == HELD_S
        assert await audio_buffer.take(HELD_BYTES) == bytes(HELD_BYTES)
    assert await audio_buffer.take(100) == b"\1\1\2\2\3\3"
    assert await audio_buffer.take(100) == b""


@pytest.mark.parametrize("end", ["close", "end"])
async def test_a_waiting_push_fails_when_the_buffer_ends(end: str) -> None:
    audio_buffer, refused = AudioBuffer(), 0

    async def push() -> None:
        nonlocal refused
        with pytest.raises(AudioBufferClosed):
            await audio_buffer.push(b"\1\1")
        refused += 1

    for _ in range(HELD_BYTES // MAX_PUSH_BYTES):
        await audio_buffer.push(bytes(MAX_PUSH_BYTES))
    async with open_task_group() as tasks:
        tasks.start_soon(push)
        tasks.start_soon(push)
        await anyio.wait_all_tasks_blocked()
        getattr(audio_buffer, end)()
        if end == "end":
            assert await audio_buffer.take(HELD_BYTES) == bytes(HELD_BYTES)
    assert refused == 2
    assert await audio_buffer.take(100) == b""
    with pytest.raises(AudioBufferClosed):
        await audio_buffer.push(b"")
