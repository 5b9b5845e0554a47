"""What changes in folders, as the kernel tells of it.

    python -m whisperd.folder_changes

A process of its own: `watchfiles` looks at all that is below a folder before it listens, and lets no other
thread of Python run meanwhile. In somebody's home that takes a minute, for which a daemon would stand still.

The first line of its input is a JSON document: the folders, and whether what is below them counts. On a
command line everybody would see their names, and not many would fit. Each line of its output is one as well:
first a text, why it cannot listen, which is empty where it does from then on; then arrays of changes, an
empty one where any may be lost. It imports as little as it can, and ends with its parent.
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
"""So many changes at once are half of what the kernel's queue holds: some may be lost. No more are told."""
STEP_MS = 500
"""How often it is asked whether something has changed, and for how long nothing has to before it is told."""
GATHER_MS = 1600
NO_POLLING_MS = 300
"""The watcher wants to know it, and does not need it."""


HEARD_MS = 2000
"""How long after the kernel's signal a change is waited for; it comes at once."""
PAUSE_S = 2.0
"""How long a new watcher is not asked: who goes on writing such names has all looked at each time."""
PAUSE_RATIO = 3
"""It is not asked for so many times as long as it took to make it, either."""
LONGEST_SLEEP_S = 60.0
"""After which it is asked without a signal: a computer may be so busy that a change comes later than that."""


def main() -> None:
    """Tell of changes until the parent is gone."""
    if sys.platform == "linux":  # before there are other threads: it would end us
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    orders = sys.stdin.buffer.readline()  # its end is then waited for, as the parent's
    watch_parent()
    with os.fdopen(take_output(), "w", encoding="ascii") as output:

        def tell(document: object) -> None:
            output.write(json.dumps(document) + "\n")
            output.flush()

        if orders:  # else the parent is gone already
            tell_of_changes(tell=tell, **json.loads(orders))


def tell_of_changes(folders: list[str], is_recursive: bool, tell: Callable[[object], None]) -> None:
    """Listen, and tell of what is heard."""
    from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

    def listen() -> RustNotify:
        return RustNotify(folders, False, False, NO_POLLING_MS, is_recursive, True)

    try:
        watcher = listen()
    except (OSError, UnicodeError) as error:
        tell(getattr(error, "strerror", None) or str(error))
        return
    has_signal = _has_signal()
    tell("")
    while True:
        try:
            batch = watcher.watch(GATHER_MS, STEP_MS, HEARD_MS if has_signal else 0, None)
        except WatchfilesRustInternalError:  # a name is not UTF-8: it has lost all, and never tells again
            began_s = time.monotonic()
            watcher.close()
            watcher = listen()
            has_signal = _has_signal()
            tell([])
            time.sleep(max(PAUSE_S, PAUSE_RATIO * (time.monotonic() - began_s)))
            continue
        if not isinstance(batch, str):
            tell(list(batch)[:FLOOD])
        elif has_signal:
            _sleep()


def _has_signal() -> bool:
    """Whether the kernel sends us a signal when something has changed, so that we can sleep until then.

    The watcher itself can only be asked every now and then. A signal that comes while it is asked stays: the
    next sleep ends at once.
    """
    if sys.platform != "linux":
        return False
    has_signal = False
    try:
        queues = [int(one.name) for one in Path("/proc/self/fd").iterdir() if _is_queue(one)]
    except OSError:
        return False
    for descriptor in queues:
        with suppress(OSError):  # that of a watcher before this one, which is being closed
            fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
            has_signal = True
    return has_signal


def _is_queue(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()) == "anon_inode:inotify"
    except OSError:  # it is closed already, as the one by which this folder was read
        return False


def _sleep() -> None:
    if sys.platform == "linux":
        signal.sigtimedwait({signal.SIGIO}, LONGEST_SLEEP_S)


if __name__ == "__main__":
    main()
