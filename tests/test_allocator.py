"""All threads of a process share one arena of the C library, if it has arenas."""

from __future__ import annotations

import subprocess
import sys

import pytest

from whisperd.allocator import glibc, share_one_arena


def test_other_c_libraries_are_left_alone() -> None:
    share_one_arena(None)


@pytest.mark.skipif(glibc() is None, reason="the C library is not glibc")
def test_glibc_has_one_arena_for_all_threads() -> None:
    assert count_arenas("pass") > 1
    assert count_arenas("share_one_arena(library)") == 1


def count_arenas(first: str) -> int:
    """Count the arenas of a process that runs `first`, then eight threads that all hold memory."""
    return int(subprocess.check_output([sys.executable, "-c", _THREADS, first], text=True, timeout=120))


_THREADS = """
import ctypes, sys, tempfile
from threading import Barrier, Thread
from whisperd.allocator import glibc, share_one_arena

library = glibc()
exec(sys.argv[1])
library.malloc.restype = library.fopen.restype = ctypes.c_void_p
together = Barrier(8)

def hold():
    together.wait()
    library.malloc(1000)
    together.wait()

threads = [Thread(target=hold) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(library.fopen(file.name.encode(), b"w"))
    library.malloc_info(0, stream)
    library.fclose(stream)
    print(file.read().count(b"<heap nr="))
"""
