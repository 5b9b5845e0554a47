"""Reports changes in folders, as the kernel notifies of them.

    python -m whisperd.folder_changes

This is a separate process, because `watchfiles` scans everything below a folder before it listens, and holds
Python's global lock meanwhile: for a home folder that takes a minute, in which the daemon would stand still.

The first line of input is a JSON document: the folders, and whether to watch their subfolders. (On a command
line all users could see their names, and not many would fit.) Each line of output is a JSON document as well:
first a string, which is empty once it listens and otherwise says why it cannot; then arrays of changes, empty
if any may have been lost. It imports as little as possible, and ends with its parent.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from whisperd.child import take_output, watch_parent

if sys.platform == "linux":
    import fcntl
    import signal

ADDED = 1
"""`watchfiles.Change.added`."""
FLOOD = 8000
"""At most so many changes are reported at once. They are half the kernel's queue: more may have been lost."""
STEP_MS = 500
"""How often the watcher checks for changes, and how long nothing must change before it reports them."""
GATHER_MS = 1600
NO_POLLING_MS = 300
"""A required argument of the watcher that has no effect here."""


HEARD_MS = 2000
"""How long to wait for a change after the kernel's signal; it normally comes at once."""
PAUSE_S = 2.0
"""Shortest pause after a restart of the watcher: each name that is not UTF-8 causes another full scan."""
PAUSE_RATIO = 3
"""The pause is also at least so many times as long as the restart took."""
LONGEST_SLEEP_S = 60.0
"""After this the watcher is polled without a signal: on a busy computer, a change may come after the wait."""


def main() -> None:
    """Report changes until the parent has exited."""
    if sys.platform == "linux":  # before other threads start: unblocked, the signal would end the process
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    orders = sys.stdin.buffer.readline()  # from here on, end of file means that the parent has exited
    watch_parent()
    with os.fdopen(take_output(), "w", encoding="ascii") as output:

        def report(document: object) -> None:
            output.write(json.dumps(document) + "\n")
            output.flush()

        if orders:  # else the parent has already exited
            report_changes(report=report, **json.loads(orders))


def report_changes(folders: list[str], is_recursive: bool, report: Callable[[object], None]) -> None:
    """Listen for changes and report them, without end."""
    from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

    def listen() -> RustNotify:
        arguments = (folders, False, False, NO_POLLING_MS, is_recursive)
        try:
            return RustNotify(*arguments, False)
        except (PermissionError, FileNotFoundError):  # of a subfolder; a scan finds what changes there
            # Only now, since this ignores every error, even that the limit of watched folders is reached.
            return RustNotify(*arguments, True)

    try:
        watcher = listen()
    except (OSError, UnicodeError, WatchfilesRustInternalError) as error:
        report(getattr(error, "strerror", None) or str(error))
        return
    has_signal = _request_signal()
    report("")
    while True:
        try:
            batch = watcher.watch(GATHER_MS, STEP_MS, HEARD_MS if has_signal else 0, None)
        except WatchfilesRustInternalError:  # a name is not UTF-8: all changes are lost, the watcher is dead
            began_s = time.monotonic()
            watcher.close()
            watcher = listen()
            has_signal = _request_signal()
            report([])
            time.sleep(max(PAUSE_S, PAUSE_RATIO * (time.monotonic() - began_s)))
            continue
        if not isinstance(batch, str):
            report(list(batch)[:FLOOD])
        elif has_signal:
            _sleep()


def _request_signal() -> bool:
    """Have the kernel send a signal when something changes, so that we can sleep until then; whether it does.

    The watcher itself can only be polled. A signal that arrives while it is polled stays pending: the next
    sleep ends at once.
    """
    if sys.platform != "linux":
        return False
    has_signal = False
    try:
        queues = [int(one.name) for one in Path("/proc/self/fd").iterdir() if _is_queue(one)]
    except OSError:
        return False
    for descriptor in queues:
        with suppress(OSError):  # of the previous watcher, which is being closed
            fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
            has_signal = True
    return has_signal


def _is_queue(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()) == "anon_inode:inotify"
    except OSError:  # already closed, as is the descriptor with which this folder was read
        return False


def _sleep() -> None:
    if sys.platform == "linux":
        signal.sigtimedwait({signal.SIGIO}, LONGEST_SLEEP_S)


if __name__ == "__main__":
    main()
