"""The subject of the checks and their fixtures: variant, bundle, models, speech."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final

import msgspec

from whisperd.runtimes.loaded import open_prepared
from whisperd.runtimes.prepare import Prepared, load_params
from whisperd.runtimes.preset import RuntimePreset
from whisperd.speech import Sample
from whisperd.testing.conformance.announced import Announced
from whisperd.testing.conformance.sounds import MAX_WINDOW_S, silence
from whisperd.worker.process import Patience, Worker
from whisperd.worker.protocol import BatchParams, DecodeOptions, EngineWindow, LoadParams, WindowResult

__all__ = ["BATCH_SIZE", "REPLICAS", "Bench", "Trial", "TrialModel", "text_of"]

BATCH_SIZE: Final = 4
REPLICAS: Final = 2


@dataclass(frozen=True)
class TrialModel:
    """A model that is ready to be loaded."""

    name: str
    prepared: Prepared
    preset: RuntimePreset
    parameters: float


@dataclass
class Bench(Announced):
    """A variant of a backend, with the models and speech to test it with."""

    model: TrialModel
    multilingual: TrialModel | str
    """Or the reason there is none."""
    samples: Sequence[Sample]
    patience: Patience
    alone: list[WindowResult] = field(default_factory=list)
    """The results of each English sample alone, cached."""
    early_and_late: list[WindowResult] = field(default_factory=list)
    """The results of half a minute that begins, and of one that ends, with the second sample, cached."""

    @property
    def english(self) -> list[Sample]:
        """The English samples, shortest first."""
        return [sample for sample in self.samples if sample.language == "en"]

    def params(self, model: TrialModel | None = None, **changes: object) -> LoadParams:
        """Return a worker's load parameters, as the daemon would send them."""
        model = model or self.model
        return msgspec.structs.replace(load_params(model.preset, model.prepared), **changes)

    def open(self, params: LoadParams) -> AbstractAsyncContextManager[Worker]:
        """Start a worker, as the daemon does."""
        return open_prepared(self.model.prepared, params, self.patience)


class Trial:
    """A loaded engine, with everything to test it with."""

    def __init__(self, bench: Bench, worker: Worker) -> None:
        self.bench = bench
        self.worker = worker
        self.info = worker.info

    async def transcribe(
        self, *sounds: bytes | EngineWindow, language: str | None = "en", **options: object
    ) -> list[WindowResult]:
        """Transcribe a batch. Raises `WhisperdError` and `WorkerDied`."""
        windows = tuple(
            sound if isinstance(sound, EngineWindow) else EngineWindow(pcm=sound) for sound in sounds
        )
        decode = msgspec.structs.replace(DecodeOptions(language=language), **options)
        return await self.worker.transcribe(BatchParams(windows=windows, options=decode))

    async def text(self, sound: bytes, **options: object) -> str:
        """Return the text of one window."""
        return text_of((await self.transcribe(sound, **options))[0])  # type: ignore[arg-type]

    async def alone(self) -> list[WindowResult]:
        """Return the results of the English samples, each transcribed alone."""
        if not self.bench.alone:
            self.bench.alone = [(await self.transcribe(sample.pcm))[0] for sample in self.bench.english]
        return self.bench.alone

    async def early_and_late(self) -> list[WindowResult]:
        """Return the results of half a minute that begins, and of one that ends, with the second sample."""
        if not self.bench.early_and_late:
            sample = self.bench.english[1]
            rest = silence(MAX_WINDOW_S - sample.duration_s)
            self.bench.early_and_late = await self.transcribe(sample.pcm + rest, rest + sample.pcm)
        return self.bench.early_and_late


def text_of(result: WindowResult) -> str:
    """Return the text of a window."""
    return "".join(segment.text for segment in result.segments)
