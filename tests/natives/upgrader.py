"""A process that upgrades a bundle, `upgrader.py ROOT LOCK DETAIL`, and kills itself at that progress."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio

from whisperd.natives import Bundle, InstalledBundle, NativeStore
from whisperd.progress import Progress


async def trial(_: InstalledBundle) -> str:
    return "it was looked at"


async def main(root: str, lock: str, detail: str) -> None:
    def tell(progress: Progress) -> None:
        if progress.detail == detail:
            os.kill(os.getpid(), signal.SIGKILL)

    await NativeStore(Path(root)).upgrade(Bundle("engine-cpu", Path(lock).read_text()), trial, tell)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
