"""Detect a made-up computer with a probe that hangs or crashes: `odd_look.py BEHAVIOUR FACT FACT...`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from recorded_computers import probes_of
from whisperd.child import watch_parent
from whisperd.hardware.look import look

BEHAVIOURS = {
    "hang": lambda *_: time.sleep(3600),
    "crash": lambda *_: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda *_: os._exit(3),
    "chatter": lambda *_: os.write(1, b"hello\n"),
}


def main() -> None:
    behaviour, *names = sys.argv[1:]
    watch_parent()
    if behaviour.startswith("never "):
        BEHAVIOURS[behaviour.removeprefix("never ")]()
    # The number of physical cores is one probe of many.
    look(names, probes_of("intel_desktop", physical_count=BEHAVIOURS[behaviour.removeprefix("never ")]))


main()
