"""Connects the runtimes to the daemon, lists the native bundles, and preloads the default runtime."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from whisperd.audio import media_lock
from whisperd.installed_plugins import variants
from whisperd.natives import Bundle
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import Event
from whisperd.runtimes import DaemonInterface
from whisperd.runtimes.history import HistoryStore

if TYPE_CHECKING:
    from whisperd.daemon.service import Service

__all__ = [
    "install_media_bundle",
    "media_bundle",
    "native_bundles",
    "preload",
    "runtime_interface",
]

log = logging.getLogger(__name__)


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


def runtime_interface(service: Service, histories: HistoryStore) -> DaemonInterface:
    """Return what the runtimes need from the daemon."""

    def publish(event: Event) -> None:
        service.idle.notice()
        service.metrics.take(event, time.monotonic())
        service.hub.publish("runtimes", event)

    def held_count_changed(count: int) -> None:
        # A decoder is kept ready while a model is loaded: a daemon that was idle for long holds neither.
        service.decoders.keep_warm = count > 0

    return DaemonInterface(
        settings=lambda: service.settings.runtime,
        publish=publish,
        vacated=service.idle.vacated,  # calibration must not take memory that a runtime needs
        remember=histories.add,
        held_count_changed=held_count_changed,
    )


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
