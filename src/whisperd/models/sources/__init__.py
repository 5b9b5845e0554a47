"""Where the bytes of a model can be found. A source finds them; it never decides whether they are right.

All sources have one interface, `Source`. What they find is verified when the store takes it in.
"""

from whisperd.models.sources.base import Found, FoundFile, NotHere, Source, Workspace
from whisperd.models.sources.folder import ExactFileSource, ExactFolderSource, FolderSource
from whisperd.models.sources.hub import HubCacheSource, HubSettings, HubSource
from whisperd.models.sources.package_index import IndexSettings, PackageIndexSource

__all__ = [
    "ExactFileSource",
    "ExactFolderSource",
    "FolderSource",
    "Found",
    "FoundFile",
    "HubCacheSource",
    "HubSettings",
    "HubSource",
    "IndexSettings",
    "NotHere",
    "PackageIndexSource",
    "Source",
    "Workspace",
]
