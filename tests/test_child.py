"""Child processes that die while they are being written to."""

from __future__ import annotations

import asyncio
import gc
import sys

import anyio
import pytest

from whisperd.child import kill, open_child


def test_the_broken_pipe_of_a_dead_child_is_not_reported_as_a_bug() -> None:
    problems: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, problem: problems.append(problem))
        async with open_child([sys.executable, "-c", "input()"]) as process:
            assert process.stdin is not None
            kill(process)
            with pytest.raises(anyio.BrokenResourceError):
                while True:
                    await process.stdin.send(bytes(2**20))

    asyncio.run(main())
    gc.collect()
    assert problems == []
