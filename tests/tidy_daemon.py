"""A daemon that frees unneeded memory on SIGUSR2 and reports what it still holds.

The report is a JSON map in the file named by the environment variable `TIDY`, which appears when it is done.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from whisperd.daemon.main import main

POOLED = "AnyIO worker"
"""The prefix of the names of pool threads, which end after a while without work."""


def tidy(_number: int, _frame: object) -> None:
    gc.collect()
    if sys.platform == "linux":  # without this, the allocator keeps pages that are mostly unused
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    blocks = sys.getallocatedblocks()
    path = Path(os.environ["TIDY"])
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps({"blocks": blocks, **census()}))
    new.replace(path)


def census() -> dict[str, Any]:
    """Count tasks by name, objects by type, all threads, and those of the pool."""
    tasks = Counter(task.get_name() for task in asyncio.all_tasks())
    objects = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
    return {
        "tasks": tasks,
        "objects": objects,
        "threads": psutil.Process().num_threads(),
        "pooled_threads": sum(POOLED in thread.name for thread in threading.enumerate()),
    }


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, tidy)
    main()
