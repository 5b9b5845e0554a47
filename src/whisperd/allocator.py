"""Tunes the memory allocator of the C library, which decides when freed memory returns to the system.

glibc, the usual C library on Linux, gives each thread its own arena of free memory, little of which returns
to the system: a daemon whose threads come and go holds half as much again. So all threads share one arena.
Other C libraries are left unchanged.
"""

from __future__ import annotations

import os
from typing import Any, Final

__all__ = ["glibc", "share_one_arena"]

_ARENA_MAX: Final = -8
"""A parameter of `mallopt`, see mallopt(3)."""


def glibc() -> Any:
    """Return the C library of this process if it is glibc, else None."""
    try:
        os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):  # another system, or another library
        return None
    import ctypes  # here, since few callers need it

    return ctypes.CDLL(None)


def share_one_arena(library: Any) -> None:
    """Make all threads of this process share one arena. Call this before any thread is started."""
    if library is not None:
        library.mallopt(_ARENA_MAX, 1)
