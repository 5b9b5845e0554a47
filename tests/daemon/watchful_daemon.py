"""A daemon that fails if its event loop scans the processes of this computer."""

from __future__ import annotations

import threading
from typing import Any

import psutil

from whisperd.daemon import main as program

_children = psutil.Process.children


def children(process: psutil.Process, *arguments: Any, **options: Any) -> list[psutil.Process]:
    assert threading.current_thread() is not threading.main_thread(), "scanning hundreds of processes is slow"
    return _children(process, *arguments, **options)


if __name__ == "__main__":
    psutil.Process.children = children  # type: ignore[method-assign]
    program.main()
