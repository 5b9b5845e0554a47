"""A daemon whose journal is the socket named by the environment variable `TEST_JOURNAL`."""

from __future__ import annotations

import os
from pathlib import Path

from whisperd.service_manager import journal

if __name__ == "__main__":
    journal.SOCKET = Path(os.environ["TEST_JOURNAL"])
    from whisperd.daemon.main import main

    main()
