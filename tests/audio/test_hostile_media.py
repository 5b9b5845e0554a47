"""What the real decoder process makes of spoilt media: it decodes or refuses them, and lives.

The same process decodes one file after the other, as it does not in the daemon, which ends it after any
error: what one file has done to it, the next one would show.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing import CHANGES, Change, examples, spoil
from whisperd.audio import DecodeParams, DecoderOptions, Opened, WindowAudio
from whisperd.audio.clips import Clip
from whisperd.audio.messages import SAMPLE_RATE, Decoded
from whisperd.audio.pool import decoder_command
from whisperd.audio.process import Decoder, Decoding
from whisperd.isolation import isolated_environment
from whisperd.rpc.errors import WhisperdError
from whisperd.tasks import open_task_group
from whisperd_testing import LIMIT_S

pytestmark = [pytest.mark.anyio, pytest.mark.real]

SEEDS = (
    *("film.avi", "film.mkv", "film.mp4", "film.mpg", "lossless.m4a", "opus.ogg", "packed.wav"),
    *("speech.aac", "speech.ac3", "speech.aiff", "speech.asf", "speech.au", "speech.caf", "speech.flac"),
    *("speech.flv", "speech.m4a", "speech.mp2", "speech.mp3", "speech.ts", "speech.tta", "speech.w64"),
    *("speech.wav", "speech.webm", "speech.wv"),
)
"""What `media_maker.py` makes to be spoilt."""
CLIPS = [Clip(0.2, 0.5), Clip(0.6)]
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "vad": st.booleans(),
        "channels": st.sampled_from(["mix", "split"]),
        "clips": st.sampled_from([CLIPS, [Clip(20.0, 30.0)]]),
        "samples": st.integers(1, 3),
    },
)
MAX_DURATION_S = 600.0
"""A lie about a rate makes hours of a second, which are heard: so many are enough here."""
REFUSALS = ("audio.", "clips.beyond_end", "decoder.out_of_memory")


class DecoderProcess:
    """A real one, begun anew only when a file has ended it."""

    def __init__(self, tasks: Any, bundle: Path) -> None:
        self._tasks = tasks
        self._bundle = bundle
        self._decoder: Decoder | None = None

    async def decode(self, path: Path, options: dict[str, Any]) -> tuple[list[Any], Decoded]:
        """What it sends, and its answer. Raises `WhisperdError`."""
        decoder = self._decoder or await self._start()
        self._decoder = None
        params = DecodeParams(path=str(path), max_duration_s=MAX_DURATION_S, **options)
        decoding = Decoding(decoder, params, LIMIT_S)
        self._tasks.start_soon(decoding.ask)
        try:
            events = [event async for event in decoding]
        except WhisperdError as error:
            if error.code.startswith(REFUSALS):
                self._decoder = decoder
            else:
                await decoder.end()
            raise
        finally:
            decoding.close()
        self._decoder = decoder
        assert decoding.result is not None
        return events, decoding.result

    async def _start(self) -> Decoder:
        limits = DecoderOptions()
        decoder = Decoder(limits.memory_limit_bytes)
        command = decoder_command(self._bundle, limits)
        await self._tasks.start(decoder.run, command, isolated_environment(os.environ, self._bundle))
        return decoder


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def decoder(media_bundle: Path, anyio_backend: str) -> AsyncIterator[DecoderProcess]:
    async with open_task_group() as tasks:
        yield DecoderProcess(tasks, media_bundle)
        tasks.cancel_scope.cancel()


@settings(max_examples=examples(60), suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(SEEDS), changes=CHANGES, other=st.none() | st.sampled_from(SEEDS), options=OPTIONS
)
async def test_spoilt_media_is_decoded_or_refused(
    decoder: DecoderProcess,
    media: Path,
    tmp_path: Path,
    name: str,
    changes: list[Change],
    other: str | None,
    options: dict[str, Any],
) -> None:
    """Behind the spoilt file there may be another one: what a bad download leaves."""
    data = spoil((media / "seeds" / name).read_bytes(), changes)
    path = tmp_path / "spoilt"
    path.write_bytes(data + ((media / "seeds" / other).read_bytes() if other else b""))
    try:
        (opened, *events), decoded = await decoder.decode(path, options)
    except WhisperdError as error:
        assert error.code.startswith(REFUSALS), error
        assert error.fix
        assert "spoilt" in error.message
        return
    assert isinstance(opened, Opened)
    assert opened.duration is None or 0 < opened.duration < math.inf
    windows = [event for event in events if isinstance(event, WindowAudio)]
    assert decoded.windows == len(windows)
    assert all(0 <= one.start < one.end for one in windows)
    assert all(len(one.pcm) == 2 * round((one.end - one.start) * SAMPLE_RATE) for one in windows)
    assert [one.start for one in windows] == sorted(one.start for one in windows)


def test_the_seeds_are_those_that_are_made(media: Path) -> None:
    assert sorted(file.name for file in (media / "seeds").iterdir()) == sorted(SEEDS)
