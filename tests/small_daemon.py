"""A daemon on a computer that has 2 GB of memory, or so it is told."""

from __future__ import annotations

from whisperd import hardware
from whisperd.hardware import Memory

if __name__ == "__main__":
    hardware.read_memory = lambda: Memory(total=2_000_000_000, available=2_000_000_000, source="a test")
    from whisperd.daemon.main import main

    main()
