"""A daemon whose memory pressure, battery and clocks a test sets by files in the folder `$CONDITIONS`."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

from whisperd.conditions.pressure import MemoryWatch
from whisperd.daemon import main as program

FOLDER = Path(os.environ["CONDITIONS"])


def read(path: str) -> str | None:
    if path == "/proc/pressure/memory":
        return (FOLDER / "pressure").read_text()
    return None


def on_battery() -> bool | None:
    assert threading.current_thread() is not threading.main_thread(), "a battery may answer slowly"
    return (FOLDER / "battery").exists()


def clocks() -> tuple[float, float]:
    return float((FOLDER / "slept").read_text()), 0.0


if __name__ == "__main__":
    watch = MemoryWatch(read, {}, poll_s=0.01)
    program.relieve_memory = partial(program.relieve_memory, watch=watch)  # type: ignore[attr-defined]
    program.watch_power_and_sleep = partial(  # type: ignore[attr-defined]
        program.watch_power_and_sleep,  # type: ignore[attr-defined]
        on_battery=on_battery,
        clocks=clocks,
        interval_s=0.01,
    )
    program.main()
