"""The program `whisperctl` from its first line: Ctrl-C ends it while it is imported as it does later."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Import `whisperctl`, run one command and exit with its status."""
    try:
        from whisperd.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)  # exit_status.INTERRUPTED, which may not be imported yet


if __name__ == "__main__":
    main()
