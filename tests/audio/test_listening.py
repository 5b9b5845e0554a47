"""Live speech in a real decoder process: reuse, death, standstill."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import anyio
import pytest
from decoder_processes import decoders, open_pool

from whisperd.audio import DecodeParams, DecoderPool, Listening, Utterance, open_decoder_pool
from whisperd.audio.follower import Follower, follow
from whisperd.rpc.errors import WhisperdError
from whisperd.speech import samples
from whisperd_testing import LIMIT_S

pytestmark = [pytest.mark.anyio, pytest.mark.real]
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")

SECOND = 32_000


@pytest.fixture
async def pool(media_bundle: Path) -> AsyncIterator[DecoderPool]:
    async with open_pool(media_bundle, max_processes=1) as pool:
        yield pool


async def hear(listening: Listening | Follower, pcm: bytes) -> list[Utterance]:
    found: list[Utterance] = []
    for first in range(0, len(pcm), SECOND):
        found += (await listening.feed(pcm[first : first + SECOND])).utterances
    return found


async def test_speech_is_cut_into_utterances(pool: DecoderPool) -> None:
    (sample,) = (one for one in samples() if one.name == "jfk")
    async with pool.listen() as listening:
        found = await hear(listening, sample.pcm)
        last = await listening.end()
    found += last.utterances
    finals = [one for one in found if one.is_final]
    assert last.position == pytest.approx(sample.duration_s)
    assert 2 <= len(finals) < len(found)
    assert all(before.end <= after.start for before, after in pairwise(finals))
    for one in found:
        assert one.pcm == sample.pcm[2 * round(one.start * 16_000) : 2 * round(one.end * 16_000)]
    assert decoders() == []


async def test_silence_is_nothing(pool: DecoderPool) -> None:
    async with pool.listen() as listening:
        assert await hear(listening, bytes(60 * SECOND)) == []
        assert (await listening.end()).utterances == ()


async def test_who_speaks_takes_no_file_its_place(pool: DecoderPool, recordings: Path) -> None:
    with anyio.fail_after(LIMIT_S):
        async with pool.listen() as first, pool.listen() as second:
            async with pool.decode(DecodeParams(path=str(recordings / "jfk.flac"))) as decoding:
                async for _ in decoding:
                    pass
            assert len(decoders()) == 2
            await first.end()
            await second.end()


async def test_its_process_is_used_again_after_the_end_and_only_then(pool: DecoderPool) -> None:
    pool.keep_warm = True
    with anyio.fail_after(LIMIT_S):
        while not pool._idle:
            await anyio.sleep(0.01)
        (ready,) = decoders()
        pool._keep_warm = False  # so that no other one is made ready
        async with pool.listen() as listening:
            await hear(listening, bytes(SECOND))
            pool._keep_warm = True
            await listening.end()
        assert decoders() == [ready]
        pool._keep_warm = False
        async with pool.listen() as listening:
            await hear(listening, bytes(SECOND))
        assert not ready.is_running()


@posix
async def test_a_process_that_dies_is_an_error(pool: DecoderPool) -> None:
    with pytest.raises(WhisperdError) as caught:
        async with pool.listen() as listening:
            await hear(listening, bytes(SECOND))
            (process,) = decoders()
            process.kill()
            await hear(listening, bytes(SECOND))
    assert caught.value.code == "decoder.crashed"
    assert "SIGKILL" in caught.value.message
    assert decoders() == []


@posix
@pytest.mark.parametrize("seconds", [1, 7])
async def test_where_a_process_is_killed_another_one_hears_what_was_not_over(
    pool: DecoderPool, seconds: int
) -> None:
    (sample,) = (one for one in samples() if one.name == "jfk")
    async with follow(pool) as undisturbed:
        expected = [*await hear(undisturbed, sample.pcm), *(await undisturbed.end()).utterances]
    async with follow(pool) as follower:
        found = await hear(follower, sample.pcm[: seconds * SECOND])
        (process,) = decoders()
        process.kill()
        found += await hear(follower, sample.pcm[seconds * SECOND :])
        last = await follower.end()
    found += last.utterances
    finals, wanted = ([one for one in each if one.is_final] for each in (found, expected))
    assert last.position == pytest.approx(sample.duration_s)
    for one, other in zip(finals, wanted, strict=True):
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=0.1)
        assert one.pcm == sample.pcm[2 * round(one.start * 16_000) : 2 * round(one.end * 16_000)]
    assert decoders() == []


@posix
async def test_a_process_that_stands_still_is_given_up(pool: DecoderPool) -> None:
    with pytest.raises(WhisperdError) as caught:
        async with pool.listen() as listening:
            await hear(listening, bytes(SECOND))
            (process,) = decoders()
            process.suspend()
            listening._stall_timeout_s = 0.2
            await hear(listening, bytes(SECOND))
    assert caught.value.code == "decoder.stuck"
    assert decoders() == []


@pytest.mark.parametrize("how", ["garbage", "wrong_result", "bad_result", "nothing"])
async def test_nonsense_is_an_error(how: str) -> None:
    async def find_bundle() -> Path:
        return Path()

    hostile = Path(__file__).with_name("hostile_decoder.py")
    command = [sys.executable, str(hostile), how]
    with anyio.fail_after(LIMIT_S):
        async with open_decoder_pool(find_bundle, command=lambda *_: command) as pool:
            with pytest.raises(WhisperdError) as caught:
                async with pool.listen() as listening:
                    await listening.feed(b"")
    assert caught.value.code == "decoder.crashed"
