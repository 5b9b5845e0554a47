"""A daemon that gives back on SIGUSR2 what it does not need, so that its memory can be compared.

When that is done, it makes the file that the environment variable `TIDY` names.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from pathlib import Path

from whisperd.daemon.main import main


def tidy(_number: int, _frame: object) -> None:
    gc.collect()
    if sys.platform == "linux":  # else the allocator keeps pages of which it uses hardly anything
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    Path(os.environ["TIDY"]).touch()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, tidy)
    main()
