"""The program `whisperd`, from its first line: Ctrl-C ends it while it is imported as it does later."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Import the daemon, and run it until it is told to end."""
    try:
        from whisperd.daemon.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)  # EXIT_INTERRUPTED, which may not be imported yet


if __name__ == "__main__":
    main()
