"""A daemon with a heartbeat in its event loop: `python -m benchmarks.beating_daemon FILE [OPTION...]`.

It runs the unchanged daemon, and a task that sleeps ten milliseconds at a time. When the daemon ends, it
writes to the file, as JSON, the longest delay of the task beyond that (`stall_s`), and the most CPU time that
the loop's thread used from one beat to the next (`busy_s`), which other programs cannot lengthen.
"""

from __future__ import annotations

import atexit
import json
import sys
import time
from pathlib import Path

import anyio

from whisperd.daemon import main as daemon
from whisperd.settings import Settings, is_preloading

BEAT_S = 0.01
SETTLED_AFTER_S = 3.0
"""A starting daemon first imports its modules."""


async def beat(worst: dict[str, float]) -> None:
    """Record how long the loop takes to resume this task."""
    await anyio.sleep(SETTLED_AFTER_S)
    while True:
        began_s, thread_s = time.perf_counter(), time.thread_time()
        await anyio.sleep(BEAT_S)
        worst["stall_s"] = max(worst["stall_s"], time.perf_counter() - began_s - BEAT_S)
        worst["busy_s"] = max(worst["busy_s"], time.thread_time() - thread_s)


def main() -> None:
    """Run the daemon with the heartbeat in it."""
    path = Path(sys.argv.pop(1))
    worst = {"stall_s": 0.0, "busy_s": 0.0}
    atexit.register(lambda: path.write_text(json.dumps(worst)))

    def is_preloading_and_beating(settings: Settings) -> bool:
        # The daemon calls this in its main task, once it is fully set up.
        import asyncio

        beating.append(asyncio.get_running_loop().create_task(beat(worst)))
        return is_preloading(settings)

    beating: list[object] = []
    daemon.is_preloading = is_preloading_and_beating  # type: ignore[attr-defined]
    daemon.main()


if __name__ == "__main__":
    main()
