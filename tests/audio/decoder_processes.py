"""Pools of real decoder processes, and which of these run."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import psutil

from whisperd.audio import DecoderOptions, DecoderPool, open_decoder_pool
from whisperd_testing import LIMIT_S


def open_pool(bundle: Path, **options: Any) -> AbstractAsyncContextManager[DecoderPool]:
    async def find_bundle() -> Path:
        return bundle

    return open_decoder_pool(find_bundle, DecoderOptions(**options))


def decoders() -> list[psutil.Process]:
    """The decoder processes that are ours."""
    return [child for child in psutil.Process().children(recursive=True) if is_decoder(child)]


def is_decoder(process: psutil.Process) -> bool:
    try:
        return "whisperd.audio.decoder" in process.cmdline()
    except psutil.Error:  # it has just ended, or is a zombie
        return False


async def decoders_become(count: int) -> list[psutil.Process]:
    with anyio.fail_after(LIMIT_S):
        while len(found := decoders()) != count:
            await anyio.sleep(0.01)
    return found
