"""What changes in folders, as the kernel tells of it.

    python -m whisperd.folder_changes below|beside FOLDER...

A process of its own: `watchfiles` looks at all that is below a folder before it listens, and lets no other
thread of Python run meanwhile. In somebody's home that takes a minute, for which a daemon would stand still.

Each line of its output is a JSON document: first a text, why it cannot listen, which is empty where it does
from then on; then arrays of changes. It imports as little as it can, and ends with its parent.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from whisperd.child import take_output, watch_parent

ADDED = 1
"""`watchfiles.Change.added`."""
FLOOD = 8000
"""So many changes at once are half of what the kernel's queue holds: some may be lost. No more are told."""
STEP_MS = 500
"""How often it is asked whether something has changed, and for how long nothing has to before it is told."""
GATHER_MS = 1600
NO_POLLING_MS = 300
"""The watcher wants to know it, and does not need it."""


def main() -> None:
    """Tell of changes until the parent is gone."""
    watch_parent()
    with os.fdopen(take_output(), "w", encoding="ascii") as output:

        def tell(document: object) -> None:
            output.write(json.dumps(document) + "\n")
            output.flush()

        mode, *folders = sys.argv[1:]
        tell_of_changes(folders, tell, is_recursive=mode == "below")


def tell_of_changes(folders: list[str], tell: Callable[[object], None], *, is_recursive: bool) -> None:
    """Listen, and tell of what is heard."""
    from watchfiles._rust_notify import RustNotify

    try:
        watcher = RustNotify(folders, False, False, NO_POLLING_MS, is_recursive, True)
    except (OSError, UnicodeError) as error:
        tell(getattr(error, "strerror", None) or str(error))
        return
    tell("")
    while not isinstance(batch := watcher.watch(GATHER_MS, STEP_MS, 0, None), str):
        tell(list(batch)[:FLOOD])


if __name__ == "__main__":
    main()
