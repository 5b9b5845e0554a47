"""Memory that the engine frees is retained while it computes, and returned to the system when it rests."""

from __future__ import annotations

import subprocess
import sys
from threading import Event
from typing import Any

import pytest

from whisperd.allocator import glibc
from whisperd.worker import freed_memory
from whisperd.worker.freed_memory import FreedMemory

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


class Library:
    """Records the calls to glibc."""

    def __init__(self) -> None:
        self.options: list[tuple[int, int]] = []
        self.given_back = Event()
        self.times = 0

    def mallopt(self, option: int, value: int) -> int:
        self.options.append((option, value))
        return 1

    def malloc_trim(self, _pad: int) -> int:
        self.times += 1
        self.given_back.set()
        return 1


def test_there_is_one_arena_from_the_start_and_memory_is_retained_only_after_loading() -> None:
    library = Library()
    memory = FreedMemory(library)
    assert library.options == [(ARENA_MAX, 1)]
    memory.keep()
    assert (MMAP_MAX, 0) in library.options
    assert dict(library.options)[TRIM_THRESHOLD] == -1, "never"


def test_memory_is_not_returned_while_another_replica_computes() -> None:
    library = Library()
    memory = FreedMemory(library, rest_s=0)
    with memory.computing():
        with memory.computing():
            pass
        assert memory._rest is None
    assert library.given_back.wait(30)


def test_memory_is_returned_after_a_failed_batch() -> None:
    library = Library()
    memory = FreedMemory(library, rest_s=0)
    with pytest.raises(ValueError, match="broken"), memory.computing():
        raise ValueError("broken")
    assert library.given_back.wait(30)


def test_a_batch_that_starts_during_the_rest_postpones_the_return() -> None:
    library = Library()
    memory = FreedMemory(library, rest_s=3600)
    with memory.computing():
        pass
    rest: Any = memory._rest
    with memory.computing():
        pass
    assert rest.finished.is_set(), "the first timer was not cancelled"
    assert not library.times
    rest = memory._rest
    rest.cancel()


def test_a_result_is_not_lost_if_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoThread(freed_memory.Timer):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(freed_memory, "Timer", NoThread)
    memory = FreedMemory(Library())
    for _ in range(2):
        with memory.computing():
            pass


def test_other_c_libraries_are_left_alone() -> None:
    memory = FreedMemory(None, rest_s=0)
    memory.keep()
    with memory.computing():
        pass
    assert memory._rest is None


@pytest.mark.skipif(glibc() is None, reason="the C library is not glibc")
def test_glibc_retains_large_blocks_and_returns_them() -> None:
    printed = subprocess.check_output([sys.executable, "-c", _LARGE_BLOCKS], text=True, timeout=120)
    anew, kept, given_back_mb = map(int, printed.split())
    assert anew > 4 * kept, "page faults show memory from the system"
    assert given_back_mb >= 30


_LARGE_BLOCKS = """
import ctypes, resource, time
from whisperd.allocator import glibc
from whisperd.worker.freed_memory import FreedMemory

library = glibc()
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def take(size):
    block = library.malloc(size)
    ctypes.memset(block, 1, size)
    return block

def pages(size, times=4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        library.free(take(size))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

size = 40 << 20
memory = FreedMemory(library, rest_s=0)
anew = pages(size)
memory.keep()
pages(size, 1)
kept = pages(size)
first, above = take(size), take(4096)
library.free(first)
before = resident()
with memory.computing():
    pass
deadline = time.monotonic() + 60
while before - resident() < 30 and time.monotonic() < deadline:
    time.sleep(0.01)
print(anew, kept, before - resident())
"""
