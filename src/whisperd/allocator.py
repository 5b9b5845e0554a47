"""The memory allocator of the C library, which decides when what is freed goes back to the system.

Linux' C library (glibc) gives each thread a part of its own of the free memory, an arena, of which little
finds its way back to the system: a daemon whose threads come and go holds half as much again. So there is
one for all. Other C libraries are left as they are.
"""

from __future__ import annotations

import os
from typing import Any, Final

__all__ = ["glibc", "share_one_arena"]

_ARENA_MAX: Final = -8
"""Of `mallopt`, see mallopt(3)."""


def glibc() -> Any:
    """The C library of this process, where it is glibc; else None."""
    try:
        os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):  # another system, or another library
        return None
    import ctypes  # not before: few need it

    return ctypes.CDLL(None)


def share_one_arena(library: Any) -> None:
    """Have all threads of this process take memory from one place; to be called before there are any."""
    if library is not None:
        library.mallopt(_ARENA_MAX, 1)
