"""A process that installs a bundle: `installer.py ROOT LOCK [MOMENT]`; it kills itself at that progress."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio

from whisperd.natives import Bundle, NativeStore
from whisperd.progress import Progress


async def main(root: str, lock: str, moment: int) -> None:
    seen = 0

    def tell(progress: Progress) -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        print(progress.detail, progress.done, flush=True)

    await NativeStore(Path(root)).install(Bundle("engine-cpu", Path(lock).read_text()), tell)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
