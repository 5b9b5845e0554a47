"""Watch folders: what falls into a folder is transcribed, once, and its text appears beside it.

`WatchManager` owns the watches, each a `folder`; `turns` gives each file its turn, and `view` is what is told
of them. The way of a file: `notifier` and `scanner` see it, `lookout` asks whether it is known (`ledger`), it
settles and waits (`pending`, `settling`), `work` submits it (`jobs`), `texts` writes what was heard
(`writing`), `after` does what comes then (`command`), and `trouble` decides what a failure means (`failures`,
`hold`). `absence` tells what is not there any more, and what people set of a watch goes through `editing`.

`names`, `globs`, `preset`, `pending`, `settling`, `ledger`, `failures`, `quiet` are pure. What is kept is in
`store`, which has three tables: `file_table`, `output_table` and `log_table`.
"""

from __future__ import annotations

from whisperd.watch.editing import Editor
from whisperd.watch.jobs import WatchJobs
from whisperd.watch.manager import WatchManager
from whisperd.watch.preset import WatchChanges, WatchPreset
from whisperd.watch.store import WatchStore, check_watches

__all__ = [
    "Editor",
    "WatchChanges",
    "WatchJobs",
    "WatchManager",
    "WatchPreset",
    "WatchStore",
    "check_watches",
]
