"""What the runtimes need of the daemon: their variant, its bundle, their model, a decoder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from whisperd.audio import DecoderPool, media_lock
from whisperd.natives import Bundle
from whisperd.plugins import Backend, Variant, variants
from whisperd.progress import OnProgress, Progress
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import Event
from whisperd.runtimes import Runtime, RuntimePreset, Surroundings
from whisperd.runtimes.fallback import FailedVariant
from whisperd.runtimes.file_models import narrowed, variants_for
from whisperd.runtimes.history import HistoryStore
from whisperd.runtimes.prepare import Prepared, choose_variant, is_prepared, prepare
from whisperd.runtimes.room import Room, Tenants
from whisperd.worker.protocol import LoadParams

if TYPE_CHECKING:
    from whisperd.daemon.service import Service

__all__ = [
    "install_media_bundle",
    "media_bundle",
    "native_bundles",
    "preload",
    "prepare_runtime",
    "ranked_variants",
    "runtime_surroundings",
    "stamp_of",
    "use_calibration",
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


def runtime_surroundings(service: Service, room: Room, histories: HistoryStore) -> Surroundings:
    """What the runtimes need of a daemon."""

    async def make_room(tenants: Tenants, runtime: Runtime, prepared: Prepared, params: LoadParams) -> None:
        await service.idle.vacated()  # calibration takes no memory that somebody needs
        await room.make(tenants, runtime, prepared, params)

    def publish(event: Event) -> None:
        service.idle.notice()
        service.metrics.take(event, time.monotonic())
        service.hub.publish("runtimes", event)

    return Surroundings(
        prepare=partial(prepare_runtime, service),
        capabilities=service.computer.capabilities,
        known_model=service.known_model,
        facts=service.models.facts,
        settings=lambda: service.settings.runtime,
        publish=publish,
        make_room=make_room,
        remember=histories.add,
        failures=service.variant_failures,
        held_count_changed=_keep_decoder_warm(service.decoders),
    )


async def prepare_runtime(
    service: Service,
    preset: RuntimePreset,
    on_progress: OnProgress,
    failed: Sequence[FailedVariant] = (),
    is_to_be_loaded: bool = True,
) -> Prepared:
    """Get what a worker needs, and tell of the downloads as if somebody had asked for them alone."""

    def on_native_progress(progress: Progress) -> None:
        service.on_native_progress(progress)
        on_progress(progress)

    def on_model_progress(progress: Progress) -> None:
        service.on_model_progress(progress)
        on_progress(progress)

    ranked = await ranked_variants(service, preset)
    if is_to_be_loaded:
        failed = [*failed, *await service.advisor.never_fitting(preset, ranked)]
    prepared = await prepare(
        preset,
        ranked,
        service.natives,
        service.models,
        on_native_progress,
        on_model_progress,
        service.variant_failures,
        failed,
    )
    tuning = await service.calibrator.tuning(preset, prepared.backend, prepared.variant)
    return replace(prepared, tuning=tuning)


async def ranked_variants(service: Service, preset: RuntimePreset) -> list[tuple[Backend, Variant]]:
    """Those that this computer can use, the best first: what was measured goes before the priority.

    One that has to be built here, which takes minutes, comes last until it was.
    """
    facts = await service.models.facts(preset.model)
    usable = await service.computer.usable_variants(narrowed(preset, facts))
    ranked = await service.calibrator.ranked(preset, variants_for(preset, facts, usable))
    return sorted(ranked, key=lambda pair: _has_to_be_built(service, pair[1]))


def _has_to_be_built(service: Service, variant: Variant) -> bool:
    bundle = Bundle.of(variant)
    return bundle is not None and service.natives.has_to_be_built(bundle)


async def use_calibration(service: Service, model: str) -> None:
    """Load what is loaded with a model anew, where that has become faster in another way."""
    for runtime in service.runtimes.all():
        loaded, prepared = runtime.loaded, runtime.prepared
        if runtime.preset.model != model or loaded is None or prepared is None:
            continue
        with suppress(WhisperdError):  # it would be told this at its next load, too
            backend, variant = choose_variant(runtime.preset, await ranked_variants(service, runtime.preset))
            tuning = await service.calibrator.tuning(runtime.preset, backend, variant)
            if variant.name != prepared.variant.name or tuning != prepared.tuning:
                service.runtimes.load_anew(runtime)


async def stamp_of(service: Service, variant: Variant) -> str:
    """What a variant depends on: something else once its bundle or the driver has changed."""

    def look_at_bundle() -> str:
        bundle = Bundle.of(variant)
        installed = service.natives.find(bundle) if bundle else None
        changed = None
        if installed:
            with suppress(FileNotFoundError):  # it is being removed
                changed = installed.path.stat().st_mtime_ns
        wanted = bundle.select().digest if bundle else None
        return f"{wanted} {installed and installed.digest} {changed}"

    driver = (await service.computer.hardware()).gpus.driver if variant.device == "cuda" else None
    return f"{await to_thread.run_sync(look_at_bundle)} {driver}"


async def preload(service: Service) -> None:
    """Load the default runtime, unless something is missing that it cannot be loaded without."""
    preset = service.runtimes.default.preset
    try:
        usable = await ranked_variants(service, preset)
        is_there = await is_prepared(preset, usable, service.natives, service.models)
        # What decodes its files is made ready with it.
        is_there &= service.natives.find(media_bundle()) is not None
    except WhisperdError:
        is_there = True  # it fails before anything is downloaded, and its status says why
    except Exception:  # no reason for the daemon to end
        log.exception("whether the default runtime can be loaded cannot be found out")
        return
    if is_there:
        service.runtimes.begin_to_load(service.runtimes.default)


def _keep_decoder_warm(decoders: DecoderPool) -> Callable[[int], None]:
    # A decoder stands ready while a model does: a daemon that was idle for long holds neither.
    def on_held_count(count: int) -> None:
        decoders.keep_warm = count > 0

    return on_held_count
