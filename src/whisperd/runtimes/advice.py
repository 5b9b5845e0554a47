"""Advice on models: which one suits this computer, and which will not fit, before anything is downloaded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from whisperd.hardware import Gpu, Memory, read_memory
from whisperd.models import (
    InstalledModel,
    ModelSize,
    ModelStore,
    Recommendation,
    SizedModel,
    file_need_bytes,
    need_bytes,
    recommend,
    speeds_from,
    suitable_model,
    too_large,
)
from whisperd.plugins import Backend, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.computer import Computer
from whisperd.runtimes.fallback import FailedVariant
from whisperd.runtimes.prepare import compute_type, fitting_variants
from whisperd.runtimes.preset import RuntimePreset

__all__ = ["Advisor"]


class Advisor:
    """Advises on models from the catalogue, this computer's hardware and the speeds measured on it."""

    def __init__(
        self,
        models: ModelStore,
        computer: Computer,
        measured: Callable[[], Awaitable[Mapping[str, float]]],
        memory: Callable[[], Memory] = read_memory,
    ) -> None:
        """`measured` returns the speeds of the models measured so far, in multiples of real time."""
        self._models = models
        self._computer = computer
        self._measured = measured
        self._memory = memory

    async def recommend(self, language: str | None = None) -> tuple[Recommendation, ...]:
        """Return all catalogue models that support a language, the best choice for this computer first."""
        gpu_total = _largest(await self._computer.usable_gpus())
        known, total = self._models.catalogue.models, self._memory().total
        return recommend(known, total, gpu_total, language=language, measured=await self._measured())

    async def suitable(self) -> str:
        """Return the name of the best model for this computer."""
        gpu_total = _largest(await self._computer.usable_gpus())
        known, total = self._models.catalogue.models, self._memory().total
        speed_of = speeds_from(await self._measured(), known)
        return suitable_model(total, gpu_total, models=known, speed_of=speed_of)

    async def warnings(
        self,
        name: str,
        *,
        device: str = "auto",
        device_index: Sequence[int] = (),
        compute_type: str = "auto",
    ) -> list[WhisperdError]:
        """Return the reasons not to download a model for this computer: `model.too_large`.

        There are none for a model that is installed already or not in the catalogue. `data.download` is its
        size in bytes; `data.loadable` is false if loading it would be refused.
        """
        model = self._models.catalogue.find(name)
        if model is None or (await self._models.describe(name)).installed:
            return []
        return await self._warnings(model, model.size_bytes, device, device_index, compute_type)

    async def warnings_of_imported(self, model: InstalledModel) -> list[WhisperdError]:
        """Return the reasons not to use an imported model, which needs no download."""
        size = await self._models.size(model.name, Path(model.path))
        device = "cpu" if model.facts else "auto"
        return await self._warnings(_Imported(model, size), 0, device, (), "auto")

    async def _warnings(
        self,
        model: SizedModel,
        download_bytes: int | None,
        device: str,
        device_index: Sequence[int],
        compute_type: str,
    ) -> list[WhisperdError]:
        gpus: Sequence[Gpu] = () if device == "cpu" else await self._computer.usable_gpus()
        gpu_total = _largest(gpu for gpu in gpus if not device_index or gpu.index in device_index)
        known, total = self._models.catalogue.models, self._memory().total
        warning = too_large(model, total, gpu_total, known, compute_type=compute_type)
        if warning is None:
            return []
        if gpu_total and device == "auto":  # it falls back to the CPU
            elsewhere = too_large(model, total, 0, known, compute_type=compute_type)
        else:
            elsewhere = warning
        warning.data["loadable"] = not (_is_hopeless(warning) and _is_hopeless(elsewhere))
        warning.data["download"] = download_bytes
        return [warning]

    async def never_fitting(
        self, preset: RuntimePreset, ranked: Sequence[tuple[Backend, Variant]]
    ) -> list[FailedVariant]:
        """Return the variants that can never load a model not yet installed, to avoid a useless download.

        The errors are `memory.not_enough` and `memory.gpu_not_enough`. Memory that is merely in use does not
        count: it may be free once the model is downloaded. Raises like `fitting_variants`.
        """
        found = []
        for _, variant in fitting_variants(preset, ranked):
            for warning in await self.warnings(
                preset.model,
                device=variant.device,
                device_index=preset.device_index,
                compute_type=compute_type(preset, variant),
            ):
                if _is_hopeless(warning):
                    code = "memory.gpu_not_enough" if variant.device == "cuda" else "memory.not_enough"
                    data = {name: warning.data[name] for name in ("needed", "largest")}
                    data["free"] = warning.data["total"]
                    found.append(
                        FailedVariant(variant, WhisperdError(code, warning.message, warning.fix, data))
                    )
        return found


@dataclass(frozen=True)
class _Imported:
    """The memory needs of a model that may not be in the catalogue: see `SizedModel`."""

    model: InstalledModel
    size: ModelSize

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def english_only(self) -> bool:
        return self.model.languages == ("en",)

    def memory_bytes(self, compute_type: str, *, batch_size: int, device: str) -> int:
        if self.model.facts is not None:  # its stored precision is the compute type
            return file_need_bytes(self.model.facts) or 0
        return need_bytes(
            self.size.parameters,
            compute_type,
            batch_size=batch_size,
            device=device,
            decoder_share=self.size.decoder_share,
        )


def _largest(gpus: Iterable[Gpu]) -> int:
    """Return the memory of the largest GPU, or 0 without GPUs."""
    return max((gpu.memory_total for gpu in gpus), default=0)


def _is_hopeless(warning: WhisperdError | None) -> bool:
    """Whether a model needs more memory than there is in total."""
    return warning is not None and warning.data["needed"] > warning.data["total"]
