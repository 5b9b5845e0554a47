"""Keeps memory that the engine frees for its next batch, and returns it to the system when the engine idles.

By default, glibc requests every block of 32 MB or more from the system and returns it as soon as it is freed.
The attention of a long window allocates and frees such blocks several times in every layer, and the system
must clear all of their pages each time: a third of the encoder's time for a window of 26 s
(docs/benchmarks.md). Other C libraries are not configured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Timer
from typing import Any, Final

from whisperd.allocator import share_one_arena

__all__ = ["REST_S", "FreedMemory"]

REST_S: Final = 5.0
"""Free memory is returned to the system after this many seconds without a batch."""

# Parameters of `mallopt`; see mallopt(3).
_TRIM_THRESHOLD: Final = -1
_MMAP_MAX: Final = -4
_NEVER: Final = -1


class FreedMemory:
    """The free memory of this process.

    Create it before the engine starts threads: otherwise each would have its own arena, of which little can
    be returned, and which holds no block larger than 64 MB.
    """

    def __init__(self, library: Any, rest_s: float = REST_S) -> None:
        self._library = library
        self._rest_s = rest_s
        self._lock = Lock()
        self._batches = 0
        self._rest: Timer | None = None
        share_one_arena(library)

    def keep(self) -> None:
        """Keep freed memory from now on. Call it after loading, which frees much that is needed only once."""
        if self._library is not None:
            self._library.mallopt(_MMAP_MAX, 0)
            self._library.mallopt(_TRIM_THRESHOLD, _NEVER)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Wrap the computation of a batch. Free memory returns to the system `rest_s` after the last one."""
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
                    # If no thread can be started, the memory is kept for longer, but no result is lost.
                    with suppress(RuntimeError):
                        self._rest.start()

    def _give_back(self) -> None:
        self._library.malloc_trim(0)
