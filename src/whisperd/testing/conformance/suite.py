"""Runs the checks: of the announcement, of a worker with each model, and of starting and ending workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from whisperd.models import ModelStore
from whisperd.natives import NativeStore
from whisperd.plugins import Backend, Variant
from whisperd.progress import OnProgress
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.prepare import prepare_variant
from whisperd.runtimes.preset import RuntimePreset
from whisperd.speech import Sample
from whisperd.testing.conformance.announced import ANNOUNCED, Announced
from whisperd.testing.conformance.bench import BATCH_SIZE, REPLICAS, Bench, Trial, TrialModel
from whisperd.testing.conformance.checks import Check, Outcome, describe, describe_death, judge
from whisperd.testing.conformance.languages import LANGUAGES
from whisperd.testing.conformance.loading import LOADING
from whisperd.testing.conformance.sounds import all_samples
from whisperd.testing.conformance.timing import TIMING
from whisperd.testing.conformance.transcription import TRANSCRIPTION
from whisperd.worker.process import Patience, WorkerDied

__all__ = ["CHECKS", "Suite"]

_PREPARING = Check[Any]("preparing", "The bundle is installed and the model prepared", lambda _: None)
_LOADING_MODEL = Check[Any]("loading", "The model is loaded in a worker process", lambda _: None)
_LOADING_MULTILINGUAL = Check[Any](
    "loading-multilingual", "The multilingual model is loaded in a worker process", lambda _: None
)

_OF_A_WORKER: tuple[Check[Any], ...] = (
    _LOADING_MODEL,
    *TRANSCRIPTION,
    *TIMING,
    _LOADING_MULTILINGUAL,
    *LANGUAGES,
    *LOADING,
)
_ALL: tuple[Check[Any], ...] = (*ANNOUNCED, _PREPARING, *_OF_A_WORKER)

CHECKS: tuple[tuple[str, str], ...] = tuple((check.name, check.what) for check in _ALL)
"""The name and requirement of every check, in order."""

NOT_ASKED = "skipped on request"
NOT_LOADED = "no worker is running"


def _ignore(_: object) -> None:
    """Accept a report without using it."""


@dataclass
class Suite:
    """All checks of one variant. `run` never raises, whatever the backend does."""

    backend: Backend
    variant: Variant
    natives: NativeStore
    models: ModelStore
    model: str = "tiny.en"
    multilingual: str = "base"
    samples: Sequence[Sample] = field(default_factory=all_samples)
    skip: Collection[str] = ()
    """Names of checks to leave out."""
    patience: Patience = field(
        default_factory=lambda: Patience(load_s=600, batch_s=120, batch_per_audio_s=10)
    )
    on_outcome: Callable[[Outcome], None] = _ignore
    on_progress: OnProgress = _ignore
    outcomes: list[Outcome] = field(default_factory=list, init=False)

    async def run(self) -> list[Outcome]:
        """Run the checks in order and return their outcomes."""
        announced = Announced(self.backend, self.variant)
        for check in ANNOUNCED:
            await self._judge(check, announced)
        bench = None
        if any(outcome.status == "failed" for outcome in self.outcomes):
            self._skip_all([_PREPARING], "the announcement must be valid first")
        else:
            bench = await self._prepare()
        if bench is None:
            self._skip_all(_OF_A_WORKER, "the variant could not be prepared")
            return self.outcomes
        if not await self._with_worker(bench, bench.model, _LOADING_MODEL, (*TRANSCRIPTION, *TIMING)):
            self._skip_all((_LOADING_MULTILINGUAL, *LANGUAGES, *LOADING), NOT_LOADED)
            return self.outcomes
        if isinstance(bench.multilingual, str):
            self._skip_all((_LOADING_MULTILINGUAL, *LANGUAGES), bench.multilingual)
        else:
            await self._with_worker(bench, bench.multilingual, _LOADING_MULTILINGUAL, LANGUAGES)
        for loading in LOADING:
            await self._judge(loading, bench)
        return self.outcomes

    async def _prepare(self) -> Bench | None:
        try:
            model = await self._model(self.model)
        except WhisperdError as error:
            self._report(_PREPARING.outcome("failed", describe(error)))
            return None
        self._report(_PREPARING.outcome("ok"))
        multilingual: TrialModel | str
        try:
            multilingual = await self._model(self.multilingual)
        except WhisperdError as error:
            multilingual = describe(error)
        return Bench(self.backend, self.variant, model, multilingual, self.samples, self.patience)

    async def _model(self, name: str) -> TrialModel:
        """Prepare a model and its bundle, as the daemon does."""
        preset = RuntimePreset(
            id="conformance",
            name="conformance",
            model=self.models.canonical_name(name),
            backend=self.backend.name,
            device=self.variant.device,  # type: ignore[arg-type]
            cpu_threads=1,
            workers=REPLICAS,
            batch_size=BATCH_SIZE,
            created="",
            changed="",
        )
        prepared = await prepare_variant(
            preset,
            self.backend,
            self.variant,
            self.natives,
            self.models,
            self.on_progress,
            self.on_progress,
        )
        parameters = await self.models.parameters(name)
        return TrialModel(preset.model, prepared, preset, parameters)

    async def _with_worker(
        self, bench: Bench, model: TrialModel, loading: Check[Any], checks: Iterable[Check[Trial]]
    ) -> bool:
        """Run checks on a worker, replacing it when a check kills it. Return whether it loads at all."""
        remaining = deque(checks)
        is_first = True
        while remaining:
            try:
                async with bench.open(bench.params(model)) as worker:
                    if is_first:
                        self._report(loading.outcome("ok"))
                        is_first = False
                    while remaining and not worker.died.is_set():
                        await self._judge(remaining.popleft(), Trial(bench, worker))
            except (WhisperdError, WorkerDied) as error:
                reason = describe(error) if isinstance(error, WhisperdError) else describe_death(error)
                if is_first:
                    self._report(loading.outcome("failed", reason))
                self._skip_all(remaining, NOT_LOADED)
                remaining.clear()
        return not is_first

    async def _judge(self, check: Check[Any], subject: object) -> None:
        if check.name in self.skip:
            self._report(check.outcome("skipped", NOT_ASKED))
        else:
            self._report(await judge(check, subject))

    def _skip_all(self, checks: Iterable[Check[Any]], reason: str) -> None:
        for check in checks:
            self._report(check.outcome("skipped", reason))

    def _report(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.on_outcome(outcome)
