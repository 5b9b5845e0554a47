"""Calibrates models: tries what the planner proposes, stores the results, and answers queries about them.

Calibration never delays other work: as soon as there is a job, or a runtime to load, the worker being
measured is killed, and its trial is repeated when the computer is idle. It never unloads anything to get
memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Final

import anyio
import msgspec

from whisperd.calibration import planner
from whisperd.calibration.bench import Bench, Limits, OutOfTime
from whisperd.calibration.circumstances import Circumstances
from whisperd.calibration.idle import Idle
from whisperd.calibration.table import CalibrationTable
from whisperd.calibration.values import (
    USUAL_MARGIN_S,
    Calibration,
    Candidate,
    Outcome,
    PassedOver,
    Setting,
    Trial,
)
from whisperd.clock import now_rfc3339
from whisperd.plugins import Backend, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import CalibrationProgress
from whisperd.runtimes import (
    USUAL_BATCH_SIZE,
    JudgedVariant,
    Prepared,
    RuntimePreset,
    Tuning,
    died_error,
    load_params,
    not_started_error,
    open_prepared,
)
from whisperd.worker.process import Patience, Worker, WorkerDied
from whisperd.worker.protocol import MAX_REPLICAS, DecodeOptions, LoadParams

__all__ = ["Calibrator", "DaemonInterface", "budget_s", "chosen_trial", "patience_s"]

log = logging.getLogger(__name__)

LEAST_BUDGET_S: Final = 56.0
MOST_BUDGET_S: Final = 900.0
"""The limits of the time for a search, loading included."""
BUDGET_TRIALS: Final = 15
"""The budget in multiples of the first trial's time, as large models and slow computers need longer."""
PATIENCE_S: Final = 30.0
"""An engine that does not load the smallest model, or does not respond, within this time is stuck."""
MOST_PATIENCE_S: Final = 600.0
SMALL_PARAMETERS: Final = 39e6

CPU_BATCH_SIZES: Final = (1, 2, 4, 8)
GPU_BATCH_SIZES: Final = (4, 8, 16, 32, 64)
MARGINS_S: Final = (1.0, USUAL_MARGIN_S, 4.0)
USUAL_GPU_BATCH_SIZE: Final = 8

OpenWorker = Callable[[Prepared, LoadParams, Patience], AbstractAsyncContextManager[Worker]]


@dataclass(frozen=True)
class DaemonInterface:
    """The functions that calibration needs from the rest of the daemon."""

    variants: Callable[[RuntimePreset], Awaitable[Sequence[JudgedVariant]]]
    """Returns every variant that loads a preset's model, by priority. The problem of a variant may also be
    that it is not worth its download."""
    circumstances: Callable[[], Awaitable[Circumstances]]
    """Returns the current circumstances."""
    prepare: Callable[[RuntimePreset, Backend, Variant], Awaitable[Prepared]]
    """Installs everything that a worker of a variant needs. Raises `WhisperdError`."""
    check_room: Callable[[RuntimePreset, Prepared, LoadParams, int], Awaitable[None]]
    """Raises `memory.not_enough` or the like if the worker does not fit without unloading something."""
    parameters: Callable[[str], Awaitable[float]]
    """Returns the number of parameters of a model."""
    open_worker: OpenWorker = open_prepared
    publish: Callable[[CalibrationProgress], None] = lambda _event: None
    clock: Callable[[], float] = time.monotonic


class Calibrator:
    """Calibrates one model at a time, and gives access to the results."""

    def __init__(self, table: CalibrationTable, idle: Idle, daemon: DaemonInterface) -> None:
        self._idle = idle
        self._table = table
        self._daemon = daemon
        self._turn = anyio.Lock()
        self.running: str | None = None
        """The model being calibrated."""

    async def run(self, model: str, *, quiet_s: float = 0.0, unless_known: bool = False) -> Calibration:
        """Find the fastest way to run an installed model, and store it.

        After an interruption, it resumes when no other work was done for `quiet_s` seconds. Raises
        `calibration.nothing_works` if no variant produces a text in the available time, with the reason for
        each in its data.
        """
        async with self._turn:
            if unless_known and (known := await self.current(model)):
                return known
            search = _Search(model, self._daemon, self._idle, quiet_s)
            log.info("calibrating %s: trying variants, each in its own worker", model)
            self.running = model
            try:
                found = await search.run()
            finally:
                self.running = None
            if chosen_trial(found) is None:
                raise _nothing_works(model, found)
            await self._table.put(found)
            log.info("calibrated %s in %.0f s, %d trials", model, found.elapsed_s, len(found.trials))
            return found

    async def circumstances(self) -> Circumstances:
        """Return the current circumstances."""
        return await self._daemon.circumstances()

    async def current(self, model: str) -> Calibration | None:
        """Return the calibration of a model for the current circumstances."""
        return self._table.find(model, (await self.circumstances()).fingerprint)

    async def show(self, model: str) -> Calibration | None:
        """Return the current calibration of a model, else its latest one, which is outdated."""
        return await self.current(model) or self._table.latest(model)

    async def speeds(self) -> dict[str, float]:
        """Return the seconds of audio transcribed per second, by model, for the models calibrated here."""
        fingerprint = (await self.circumstances()).fingerprint
        found = {one.model: chosen_trial(one) for one in self._table.all() if one.fingerprint == fingerprint}
        return {model: trial.speed for model, trial in found.items() if trial and trial.speed}

    async def forget(self, model: str) -> int:
        """Delete all calibrations of a model, and return how many there were."""
        return await self._table.forget(model)

    async def ranked(
        self, preset: RuntimePreset, usable: Sequence[tuple[Backend, Variant]]
    ) -> list[tuple[Backend, Variant]]:
        """Return the usable variants: the fastest first, then by priority, with those that fail last."""
        current = await self.current(preset.model)
        if current is None:
            return list(usable)
        trial = _fastest(current, preset, usable)
        fastest = trial.setting.variant if trial else None

        def place(pair: tuple[Backend, Variant]) -> tuple[bool, bool]:
            name = pair[1].name
            return name != fastest, planner.striking_trial(name, current.trials) is not None

        return sorted(usable, key=place)

    async def tuning(self, preset: RuntimePreset, backend: Backend, variant: Variant) -> Tuning | None:
        """Return the fastest tuning for a variant that a preset allows; None if nothing was measured."""
        current = await self.current(preset.model)
        trial = _fastest(current, preset, [(backend, variant)]) if current else None
        return _tuning(trial.setting) if trial else None


def chosen_trial(calibration: Calibration) -> Trial | None:
    """Return the winning trial."""
    return planner.best(calibration.candidates, calibration.trials)


def budget_s(trials: Sequence[Trial]) -> float:
    """Return the seconds that a calibration may take in all, based on its first trial if there is one."""
    first = next((trial.cost_s for trial in trials if trial.outcome == "measured"), None)
    if first is None:
        return MOST_BUDGET_S
    return min(MOST_BUDGET_S, max(LEAST_BUDGET_S, BUDGET_TRIALS * first))


def patience_s(parameters: float) -> float:
    """Return the seconds that an engine may take to load a model, and again for its first answer."""
    return min(MOST_PATIENCE_S, PATIENCE_S * max(1.0, parameters / SMALL_PARAMETERS))


class _Search:
    """One calibration."""

    def __init__(self, model: str, daemon: DaemonInterface, idle: Idle, quiet_s: float) -> None:
        self._model = model
        self._daemon = daemon
        self._idle = idle
        self._quiet_s = quiet_s
        self._preset = RuntimePreset(id="calibration", name=model, model=model, created="", changed="")
        self._options = DecodeOptions(language="en")
        self._possible: dict[str, JudgedVariant] = {}
        self._prepared: dict[str, Prepared] = {}
        self._candidates: list[Candidate] = []
        self._trials: list[Trial] = []
        self._patience_s = 0.0
        self._is_out_of_time = False
        self._was_interrupted = False

    async def run(self) -> Calibration:
        daemon = self._daemon
        circumstances = await daemon.circumstances()
        self._options = DecodeOptions(language="en", beam_size=circumstances.beam_size)
        self._patience_s = patience_s(await daemon.parameters(self._model))
        possible = await daemon.variants(self._preset)
        self._possible = {one.variant.name: one for one in possible if one.problem is None}
        self._candidates = [_candidate(one.variant, circumstances.cores) for one in self._possible.values()]
        while setting := self._next():
            await self._try_from(setting)
        return Calibration(
            model=self._model,
            fingerprint=circumstances.fingerprint,
            circumstances=circumstances,
            time=now_rfc3339(),
            elapsed_s=round(self._spent_s, 1),
            is_complete=planner.is_searched(self._candidates, self._trials),
            candidates=tuple(self._candidates),
            trials=tuple(self._trials),
            passed_over=tuple(
                PassedOver(variant=one.variant.name, problem=one.problem.to_wire())
                for one in possible
                if one.problem is not None
            ),
        )

    @property
    def _budget_s(self) -> float:
        return budget_s(self._trials)

    @property
    def _spent_s(self) -> float:
        return sum(trial.cost_s for trial in self._trials)

    def _next(self) -> Setting | None:
        if self._is_out_of_time:
            return None
        return planner.next_setting(self._candidates, self._trials, self._budget_s)

    async def _try_from(self, setting: Setting) -> None:
        """Try a setting, and the next ones that can use the same worker, until interrupted by other work."""
        self._publish(setting, "preparing")
        try:
            prepared = await self._prepare(setting.variant)
            if self._was_interrupted or self._idle.is_busy:
                await self._idle.quiet(self._quiet_s)
            with self._idle.interruptible() as scope:
                await self._try(setting, prepared)
            self._was_interrupted = scope.cancelled_caught
        except WhisperdError as error:
            self._failed(setting, error)

    async def _prepare(self, variant: str) -> Prepared:
        if variant not in self._prepared:
            one = self._possible[variant]
            self._prepared[variant] = await self._daemon.prepare(self._preset, one.backend, one.variant)
        return self._prepared[variant]

    async def _try(self, first: Setting, prepared: Prepared) -> None:
        params = load_params(self._preset, replace(prepared, tuning=_tuning(first)))
        patience = Patience(load_s=self._patience_s)
        began_s = self._daemon.clock()
        setting: Setting = first
        try:
            await self._daemon.check_room(self._preset, prepared, params, first.batch_size)
            self._publish(setting, "loading")
            async with self._daemon.open_worker(prepared, params, patience) as worker:
                load_s: float | None = self._daemon.clock() - began_s
                bench = Bench(worker, self._options, self._daemon.clock)
                for setting in self._on_same_worker(first, bench):
                    self._publish(setting, "measuring")
                    trial = await bench.measure(setting, self._limits(self._daemon.clock() - began_s))
                    cost_s = self._daemon.clock() - began_s
                    self._note(msgspec.structs.replace(trial, load_s=load_s, cost_s=cost_s))
                    began_s, load_s = self._daemon.clock(), None
        except OutOfTime:
            self._is_out_of_time = True
        except WorkerDied as death:
            self._failed(setting, died_error(setting.variant, death), self._daemon.clock() - began_s)
        except OSError as error:
            self._failed(setting, not_started_error(setting.variant, error), self._daemon.clock() - began_s)
        except WhisperdError as error:
            self._failed(setting, error, self._daemon.clock() - began_s)

    def _on_same_worker(self, first: Setting, bench: Bench) -> Iterator[Setting]:
        setting: Setting | None = first
        while setting is not None and not bench.is_spent and _loads_as(setting, first):
            yield setting
            setting = self._next()

    def _limits(self, spent_s: float) -> Limits:
        return Limits(
            left_s=max(0.0, self._budget_s - self._spent_s - spent_s),
            patience_s=self._patience_s,
            fastest=planner.fastest_speed(self._candidates, self._trials),
        )

    def _failed(self, setting: Setting, error: WhisperdError, cost_s: float = 0.0) -> None:
        outcome: Outcome = "no_memory" if error.code.startswith("memory.") else "failed"
        log.warning("calibration of %s: %s %s (%s)", self._model, setting.variant, outcome, error.code)
        problem = WhisperdError(error.code, error.message, error.fix).to_wire()
        self._note(Trial(setting=setting, outcome=outcome, speeds=(), cost_s=cost_s, problem=problem))
        if outcome == "no_memory":
            self._candidates = [
                one if one.variant in self._measured else _with_fewer_replicas(one, setting)
                for one in self._candidates
            ]

    @property
    def _measured(self) -> set[str]:
        return {trial.setting.variant for trial in self._trials if trial.outcome == "measured"}

    def _note(self, trial: Trial) -> None:
        self._trials = planner.with_trial(self._trials, trial)

    def _publish(self, setting: Setting, detail: str) -> None:
        self._daemon.publish(
            CalibrationProgress(
                model=self._model,
                detail=detail if not self._idle.is_busy else "waiting",
                variant=setting.variant,
                workers=setting.replicas,
                cpu_threads=setting.cpu_threads,
                batch_size=setting.batch_size,
                context_margin=setting.context_margin_s,
                trials=len(self._trials),
                done=round(self._spent_s, 1),
                total=self._budget_s,
            )
        )


def _candidate(variant: Variant, cores: int) -> Candidate:
    is_cpu = variant.device == "cpu"
    shapes = tuple((count, cores // count) for count in range(1, cores + 1) if cores % count == 0)
    shapes = tuple(shape for shape in shapes if shape[0] <= MAX_REPLICAS) if is_cpu else ((1, 1), (2, 1))
    replicas, cpu_threads = shapes[-1] if is_cpu else shapes[0]
    return Candidate(
        start=Setting(
            variant=variant.name,
            compute_type=variant.compute_types[0],
            replicas=replicas,
            cpu_threads=cpu_threads,
            batch_size=USUAL_BATCH_SIZE if is_cpu else USUAL_GPU_BATCH_SIZE,
            context_margin_s=USUAL_MARGIN_S,
        ),
        shapes=shapes,
        batch_sizes=CPU_BATCH_SIZES if is_cpu else GPU_BATCH_SIZES,
        margins_s=MARGINS_S,
    )


def _with_fewer_replicas(candidate: Candidate, setting: Setting) -> Candidate:
    """Return a candidate that starts with fewer replicas if `setting`, for which there is no memory, is its
    start: on a computer with many cores, one for each may be too many."""
    start = candidate.start
    place = candidate.shapes.index((start.replicas, start.cpu_threads))
    if not place or msgspec.structs.replace(setting, context_margin_s=start.context_margin_s) != start:
        return candidate
    replicas, cpu_threads = candidate.shapes[place - 1]
    start = msgspec.structs.replace(start, replicas=replicas, cpu_threads=cpu_threads)
    return msgspec.structs.replace(candidate, start=start, shapes=candidate.shapes[:place])


def _loads_as(setting: Setting, other: Setting) -> bool:
    """Whether both can be tried on one worker, because at most their batch sizes differ."""
    return msgspec.structs.replace(setting, batch_size=other.batch_size) == other


def _fastest(
    found: Calibration, preset: RuntimePreset, usable: Sequence[tuple[Backend, Variant]]
) -> Trial | None:
    """Return the best trial among the usable variants that a preset allows."""
    by_name = {variant.name: (backend, variant) for backend, variant in usable}

    def allows(setting: Setting) -> bool:
        return setting.variant in by_name and _allows(preset, setting, *by_name[setting.variant])

    return planner.best(found.candidates, found.trials, allows)


def _allows(preset: RuntimePreset, setting: Setting, backend: Backend, variant: Variant) -> bool:
    """Whether a setting matches a preset in everything that the preset specifies."""
    usual_type = variant.compute_types[0]
    compute_type = usual_type if preset.compute_type == "auto" else preset.compute_type
    return (
        preset.backend in ("auto", backend.name)
        and preset.wanted_device in ("auto", variant.device)
        and compute_type == setting.compute_type
        and preset.workers in (0, setting.replicas)
        and preset.cpu_threads in (0, setting.cpu_threads)
        # Only one GPU was measured.
        and len(preset.device_index) <= 1
    )


def _tuning(setting: Setting) -> Tuning:
    return Tuning(setting.replicas, setting.cpu_threads, setting.batch_size, setting.context_margin_s)


def _nothing_works(model: str, found: Calibration) -> WhisperdError:
    reasons = {
        **{one.variant: one.problem["message"] for one in found.passed_over},
        **{trial.setting.variant: trial.problem["message"] for trial in found.trials if trial.problem},
    }
    if found.candidates and not found.trials:
        return WhisperdError(
            "calibration.nothing_works",
            f"With {model}, no engine transcribed the shipped speech within "
            f"{MOST_BUDGET_S / 60:.0f} minutes.",
            "Use a smaller model: `whisperctl models recommend` shows which ones suit this computer.",
            {"model": model, "reasons": reasons},
        )
    said = " ".join(f"{variant}: {reason}" for variant, reason in reasons.items())
    return WhisperdError(
        "calibration.nothing_works",
        f"With {model}, no engine can transcribe the shipped speech. {said}".strip(),
        "Run `whisperctl natives list`, and `whisperctl hardware` to see what each engine needs.",
        {"model": model, "reasons": reasons},
    )
