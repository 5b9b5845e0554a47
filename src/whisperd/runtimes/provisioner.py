"""Chooses the variant of a runtime on this computer, and installs everything that its worker needs."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from anyio import to_thread

from whisperd.models import ModelStore
from whisperd.natives import Bundle, NativeStore
from whisperd.plugins import Backend, Variant
from whisperd.progress import OnProgress, Progress
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.advice import Advisor
from whisperd.runtimes.computer import Computer
from whisperd.runtimes.fallback import (
    FailedVariant,
    VariantFailures,
    cannot_download,
    first_failure,
    rules_out,
)
from whisperd.runtimes.file_models import narrowed, variants_for
from whisperd.runtimes.prepare import (
    Prepared,
    Tuning,
    fitting_variants,
    install_bundle,
    is_model_prepared,
    prepare_model,
)
from whisperd.runtimes.preset import RuntimePreset

__all__ = ["Measured", "Provisioner"]

log = logging.getLogger(__name__)

Pairs = list[tuple[Backend, Variant]]


class Measured(Protocol):
    """The measurements made on this computer; implemented by the calibrator."""

    async def ranked(self, preset: RuntimePreset, usable: Sequence[tuple[Backend, Variant]]) -> Pairs:
        """Return the usable variants, the fastest first."""

    async def tuning(self, preset: RuntimePreset, backend: Backend, variant: Variant) -> Tuning | None:
        """Return the fastest tuning for a variant; None if nothing was measured."""


class Provisioner:
    """Chooses variants, installs their bundles, and converts the models to what their engines load."""

    def __init__(
        self,
        models: ModelStore,
        natives: NativeStore,
        computer: Computer,
        advisor: Advisor,
        measured: Measured,
        on_native_progress: OnProgress,
        on_model_progress: OnProgress,
    ) -> None:
        """The callbacks receive all download progress, in addition to `prepare`'s own callback."""
        self.models = models
        self.computer = computer
        self.failures = VariantFailures(self._stamp)
        self._natives = natives
        self._advisor = advisor
        self._measured = measured
        self._on_native_progress = on_native_progress
        self._on_model_progress = on_model_progress

    async def prepare(
        self,
        preset: RuntimePreset,
        on_progress: OnProgress,
        failed: Sequence[FailedVariant] = (),
        *,
        is_to_be_loaded: bool = True,
    ) -> Prepared:
        """Install the best variant that can be installed, and download the model.

        `failed` holds the variants that this load tried before. With `is_to_be_loaded`, a model that can
        never be loaded is not downloaded. Raises the errors of `natives`, `models` and `fitting_variants`;
        if no variant can be installed, raises the error of the first one tried.
        """
        ranked = await self.ranked(preset)
        if is_to_be_loaded:
            failed = [*failed, *await self._advisor.never_fitting(preset, ranked)]
        fitting = fitting_variants(preset, ranked)
        remembered = await self._remembered(preset, fitting)
        candidates = sorted(fitting, key=lambda pair: _is_ruled_out(pair[1], remembered))
        on_native_progress = _both(self._on_native_progress, on_progress)
        on_model_progress = _both(self._on_model_progress, on_progress)
        tried = list(failed)
        while candidates := [pair for pair in candidates if not _is_ruled_out(pair[1], tried)]:
            backend, variant = candidates.pop(0)
            try:
                if cannot_download(tried) and not self._is_installed(variant):
                    continue
                bundle_path = await install_bundle(variant, self._natives, on_native_progress)
            except WhisperdError as error:
                tried.append(_failed(preset, variant, error))
                continue
            await self.failures.note(preset.model, tried[len(failed) :])
            model = await self.models.pull(preset.model, on_model_progress)
            try:
                prepared = await prepare_model(
                    preset, backend, variant, bundle_path, model, self.models, on_model_progress
                )
            except WhisperdError as error:
                tried.append(_failed(preset, variant, error))
                # The backend's other variants need the same file.
                candidates = [pair for pair in candidates if pair[0].name != backend.name]
                continue
            return replace(
                prepared,
                tuning=await self._measured.tuning(preset, backend, variant),
                passed_over=_better_than(variant, fitting, [*tried, *remembered]),
                has_others=bool(candidates),
            )
        raise first_failure(tried)

    async def choose(self, preset: RuntimePreset) -> tuple[Backend, Variant, Tuning | None]:
        """Return what a runtime would be loaded with, as far as is known without trying.

        Raises the errors of `fitting_variants` and of the model.
        """
        fitting = fitting_variants(preset, await self.ranked(preset))
        remembered = await self._remembered(preset, fitting)
        backend, variant = min(fitting, key=lambda pair: _is_ruled_out(pair[1], remembered))
        return backend, variant, await self._measured.tuning(preset, backend, variant)

    async def is_prepared(self, preset: RuntimePreset) -> bool:
        """Whether everything that it needs to be loaded is installed. Raises like `choose`."""
        backend, variant, _ = await self.choose(preset)
        return self._is_installed(variant) and await is_model_prepared(preset, backend, variant, self.models)

    async def ranked(self, preset: RuntimePreset) -> Pairs:
        """Return the variants that this computer can use, the best first: measured speed outranks priority.

        Those that must be built on this computer, which takes minutes, come last until they have been built.
        """
        facts = await self.models.facts(preset.model)
        usable = await self.computer.usable_variants(narrowed(preset, facts))
        ranked = await self._measured.ranked(preset, variants_for(preset, facts, usable))
        return sorted(ranked, key=lambda pair: self._has_to_be_built(pair[1]))

    def _has_to_be_built(self, variant: Variant) -> bool:
        bundle = Bundle.of(variant)
        return bundle is not None and self._natives.has_to_be_built(bundle)

    def _is_installed(self, variant: Variant) -> bool:
        bundle = Bundle.of(variant)
        return bundle is None or self._natives.find(bundle) is not None

    async def _remembered(self, preset: RuntimePreset, fitting: Pairs) -> list[FailedVariant]:
        """Return the variants that failed in earlier loads."""
        return [found for _, one in fitting if (found := await self.failures.find(preset.model, one))]

    async def _stamp(self, variant: Variant) -> str:
        """Identify the state that a variant depends on: it changes with its bundle or the driver."""

        def look_at_bundle() -> str:
            bundle = Bundle.of(variant)
            installed = self._natives.find(bundle) if bundle else None
            changed = None
            if installed:
                with suppress(FileNotFoundError):  # it is being removed
                    changed = installed.path.stat().st_mtime_ns
            wanted = bundle.select().digest if bundle else None
            return f"{wanted} {installed and installed.digest} {changed}"

        driver = (await self.computer.hardware()).gpus.driver if variant.device == "cuda" else None
        return f"{await to_thread.run_sync(look_at_bundle)} {driver}"


def _both(first: OnProgress, second: OnProgress) -> OnProgress:
    def tell(progress: Progress) -> None:
        first(progress)
        second(progress)

    return tell


def _failed(preset: RuntimePreset, variant: Variant, error: WhisperdError) -> FailedVariant:
    log.warning("runtime %s: %s: %s (%s)", preset.name, variant.name, error.message, error.code)
    return FailedVariant(variant, error)


def _is_ruled_out(variant: Variant, failed: Sequence[FailedVariant]) -> bool:
    return any(rules_out(one, variant) for one in failed)


def _better_than(
    variant: Variant, fitting: Pairs, failed: Sequence[FailedVariant]
) -> tuple[FailedVariant, ...]:
    """Return the failures of the variants that rank before a variant, in order."""
    by_name = {one.variant.name: one for one in reversed(failed)}
    before = itertools.takewhile(lambda pair: pair[1].name != variant.name, fitting)
    return tuple(by_name[one.name] for _, one in before if one.name in by_name)
