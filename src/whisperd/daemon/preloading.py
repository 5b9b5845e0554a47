"""Preloads the default runtime when the daemon starts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from whisperd.daemon.bundles import media_bundle
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from whisperd.daemon.service import Service

__all__ = ["preload"]

log = logging.getLogger(__name__)


async def preload(service: Service) -> None:
    """Load the default runtime, if everything needed to load it is installed."""
    try:
        is_installed = await service.provisioner.is_prepared(service.runtimes.default.preset)
        # The decoder is made ready together with it.
        is_installed &= service.natives.find(media_bundle()) is not None
    except WhisperdError:
        is_installed = True  # loading fails before anything is downloaded, and the runtime's status says why
    except Exception:  # not a reason to end the daemon
        log.exception("cannot determine whether the default runtime can be loaded")
        return
    if is_installed:
        service.runtimes.begin_to_load(service.runtimes.default)
