"""A daemon that believes its computer has 2 GB of memory, or as many bytes as `MEMORY` says."""

from __future__ import annotations

import os

from whisperd import hardware
from whisperd.hardware import Memory

if __name__ == "__main__":
    total = int(os.environ.get("MEMORY", "2_000_000_000"))
    hardware.read_memory = lambda: Memory(total=total, available=total, source="a test")
    from whisperd.daemon.main import main

    main()
