"""The entry point of the program `whisperd`. Ctrl-C ends it cleanly even while it is still being imported."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Import the daemon, and run it until it is told to exit."""
    try:
        from whisperd.daemon.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)  # EXIT_INTERRUPTED, which may not be imported yet


if __name__ == "__main__":
    main()
