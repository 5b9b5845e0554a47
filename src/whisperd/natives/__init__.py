"""Native bundles: the libraries of an engine or the decoder, pinned by hash and installed on first use.

A bundle is in `{root}/{version}/{name}`, complete or absent, and is added to the path of a child
process. Versions coexist; an upgrade is tried before it is used, and can be rolled back.
The daemon may import this room, but never the contents of a bundle.
"""

from whisperd.natives.bundle import Bundle, InstalledBundle
from whisperd.natives.manifest import Damage
from whisperd.natives.store import NativeStore, Trial, Upgrade

__all__ = ["Bundle", "Damage", "InstalledBundle", "NativeStore", "Trial", "Upgrade"]
