"""Sources of models. A source finds the files of a model; it never decides whether they are right.

All sources implement `Source`. The store verifies the files when it admits them.
"""

from __future__ import annotations

from whisperd.models.names import path_of
from whisperd.models.sources.base import Found, FoundFile, NotHere, Source, Workspace
from whisperd.models.sources.folder import ExactFileSource, ExactFolderSource, FolderSource
from whisperd.models.sources.hub import HubCacheSource, HubSettings, HubSource
from whisperd.models.sources.package_index import PackageIndexSource
from whisperd.settings import ModelSettings

__all__ = [
    "ExactFileSource",
    "ExactFolderSource",
    "FolderSource",
    "Found",
    "FoundFile",
    "HubCacheSource",
    "HubSettings",
    "HubSource",
    "NotHere",
    "PackageIndexSource",
    "Source",
    "Workspace",
    "default_sources",
]


def default_sources(settings: ModelSettings | None = None) -> tuple[Source, ...]:
    """Return the sources in search order: folders, the hub cache, the hub, the package index."""
    settings = settings or ModelSettings()
    sources: list[Source] = [FolderSource(path_of(folder)) for folder in settings.folders]
    sources.append(HubCacheSource())
    if settings.hub:
        sources.append(HubSource(HubSettings(stall_timeout_s=settings.stall_timeout_s)))
    if settings.package_index:
        sources.append(PackageIndexSource(stall_timeout_s=settings.stall_timeout_s))
    return tuple(sources)
