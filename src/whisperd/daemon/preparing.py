"""What the runtimes need of the daemon; the bundles that there are, and the decoder's among them."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from whisperd.audio import media_lock
from whisperd.natives import Bundle
from whisperd.plugins import variants
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
    """Every bundle there is: the decoder's first, then those of the variants, the best first."""
    return [
        media_bundle(),
        *filter(None, (Bundle.of(variant) for _, variant in variants())),
    ]


def media_bundle() -> Bundle:
    """The decoder's."""
    return Bundle("media", media_lock())


async def install_media_bundle(service: Service) -> Path:
    """Where the decoder's bundle is, installed first if need be."""
    return (await service.natives.install(media_bundle(), service.on_native_progress)).path


def runtime_interface(service: Service, histories: HistoryStore) -> DaemonInterface:
    """What the runtimes need of a daemon."""

    def publish(event: Event) -> None:
        service.idle.notice()
        service.metrics.take(event, time.monotonic())
        service.hub.publish("runtimes", event)

    def held_count_changed(count: int) -> None:
        # A decoder stands ready while a model does: a daemon that was idle for long holds neither.
        service.decoders.keep_warm = count > 0

    return DaemonInterface(
        settings=lambda: service.settings.runtime,
        publish=publish,
        vacated=service.idle.vacated,  # calibration takes no memory that somebody needs
        remember=histories.add,
        held_count_changed=held_count_changed,
    )


async def preload(service: Service) -> None:
    """Load the default runtime, unless something is missing that it cannot be loaded without."""
    try:
        is_there = await service.provisioner.is_prepared(service.runtimes.default.preset)
        # What decodes its files is made ready with it.
        is_there &= service.natives.find(media_bundle()) is not None
    except WhisperdError:
        is_there = True  # it fails before anything is downloaded, and its status says why
    except Exception:  # no reason for the daemon to end
        log.exception("whether the default runtime can be loaded cannot be found out")
        return
    if is_there:
        service.runtimes.begin_to_load(service.runtimes.default)
