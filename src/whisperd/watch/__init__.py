"""Watch folders: transcribe each recording put into a folder once, and write its texts next to it.

`WatchManager` owns the watches, one `folder` each; `scheduler` shares the work fairly among them, and `view`
describes them to clients. The path of a file: `notifier` and `scanner` find it, `discovery` checks whether it
is known (`ledger`), it settles and queues (`pending`, `settling`), `work` submits a job for it (`jobs`),
`texts` writes the outputs (`writing`), `followup` runs the command and moves or deletes the recording
(`command`), and `failure_handler` decides what an error means (`failures`, `backoff`). `absence` tells
deleted files from those on unmounted disks; users' changes to a watch go through `editing`.

`names`, `globs`, `preset`, `pending`, `settling`, `ledger`, `failures` and `quiet` are pure. `store` persists
everything, in the tables `file_table`, `output_table` and `log_table`.
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
