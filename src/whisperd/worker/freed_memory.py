"""What the engine frees: kept for its next batch while it computes, given back to the system once it rests.

Linux' C library (glibc) has blocks of 32 MB and more from the system each time, and returns them at once. The
attention of a long window takes and frees such blocks several times in every layer, and the system has to
clear every page of each: a third of the encoder's time for a window of 26 s (docs/benchmarks.md). Other C
libraries are left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Timer
from typing import Any, Final

from whisperd.allocator import share_one_arena

__all__ = ["REST_S", "FreedMemory"]

REST_S: Final = 5.0
"""After so many seconds without a batch, what is free is given back."""

# Of `mallopt`, see mallopt(3).
_TRIM_THRESHOLD: Final = -1
_MMAP_MAX: Final = -4
_NEVER: Final = -1


class FreedMemory:
    """The free memory of this process.

    Make it before the engine has threads: each would have free memory of its own, of which little can be
    given back, and none larger than 64 MB.
    """

    def __init__(self, library: Any, rest_s: float = REST_S) -> None:
        self._library = library
        self._rest_s = rest_s
        self._lock = Lock()
        self._batches = 0
        self._rest: Timer | None = None
        share_one_arena(library)

    def keep(self) -> None:
        """From now on, keep what is freed. Loading a model frees much that is needed once: not before it."""
        if self._library is not None:
            self._library.mallopt(_MMAP_MAX, 0)
            self._library.mallopt(_TRIM_THRESHOLD, _NEVER)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """While a batch is computed. When none has been for `rest_s`, what is free is given back."""
        with self._lock:
            self._batches += 1
            if self._rest is not None:
                self._rest.cancel()
                self._rest = None
        try:
            yield
        finally:
            with self._lock:
                self._batches -= 1
                if not self._batches and self._library is not None:
                    self._rest = Timer(self._rest_s, self._give_back)
                    self._rest.daemon = True
                    # Where no thread can be had, it is kept for longer; a result is not lost by that.
                    with suppress(RuntimeError):
                        self._rest.start()

    def _give_back(self) -> None:
        self._library.malloc_trim(0)
