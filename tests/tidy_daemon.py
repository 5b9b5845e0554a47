"""A daemon that gives back on SIGUSR2 what it does not need, and tells what it still has.

When that is done, there is the file that the environment variable `TIDY` names: a map in JSON.
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
"""How the names of threads begin that wait for work; those that have none for a while end."""


def tidy(_number: int, _frame: object) -> None:
    gc.collect()
    if sys.platform == "linux":  # else the allocator keeps pages of which it uses hardly anything
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    blocks = sys.getallocatedblocks()
    path = Path(os.environ["TIDY"])
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps({"blocks": blocks, **what_is_there()}))
    new.replace(path)


def what_is_there() -> dict[str, Any]:
    """Tasks by what they do, objects by their types, threads and those of the pool: how many there are."""
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
