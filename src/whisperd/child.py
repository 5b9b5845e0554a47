"""Starts child processes that never outlive their parent: workers, decoders, downloads.

A child's standard input is a pipe from its parent. When the parent dies, however it dies, the kernel closes
the pipe and the child exits; on Linux and Windows the kernel also kills it outright. A child has its own
process group (on Windows: a job object), so that a terminal's Ctrl-C does not reach it and its descendants
end with it. `python -m whisperd.child MODULE ARG...` sets this up for a module that is not ours (pip), and
then runs that module.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from anyio.abc import Process

__all__ = [
    "ENDED_BY_OTHERS",
    "END_TIMEOUT_S",
    "die_with_parent",
    "end",
    "how_it_ended",
    "kill",
    "last_words",
    "leave_no_core_dump",
    "open_child",
    "python_command",
    "take_output",
    "watch_parent",
]

ENDED_BY_OTHERS: Final = ("signal SIGKILL", "signal SIGTERM", "signal SIGINT", "signal SIGHUP")
"""Results of `how_it_ended` for a child that others ended, through no fault of its own."""

END_TIMEOUT_S: Final = 10.0
"""How long a killed child may take to end: the system needs seconds to reclaim a large memory."""

_PR_SET_PDEATHSIG = 1
_PARENT_GONE_STATUS = 75
_LAST_WORDS_BYTES = 2000

if sys.platform == "win32":
    _CREATION_FLAGS = subprocess.CREATE_NEW_PROCESS_GROUP
else:
    _CREATION_FLAGS = 0


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module in this interpreter, without the working folder on its path."""
    return [sys.executable, "-P", "-m", module, *arguments]


# Libraries in a child must not report to their makers, not even that they are used. (onnxruntime would even
# write a device id into the user's folder.)
_NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


@asynccontextmanager
async def open_child(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stderr: int = subprocess.PIPE,
) -> AsyncIterator[Process]:
    """Start a child with pipes; on leaving the block, kill it and everything that it started.

    On POSIX, the descendants of a child that exited on its own are not killed: the id of its process group
    may have been reused by then.
    """
    import anyio

    # Shielded: cancelled half-way, asyncio would lose track of a running process.
    with anyio.CancelScope(shield=True):
        process = await anyio.open_process(
            command,
            env={**(os.environ if env is None else env), **_NO_TELEMETRY},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            creationflags=_CREATION_FLAGS,
        )
    if sys.version_info < (3, 11, 4):
        _expect_broken_pipe(process)
    with _enclosed(process):
        try:
            yield process
        finally:
            await end(process)


def _expect_broken_pipe(process: Process) -> None:
    """Keep asyncio from logging that a child died while it was being written to, as if that were a bug.

    The writer gets the error anyway. Python does the same since 3.11.4 (gh-104340).
    """
    protocol = getattr(getattr(process.stdin, "_stream", None), "_protocol", None)
    closed = getattr(protocol, "_stdin_closed", None)  # trio has no such future, and needs none
    if closed is not None:
        closed.add_done_callback(lambda done: done.cancelled() or done.exception())


def kill(process: Process) -> None:
    """Kill a child and its descendants at once. Does nothing if it is already dead."""
    if process.returncode is not None:
        return
    try:
        if sys.platform == "win32":
            process.kill()  # its descendants are killed when its job object is closed
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


async def end(process: Process) -> None:
    """Kill a child and its descendants, and wait until it has ended, even if cancelled.

    Leaves it behind if it does not end in time: one that waits for a driver or a network folder that does not
    respond ends only when that responds, and one that runs as another user (`sudo`) may not be killed by us.
    """
    import logging

    import anyio

    with anyio.move_on_after(END_TIMEOUT_S, shield=True):
        kill(process)
        await process.wait()
        await process.aclose()
        return
    logging.getLogger(__name__).warning("the process %d cannot be killed and is left behind", process.pid)


def how_it_ended(status: int | None) -> str | None:
    """Describe a return code: `signal SIGSEGV`, `exit status 1`; None for a child that still runs."""
    if status is None:
        return None
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"signal {-status}"


def last_words(stderr: BinaryIO) -> str:
    """Return the end of the file that a child's standard error goes to, which says why it failed."""
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
    return stderr.read().decode(errors="replace").strip()


@contextmanager
def _enclosed(process: Process) -> Iterator[None]:
    """On Windows: kill what still runs of a child and its descendants when the block or this process ends."""
    if sys.platform == "win32":
        from whisperd.win32 import JobObject

        with JobObject() as job:
            with suppress(OSError):  # it has already exited
                job.add(process.pid)
            yield
    else:
        yield


def die_with_parent() -> None:
    """In a child: have the kernel kill this process when its parent dies (Linux; elsewhere a no-op)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            os._exit(_PARENT_GONE_STATUS)


def leave_no_core_dump() -> None:
    """In a child that holds speech: if it crashes, leave no file of gigabytes with that speech in it."""
    with suppress(ImportError, OSError, ValueError):  # on Windows, or if the system refuses
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def take_output() -> int:
    """In a child: reserve standard output for messages, and return its new descriptor.

    From then on, anything that prints, native libraries included, prints to standard error.
    """
    output = os.dup(1)
    os.dup2(2, 1)
    if sys.platform == "win32":  # descriptors there may translate line endings
        import msvcrt

        msvcrt.setmode(output, os.O_BINARY)
    return output


def watch_parent(*, with_descendants: bool = False) -> None:
    """In a child that does not read its standard input: end the process when that pipe closes.

    `with_descendants` also kills its descendants if it has its own process group: a compiler that pip started
    would otherwise run on for minutes.
    """
    has_group = with_descendants and os.name == "posix" and os.getpgrp() == os.getpid()
    if not has_group:  # with a group, the kernel would kill this process before it could kill the others
        die_with_parent()

    def wait_for_the_end() -> None:
        while os.read(0, 4096):
            pass
        if has_group:
            os.killpg(0, signal.SIGKILL)
        os._exit(_PARENT_GONE_STATUS)

    threading.Thread(target=wait_for_the_end, name="watch-parent", daemon=True).start()


def main() -> None:
    """Watch the parent, then run the module named on the command line."""
    watch_parent(with_descendants=True)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
