"""The daemon's hold on decoder processes: reuse, death, standstill, backpressure, cancelling."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from decoder_processes import decoders, decoders_become, open_pool

from whisperd.audio import DecodeParams, DecoderPool, Decoding, WindowAudio
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import LIMIT_S

pytestmark = [pytest.mark.anyio, pytest.mark.real]
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")

MIB = 1024**2


@pytest.fixture
async def pool(media_bundle: Path) -> AsyncIterator[DecoderPool]:
    async with open_pool(media_bundle) as pool:
        yield pool


async def first_window(decoding: Decoding) -> WindowAudio:
    async for event in decoding:
        if isinstance(event, WindowAudio):
            return event
    raise AssertionError("no window")


async def decode(pool: DecoderPool, path: Path) -> None:
    async with pool.decode(DecodeParams(path=str(path))) as decoding:
        async for _ in decoding:
            pass


async def test_no_process_runs_before_or_after_it_is_needed(pool: DecoderPool, recordings: Path) -> None:
    assert decoders() == []
    await decode(pool, recordings / "jfk.flac")
    assert decoders() == []


async def test_one_process_stands_ready_as_long_as_that_is_wanted(
    media_bundle: Path, recordings: Path
) -> None:
    async with open_pool(media_bundle, refill_delay_s=3600.0) as pool:
        pool.keep_warm = True
        (ready,) = await decoders_become(1)
        await decode(pool, recordings / "jfk.flac")
        await decode(pool, recordings / "austen-0880.wav")
        assert decoders() == [ready]
        pool.keep_warm = False
        await decoders_become(0)


async def test_a_process_that_comes_back_while_another_is_made_ready_makes_no_second(
    media_bundle: Path, recordings: Path
) -> None:
    async with open_pool(media_bundle, refill_delay_s=0.0) as pool:
        pool.keep_warm = True
        await decoders_become(1)
        for _ in range(3):
            await decode(pool, recordings / "jfk.flac")
            await decoders_become(1)


async def test_a_long_file_does_not_leave_the_next_one_without_a_ready_process(
    media_bundle: Path, media: Path
) -> None:
    async with open_pool(media_bundle, refill_delay_s=0.0) as pool:
        pool.keep_warm = True
        await decoders_become(1)
        async with pool.decode(DecodeParams(path=str(media / "long.wav"))) as decoding:
            await first_window(decoding)
            await decoders_become(2)
        await decoders_become(1)


async def test_processes_that_were_needed_together_are_there_for_the_next_files(
    media_bundle: Path, recordings: Path
) -> None:
    both = [DecodeParams(path=str(recordings / name)) for name in ("jfk.flac", "austen-0880.wav")]

    async def decode_both(pool: DecoderPool) -> None:
        async with pool.decode(both[0]) as one, pool.decode(both[1]) as other:
            for decoding in (one, other):
                async for _ in decoding:
                    pass

    short = {"refill_delay_s": 3600.0, "patience_s": 0.0}
    async with open_pool(media_bundle, **short, linger_s=3600.0) as pool:
        pool.keep_warm = True
        await decoders_become(1)
        await decode_both(pool)
        two = await decoders_become(2)
        await decode_both(pool)
        assert {one.pid for one in decoders()} == {one.pid for one in two}
    async with open_pool(media_bundle, **short, linger_s=0.2) as pool:
        pool.keep_warm = True
        await decoders_become(1)
        await decode_both(pool)
        await decoders_become(1)


async def test_one_that_was_made_ready_beside_a_file_stays_when_that_is_done(
    media_bundle: Path, recordings: Path
) -> None:
    params = DecodeParams(path=str(recordings / "jfk.flac"))
    async with open_pool(media_bundle, refill_delay_s=0.0, linger_s=3600.0) as pool:
        pool.keep_warm = True
        await decoders_become(1)
        async with pool.decode(params) as decoding:
            with anyio.fail_after(LIMIT_S):
                while not pool._idle:
                    await anyio.sleep(0.01)
            two = {one.pid for one in decoders()}
            async for _ in decoding:
                pass
        async with pool.decode(params), pool.decode(params):
            assert {one.pid for one in decoders()} == two


async def test_short_files_that_come_together_take_turns_in_one_process(
    media_bundle: Path, recordings: Path
) -> None:
    async with open_pool(media_bundle, max_processes=6, refill_delay_s=3600.0, patience_s=3600.0) as pool:
        pool.keep_warm = True
        (ready,) = await decoders_become(1)
        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as tasks:
                for _ in range(6):
                    tasks.start_soon(decode, pool, recordings / "austen-0880.wav")
        assert decoders() == [ready]


async def test_a_file_waits_for_no_decoder_that_stays_away(media_bundle: Path, media: Path) -> None:
    async with open_pool(media_bundle, refill_delay_s=3600.0, patience_s=0.01) as pool:
        pool.keep_warm = True
        await decoders_become(1)
        params = DecodeParams(path=str(media / "long.wav"))
        with anyio.fail_after(LIMIT_S):
            async with pool.decode(params) as long:
                await first_window(long)
                async with pool.decode(params) as other:
                    await first_window(other)
                    await decoders_become(2)


async def test_a_file_waits_for_none_that_is_ended_after_its_file(media_bundle: Path, media: Path) -> None:
    params = DecodeParams(path=str(media / "long.wav"))
    async with open_pool(media_bundle, patience_s=3600.0) as pool:
        with anyio.fail_after(LIMIT_S):
            async with pool.decode(params), pool.decode(params) as other:
                await first_window(other)


async def test_a_file_that_is_alone_waits_for_none(media_bundle: Path, recordings: Path) -> None:
    async with open_pool(media_bundle, refill_delay_s=3600.0, patience_s=3600.0) as pool:
        pool.keep_warm = True
        (ready,) = await decoders_become(1)
        ready.kill()
        with anyio.fail_after(LIMIT_S):
            await decode(pool, recordings / "jfk.flac")


async def test_a_file_that_waits_has_a_process_that_is_made_ready(media_bundle: Path, media: Path) -> None:
    params = DecodeParams(path=str(media / "long.wav"))
    async with open_pool(media_bundle, max_processes=3, refill_delay_s=0.2, patience_s=3600.0) as pool:
        pool.keep_warm = True
        await decoders_become(1)
        with anyio.fail_after(LIMIT_S):
            async with pool.decode(params), pool.decode(params) as other:
                await first_window(other)


async def test_no_process_is_made_ready_beside_as_many_files_as_may_be(
    media_bundle: Path, media: Path
) -> None:
    """And the one that is made ready while the last of them comes is for that file."""
    params = DecodeParams(path=str(media / "long.wav"))
    async with open_pool(media_bundle, max_processes=2, refill_delay_s=0.0, patience_s=0.0) as pool:
        pool.keep_warm = True
        await decoders_become(1)
        with anyio.fail_after(LIMIT_S):
            async with pool.decode(params) as one, pool.decode(params) as other:
                await first_window(one)
                await first_window(other)
                await anyio.wait_all_tasks_blocked()
                assert len(decoders()) == 2


async def test_a_file_that_waits_sleeps(media_bundle: Path, media: Path, recordings: Path) -> None:
    """Also after a process has come back to another one."""
    async with open_pool(media_bundle, refill_delay_s=3600.0, patience_s=3600.0) as pool:
        pool.keep_warm = True
        await decoders_become(1)
        await decode(pool, recordings / "jfk.flac")
        params = DecodeParams(path=str(media / "long.wav"))
        with anyio.fail_after(LIMIT_S):
            async with pool.decode(params) as long, anyio.create_task_group() as tasks:
                await first_window(long)
                tasks.start_soon(decode, pool, recordings / "jfk.flac")
                await anyio.wait_all_tasks_blocked()  # which a task that asks on and on never is
                tasks.cancel_scope.cancel()


async def test_who_is_not_patient_has_a_process_of_its_own(media_bundle: Path, media: Path) -> None:
    """And who speaks is not."""
    async with open_pool(media_bundle, refill_delay_s=3600.0, patience_s=3600.0) as pool:
        pool.keep_warm = True
        await decoders_become(1)
        params = DecodeParams(path=str(media / "long.wav"))
        with anyio.fail_after(LIMIT_S):
            async with pool.decode(params) as long:
                await first_window(long)
                async with pool.decode(params, is_patient=False) as other:
                    await first_window(other)
                    await decoders_become(2)
                    async with pool.listen():
                        await decoders_become(3)


async def test_a_process_with_other_limits_is_replaced(pool: DecoderPool, media: Path) -> None:
    pool.keep_warm = True
    (first,) = await decoders_become(1)
    pool.limit(stall_timeout_s=30.0, memory_limit_bytes=2**30 - 4096)
    with anyio.fail_after(LIMIT_S):
        while first.is_running():
            await anyio.sleep(0.01)
    (second,) = await decoders_become(1)
    assert second.cmdline()[-1] == str(2**30 - 4096)
    # Also one that was at work meanwhile.
    async with pool.decode(DecodeParams(path=str(media / "long.wav"))) as decoding:
        await first_window(decoding)
        pool.limit(stall_timeout_s=30.0, memory_limit_bytes=2**30)
        async for _ in decoding:
            pass
    with anyio.fail_after(LIMIT_S):
        while second.is_running():
            await anyio.sleep(0.01)
    (third,) = await decoders_become(1)
    assert third.cmdline()[-1] == str(2**30)


async def test_a_process_that_met_an_error_is_not_used_again(pool: DecoderPool, media: Path) -> None:
    pool.keep_warm = True
    (first,) = await decoders_become(1)
    with pytest.raises(WhisperdError):
        await decode(pool, media / "text.wav")
    assert not first.is_running()
    (second,) = await decoders_become(1)
    assert second != first


async def test_a_ready_process_that_died_is_not_used(pool: DecoderPool, recordings: Path) -> None:
    pool.keep_warm = True
    (ready,) = await decoders_become(1)
    ready.kill()
    await decoders_become(0)
    await decode(pool, recordings / "jfk.flac")


async def test_only_so_many_files_are_decoded_at_once(media_bundle: Path, media: Path) -> None:
    most = 0

    async def decode_and_count(pool: DecoderPool) -> None:
        nonlocal most
        async with pool.decode(DecodeParams(path=str(media / "speech.mp3"))) as decoding:
            await first_window(decoding)
            most = max(most, len(decoders()))
            async for _ in decoding:
                pass

    async with open_pool(media_bundle, max_processes=2) as pool, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(decode_and_count, pool)
    assert most == 2


@posix
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
async def test_a_decoder_that_dies_in_mid_file_is_an_error_of_that_file_alone(
    pool: DecoderPool, media: Path, name: str
) -> None:
    with pytest.raises(WhisperdError) as caught:
        async with pool.decode(DecodeParams(path=str(media / "long.wav"))) as decoding:
            await first_window(decoding)
            (process,) = decoders()
            process.send_signal(signal.Signals[name])
            async for _ in decoding:
                pass
    assert caught.value.code == "decoder.crashed"
    assert name in caught.value.message
    assert ("damaged" in caught.value.fix) == (name == "SIGSEGV")
    assert decoding.result is None
    await decode(pool, media / "speech.mp3")
    assert decoders() == []


@posix
async def test_a_decoder_that_stands_still_is_given_up(media_bundle: Path, media: Path) -> None:
    async with open_pool(media_bundle) as pool:
        with pytest.raises(WhisperdError) as caught:
            async with pool.decode(DecodeParams(path=str(media / "long.wav"))) as decoding:
                await first_window(decoding)
                (process,) = decoders()
                process.suspend()
                decoding._stall_timeout_s = 0.5
                async for _ in decoding:
                    pass
        assert caught.value.code == "decoder.stuck"
        assert decoders() == []


async def test_a_slow_consumer_holds_the_decoder_back_and_is_not_taken_for_a_stuck_one(
    media_bundle: Path, media: Path
) -> None:
    async with open_pool(media_bundle) as pool:
        async with pool.decode(DecodeParams(path=str(media / "long.wav"))) as decoding:
            await first_window(decoding)
            (process,) = decoders()
            used_s, decoding._stall_timeout_s = -1.0, 2.0
            while (now_s := sum(process.cpu_times()[:2])) > used_s:  # until it waits for us
                used_s = now_s
                await anyio.sleep(0.6)
            await anyio.sleep(1.5)  # longer than the time limit in all
            windows = [await first_window(decoding)]
            decoding._stall_timeout_s = LIMIT_S
            windows += [event async for event in decoding if isinstance(event, WindowAudio)]
        assert decoding.result is not None
        assert decoding.result.windows == len(windows) + 1
        assert windows[0].end < 120  # it had not gone on without us


async def test_cancelling_leaves_no_process(pool: DecoderPool, media: Path) -> None:
    with anyio.CancelScope() as scope:
        async with pool.decode(DecodeParams(path=str(media / "long.wav"))) as decoding:
            await first_window(decoding)
            assert len(decoders()) == 1
            scope.cancel()
            await first_window(decoding)
    assert scope.cancelled_caught
    assert decoders() == []


async def test_a_consumer_that_leaves_early_leaves_no_process(pool: DecoderPool, media: Path) -> None:
    pool.keep_warm = True
    (ready,) = await decoders_become(1)
    async with pool.decode(DecodeParams(path=str(media / "long.wav"))) as decoding:
        await first_window(decoding)
    assert not ready.is_running()


async def test_a_closed_pool_leaves_no_process(media_bundle: Path, recordings: Path) -> None:
    async with open_pool(media_bundle) as pool:
        pool.keep_warm = True
        await decoders_become(1)
    assert decoders() == []


async def test_a_consumer_error_comes_through_as_it_is(pool: DecoderPool, media: Path) -> None:
    with pytest.raises(LookupError):
        async with pool.decode(DecodeParams(path=str(media / "long.wav"))) as decoding:
            await first_window(decoding)
            raise LookupError


async def test_a_process_that_cannot_be_started_is_reported(
    tmp_path: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(anyio, "open_process", refuse)
    async with open_pool(tmp_path) as pool:
        with pytest.raises(WhisperdError, match="Too many open files") as caught:
            await decode(pool, recordings / "jfk.flac")
    assert caught.value.code == "decoder.not_started"


async def test_a_bundle_that_is_broken_is_reported(tmp_path: Path, recordings: Path) -> None:
    async with open_pool(tmp_path) as pool:
        with pytest.raises(WhisperdError) as caught:
            await decode(pool, recordings / "jfk.flac")
    assert caught.value.code == "decoder.crashed"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel sets no such limit")
async def test_a_decoder_gets_no_more_memory_than_it_may_have(media_bundle: Path, media: Path) -> None:
    async with open_pool(media_bundle, memory_limit_bytes=16 * MIB) as pool:
        with pytest.raises(WhisperdError) as caught:
            await decode(pool, media / "speech.mp3")
    assert caught.value.code in {"decoder.crashed", "decoder.out_of_memory"}


async def test_a_long_file_is_told_as_it_goes_in_little_memory(pool: DecoderPool, media: Path) -> None:
    windows, most_bytes = [], 0
    async with pool.decode(DecodeParams(path=str(media / "long.wav"))) as decoding:
        async for event in decoding:
            if isinstance(event, WindowAudio):
                windows.append((event.start, event.end))
                (process,) = decoders()
                most_bytes = max(most_bytes, process.memory_info().rss)
    assert decoding.result is not None
    assert decoding.result.duration == pytest.approx(1199, abs=0.1)
    assert decoding.result.windows == len(windows) > 1199 / 26
    assert decoding.result.speech < sum(end - start for start, end in windows) < 1199
    assert [*itertools.chain(*windows)] == sorted(itertools.chain(*windows))
    assert most_bytes < 200 * MIB
