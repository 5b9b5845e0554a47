"""What the daemon makes of decoders that send nonsense, with processes that only pretend to be one."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest
from hostile_decoder import ANSWERS

from whisperd.audio import DecodeParams, DecoderOptions, DecoderPool, Opened, open_decoder_pool
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio

HOSTILE = str(Path(__file__).with_name("hostile_decoder.py"))
CODES = {"wrong_error": "rpc.foreign_error", "mistake": "process.failed"}


async def find_bundle() -> Path:
    return Path()


async def outcome(pool: DecoderPool) -> WhisperdError:
    events = []
    with pytest.raises(WhisperdError) as caught:
        async with pool.decode(DecodeParams(path="film.mkv")) as decoding:
            async for event in decoding:
                events.append(event)
    assert [type(event) for event in events] == [Opened]
    return caught.value


@pytest.mark.parametrize("how", ANSWERS)
async def test_nonsense_is_an_error_of_its_file_alone(how: str, caplog: pytest.LogCaptureFixture) -> None:
    command = [sys.executable, HOSTILE, how]
    with anyio.fail_after(LIMIT_S):
        async with open_decoder_pool(find_bundle, command=lambda *_: command) as pool:
            for _ in range(2):
                caplog.clear()
                error = await outcome(pool)
                assert error.code == CODES.get(how, "decoder.crashed")
                assert ("daemon restart" in error.fix) == (how not in CODES)  # perhaps it was upgraded
                assert ("the reason" in caplog.text) == (how != "wrong_error")


async def test_a_decoder_that_says_nothing_more_is_stuck() -> None:
    command = [sys.executable, HOSTILE, "half_a_frame", "and stay"]
    options = DecoderOptions(stall_timeout_s=LIMIT_S)
    async with open_decoder_pool(find_bundle, options, command=lambda *_: command) as pool:
        with pytest.raises(WhisperdError) as caught:
            async with pool.decode(DecodeParams(path="film.mkv")) as decoding:
                async for event in decoding:
                    assert isinstance(event, Opened)
                    decoding._stall_timeout_s = 0.2  # from now on: a process may take long to begin
    assert caught.value.code == "decoder.stuck"


async def test_a_bundle_that_cannot_be_had_is_the_error_of_whoever_asks() -> None:
    async def no_bundle() -> Path:
        raise WhisperdError("native.offline", "The bundle is not here.", "Go online.")

    async with open_decoder_pool(no_bundle) as pool:
        pool.keep_warm = True
        with pytest.raises(WhisperdError) as caught:
            async with pool.decode(DecodeParams(path="film.mkv")):
                pass
        assert caught.value.code == "native.offline"


async def test_a_program_that_cannot_be_started_is_the_error_of_whoever_asks(tmp_path: Path) -> None:
    async with open_decoder_pool(find_bundle, command=lambda *_: [str(tmp_path / "none")]) as pool:
        pool.keep_warm = True
        with pytest.raises(WhisperdError) as caught:
            async with pool.decode(DecodeParams(path="film.mkv")):
                pass
    assert caught.value.code == "decoder.not_started"
