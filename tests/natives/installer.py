"""A process that installs a bundle: `installer.py ROOT LOCK [MOMENT [BUILD]]`.

It kills itself at that progress.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import anyio

from whisperd.natives import Bundle, NativeStore
from whisperd.progress import Progress


async def main(root: str, lock: str, moment: str = "0", build: str = "null") -> None:
    seen = 0

    def tell(progress: Progress) -> None:
        nonlocal seen
        seen += 1
        if seen == int(moment):
            os.kill(os.getpid(), signal.SIGKILL)
        print(progress.detail, progress.done, progress.file, flush=True)

    bundle = Bundle("engine-cpu", Path(lock).read_text(), json.loads(build))
    await NativeStore(Path(root)).install(bundle, tell)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
