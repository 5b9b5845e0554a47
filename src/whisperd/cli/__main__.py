"""The entry point of `whisperctl`: Ctrl-C during its imports ends it as quietly as later on."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Import `whisperctl`, run one command and exit with its status."""
    try:
        from whisperd.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)  # exit_status.INTERRUPTED; that module may not be imported yet


if __name__ == "__main__":
    main()
