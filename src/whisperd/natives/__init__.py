"""Native bundles: the libraries of an engine or the decoder, pinned by hash and installed on first use.

A bundle is in `{root}/{version}/{name}`, complete or absent, and is added to the path of a child
process. Versions coexist; an upgrade is tried before it is used, and can be rolled back.
The daemon may import this room, but never the contents of a bundle.

`store` owns the folder, in which each bundle has a `manifest` of its files, and `choice` names its current
version. A `lock` pins what a `bundle` may contain, and the `target` determines which of its wheels fit a
computer. `install` fills the folder of a new bundle with pip (`pip_runs`), builds sources (`build`,
`build_failures`) and shares equal files (`sharing`). `search` makes a lock of newer versions. `make_lock` is
the program that makes the locks that are shipped (`remote_file`); `lock_entries` makes the entries of both.
"""

from whisperd.natives.bundle import Bundle, InstalledBundle
from whisperd.natives.manifest import Damage
from whisperd.natives.store import NativeStore, Trial, Upgrade

__all__ = ["Bundle", "Damage", "InstalledBundle", "NativeStore", "Trial", "Upgrade"]
