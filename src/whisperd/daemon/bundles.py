"""The native bundles of this computer: the decoder's, and those of the variants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from whisperd.audio import media_lock
from whisperd.installed_plugins import variants
from whisperd.natives import Bundle

if TYPE_CHECKING:
    from whisperd.daemon.service import Service

__all__ = ["install_media_bundle", "media_bundle", "native_bundles"]


def native_bundles() -> list[Bundle]:
    """Return every bundle: the decoder's first, then those of the variants, the best first."""
    return [
        media_bundle(),
        *filter(None, (Bundle.of(variant) for _, variant in variants())),
    ]


def media_bundle() -> Bundle:
    """Return the decoder's bundle."""
    return Bundle("media", media_lock())


async def install_media_bundle(service: Service) -> Path:
    """Return the path of the decoder's bundle; install it first if necessary."""
    return (await service.natives.install(media_bundle(), service.on_native_progress)).path
