"""Native bundles: what an engine or the decoder needs, installed on first use and pinned by hash.

A bundle lies in `{root}/{version}/{name}`, whole or not at all, and is put on the path of a child
process. Versions lie side by side; an upgrade is tried before it is used, and can be taken back.
The daemon may import this room, but never what a bundle holds.
"""

from whisperd.natives.bundle import Bundle, InstalledBundle
from whisperd.natives.manifest import Damage
from whisperd.natives.store import NativeStore, Trial, Upgrade

__all__ = ["Bundle", "Damage", "InstalledBundle", "NativeStore", "Trial", "Upgrade"]
