"""The detection process: `python -m whisperd.hardware.look FOLDER FACT...`.

It is a separate process because a folder on a dead network drive never responds, and a library may crash its
caller. Prints an empty line once it runs, then each fact as soon as it is found, as one line of JSON
(`whisperd.hardware.messages`). `FOLDER` holds the native bundles.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import msgspec

from whisperd.child import watch_parent
from whisperd.hardware.detect import find_fact
from whisperd.hardware.messages import FactAnswer
from whisperd.hardware.probes import Probes, probes_here

__all__ = ["look"]


def look(names: Sequence[str], probes: Probes) -> None:
    """Find these facts, in this order, and print them."""
    os.write(1, b"\n")
    for name in names:
        fact, why = find_fact(name, probes)
        answer = FactAnswer(name=name, fact=msgspec.Raw(msgspec.json.encode(fact)), why=why)
        os.write(1, msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    watch_parent()
    look(sys.argv[2:], probes_here(native_folder=sys.argv[1]))
    os._exit(0)
