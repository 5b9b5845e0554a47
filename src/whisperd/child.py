"""Child processes that never outlive us: workers, decoders, downloads.

A child holds a pipe from its parent as standard input. When the parent dies, however it dies, the
kernel closes the pipe and the child ends itself; on Linux and Windows the kernel also kills it
outright. A child has a process group of its own (on Windows: a job object): a terminal's Ctrl-C does
not reach it, and what it starts ends with it. Run as a program, `python -m whisperd.child MODULE ARG...` does
this for a module that is not ours (pip), and then becomes that module.
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
    "die_with_parent",
    "how_it_ended",
    "kill",
    "last_words",
    "open_child",
    "python_command",
    "take_output",
    "watch_parent",
]

ENDED_BY_OTHERS: Final = ("signal SIGKILL", "signal SIGTERM", "signal SIGINT", "signal SIGHUP")
"""How a child ends, as `how_it_ended` says it, that did not end by its own fault."""

_PR_SET_PDEATHSIG = 1
_PARENT_GONE_STATUS = 75
_LAST_WORDS_BYTES = 2000

if sys.platform == "win32":
    _CREATION_FLAGS = subprocess.CREATE_NEW_PROCESS_GROUP
else:
    _CREATION_FLAGS = 0


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours in this interpreter, the working folder off its path."""
    return [sys.executable, "-P", "-m", module, *arguments]


# What is said on this computer stays here, and so does that anything was: libraries in a child
# report nothing to their makers. (onnxruntime would even write a device id into the user's folder.)
_NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


@asynccontextmanager
async def open_child(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stderr: int = subprocess.PIPE,
) -> AsyncIterator[Process]:
    """Start a child with pipes; on leaving the block it is dead, with everything it started.

    On POSIX, what a child that ended by itself has left running stays: the number of its process group
    may be somebody else's by now.
    """
    import anyio

    # Shielded: cancelled half-way, asyncio would lose sight of a process that runs.
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
    with _enclosed(process):
        try:
            yield process
        finally:
            with anyio.CancelScope(shield=True):
                kill(process)
                await process.aclose()


def kill(process: Process) -> None:
    """Kill a child and its descendants at once. Does nothing when it is dead already."""
    if process.returncode is not None:
        return
    try:
        if sys.platform == "win32":
            process.kill()  # its descendants end when its job object is closed
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def how_it_ended(status: int | None) -> str | None:
    """What a return code says, such as `signal SIGSEGV` or `exit status 1`; None for a child that runs."""
    if status is None:
        return None
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"signal {-status}"


def last_words(stderr: BinaryIO) -> str:
    """The end of what a child has written to a file of its own: why it came to no result."""
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
    return stderr.read().decode(errors="replace").strip()


@contextmanager
def _enclosed(process: Process) -> Iterator[None]:
    """On Windows: what is alive of a child and its descendants when the block or this process ends, dies."""
    if sys.platform == "win32":
        from whisperd.win32 import JobObject

        with JobObject() as job:
            with suppress(OSError):  # it has ended already
                job.add(process.pid)
            yield
    else:
        yield


def die_with_parent() -> None:
    """In a child: have the kernel kill this process when its parent dies (Linux; elsewhere a no-op)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(_PARENT_GONE_STATUS)


def take_output() -> int:
    """In a child: keep standard output for messages, as the descriptor that is returned.

    From here on whatever prints, native libraries included, prints to standard error.
    """
    output = os.dup(1)
    os.dup2(2, 1)
    if sys.platform == "win32":  # descriptors there may translate line ends
        import msvcrt

        msvcrt.setmode(output, os.O_BINARY)
    return output


def watch_parent(*, with_descendants: bool = False) -> None:
    """In a child that does not read its standard input: end the process when that pipe closes.

    With its descendants, where it has a process group of its own: a compiler that pip has started would
    else go on for minutes.
    """
    has_group = with_descendants and os.name == "posix" and os.getpgrp() == os.getpid()
    if not has_group:  # the kernel would kill this process before it can kill the others
        die_with_parent()

    def wait_for_the_end() -> None:
        while os.read(0, 4096):
            pass
        if has_group:
            os.killpg(0, signal.SIGKILL)
        os._exit(_PARENT_GONE_STATUS)

    threading.Thread(target=wait_for_the_end, name="watch-parent", daemon=True).start()


def main() -> None:
    """Watch the parent, then become the module named on the command line."""
    watch_parent(with_descendants=True)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
