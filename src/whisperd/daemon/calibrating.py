"""Calibration in the daemon: its dependencies on other packages, and when it starts automatically."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from whisperd import installed_plugins
from whisperd._version import __version__
from whisperd.calibration import Circumstances, DaemonInterface
from whisperd.hardware import usable_cores
from whisperd.natives import Bundle
from whisperd.plugins import Backend, Variant
from whisperd.progress import ignore_progress
from whisperd.quantities import size
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import JudgedVariant
from whisperd.runtimes.file_models import variants_for
from whisperd.runtimes.prepare import prepare_variant
from whisperd.settings import is_offline
from whisperd.worker.protocol import LoadParams

if TYPE_CHECKING:
    from whisperd.daemon.service import Service
    from whisperd.runtimes import Prepared, RuntimePreset

__all__ = ["calibrate_automatically", "calibration_interface", "is_busy"]

log = logging.getLogger(__name__)

CHEAP_BYTES: Final = 64_000_000
"""Bundles up to this size are downloaded just to try them."""


def is_busy(service: Service) -> bool:
    """Whether there is work that takes precedence over calibration: jobs, and runtimes that are loading."""
    is_loading = any(service.runtimes.life(one).status == "loading" for one in service.runtimes.all())
    return is_loading or bool(service.jobs.active())


def calibration_interface(service: Service) -> DaemonInterface:
    """Return the functions that calibration needs from the daemon."""

    async def variants(preset: RuntimePreset) -> list[JudgedVariant]:
        judged = await service.computer.judged_variants()
        problems = {one.variant.name: one.problem for one in judged}
        pairs = [(one.backend, one.variant) for one in judged]
        pairs = variants_for(preset, await service.models.facts(preset.model), pairs)
        return await anyio.to_thread.run_sync(
            lambda: [
                JudgedVariant(backend, variant, problems[variant.name] or _too_costly(service, variant))
                for backend, variant in pairs
            ]
        )

    async def prepare(preset: RuntimePreset, backend: Backend, variant: Variant) -> Prepared:
        models = service.models.for_trials()
        on_native = service.on_native_progress
        return await prepare_variant(
            preset, backend, variant, service.natives, models, on_native, ignore_progress
        )

    async def check_room(
        preset: RuntimePreset, prepared: Prepared, params: LoadParams, batch_size: int
    ) -> None:
        await service.runtimes.admission.check(service.runtimes, preset, prepared, params, batch_size)

    return DaemonInterface(
        variants=variants,
        circumstances=lambda: _circumstances(service),
        prepare=prepare,
        check_room=check_room,
        parameters=service.models.parameters,
        publish=lambda event: service.hub.publish("calibration", event),
    )


async def calibrate_automatically(service: Service, is_allowed: Callable[[], bool]) -> None:
    """Calibrate the default runtime's model, unless that is done, once it is loaded and the daemon is idle;
    run until cancelled.

    An attempt that failed is not repeated until the daemon is restarted or the circumstances change.
    """
    tried: set[tuple[str, str]] = set()
    while True:
        change = service.idle.change
        model = _to_calibrate(service)
        if is_allowed() and model and not await service.calibrator.current(model):
            attempt = (model, (await service.calibrator.circumstances()).fingerprint)
            if attempt not in tried:
                await service.idle.quiet(service.settings.daemon.calibrate_after_s)
                if is_allowed() and model == _to_calibrate(service):
                    tried.add(attempt)
                    await _calibrate(service, model)
                continue
        await change.wait()


async def _calibrate(service: Service, model: str) -> None:
    quiet_s = service.settings.daemon.calibrate_after_s
    try:
        await service.calibrator.run(model, quiet_s=quiet_s, unless_known=True)
        await service.runtimes.reload_if_faster(model)
    except WhisperdError as error:
        log.warning("calibration: %s (%s)", error.message, error.code)
    except Exception:
        log.exception("calibration failed unexpectedly")


def _to_calibrate(service: Service) -> str | None:
    default = service.runtimes.default
    return default.preset.model if default.loaded is not None else None


def _too_costly(service: Service, variant: Variant) -> WhisperdError | None:
    """Return why a variant is not installed just to try it; None if it is installed or may be. Blocks."""
    bundle = Bundle.of(variant)
    if bundle is None or service.natives.find(bundle) is not None:
        return None
    fix = f"Run `whisperctl natives install {variant.name}`, then `whisperctl calibrate`."
    if variant.build is not None:
        reason = "It is not installed, and building it takes minutes."
    elif is_offline():
        reason = "It is not installed, and WHISPERD_OFFLINE forbids downloading it."
    elif bundle.select().download_bytes > CHEAP_BYTES:
        reason = f"It is not installed, and its download is {size(bundle.select().download_bytes)}."
    else:
        return None
    return WhisperdError("native.not_installed", reason, fix)


async def _circumstances(service: Service) -> Circumstances:
    hardware = await service.computer.hardware()
    return Circumstances(
        processor=hardware.processor.model if hardware.processor else None,
        cores=usable_cores(),
        gpus=tuple((gpu.name, gpu.memory_total) for gpu in hardware.gpus.gpus),
        driver=hardware.gpus.driver,
        beam_size=service.settings.runtime.beam_size,
        versions={"whisperd": __version__, **installed_plugins.versions()},
        variants=await anyio.to_thread.run_sync(
            lambda: {one.name: _digest(service, one) for _, one in installed_plugins.variants()}
        ),
    )


def _digest(service: Service, variant: Variant) -> str | None:
    """Return the digest of a variant's files, installed or to be; None if it does not support this system."""
    bundle = Bundle.of(variant)
    if bundle is None:
        return ""
    try:
        installed = service.natives.find(bundle)
        return installed.digest if installed else bundle.select().digest
    except WhisperdError:
        return None
