"""Calibration of tiny.en: its duration, whether it picks the fastest setting, and whether it delays jobs.

To find the fastest, every installed variant is tried once with each combination of threads and replicas,
batch sizes and margins; a setting that takes a third longer than the picked one is given up. The best of
these and the picked one are then measured again, in turn, as often as a calibration does it. All of it takes
about five minutes on two idle cores.
"""

from __future__ import annotations

import itertools
import os
import statistics
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from benchmarks.measure import CACHE, Outcome, RunningDaemon, rounds
from whisperd.calibration import DaemonInterface, Setting, Trial
from whisperd.calibration.bench import Bench, Limits
from whisperd.daemon.calibrating import calibration_interface
from whisperd.daemon.service import open_service
from whisperd.hardware import usable_cores
from whisperd.runtimes import JudgedVariant
from whisperd.runtimes.prepare import Tuning, load_params
from whisperd.runtimes.preset import RuntimePreset
from whisperd.settings import Settings
from whisperd.worker.process import Patience
from whisperd.worker.protocol import DecodeOptions

MODEL = "tiny.en"
PRESET = RuntimePreset(id="bench", name=MODEL, model=MODEL, created="", changed="")
GOAL_S = 60.0
GOAL_SHARE = 0.95
FINALISTS = 3
ROUNDS = 3
"""How often the finalists are measured."""
JOBS = 5
"""How many jobs run alone, and how many during a calibration."""
MAX_GAIN = 1.5
"""No setting is expected to be faster than the picked one by more than this factor. `Bench` gives up a trial
that takes twice as long as expected."""
BATCH_SIZES = (1, 2, 4, 8)
MARGINS_S = (1.0, 2.0, 4.0)


def measure(_daemon: RunningDaemon, audio: Path) -> Outcome:
    """Calibrate while jobs run, then on an idle daemon, then try all settings."""
    with TemporaryDirectory() as folder:
        daemon = RunningDaemon(Path(folder), toy=False).start()
        try:
            daemon.ctl("models", "pull", MODEL, timeout=600)
            daemon.ctl("natives", "install", "ctranslate2-cpu", timeout=600)
            delays = _delays(daemon, str(audio / "jfk.flac"))  # this calibration installs further variants
            began = time.perf_counter()
            found = daemon.ctl("calibrate", MODEL, "--json", timeout=600).json
            elapsed_s = time.perf_counter() - began
        finally:
            daemon.close()
        (Path(folder) / "other").mkdir()
        picked, fastest, winner, every = anyio.run(_against_everything, found, Path(folder) / "other")
    share = statistics.median(one / other for one, other in zip(picked, fastest, strict=True))
    alone_s, window_s, beside_s = (statistics.median(delays[name]) for name in ("alone", "window", "beside"))
    chosen = found["chosen"]
    return Outcome(
        "calibration",
        f"{MODEL}: at most {GOAL_S:.0f} s, within 5 % of the fastest, jobs wait for one window at most",
        elapsed_s <= GOAL_S and share >= GOAL_SHARE and beside_s - alone_s <= window_s,
        [
            ("whole calibration", f"{elapsed_s:.0f} s, {len(found['trials'])} settings"),
            ("picked", _said(chosen)),
            ("fastest of all", f"{_said(winner)}, of {len(every)}"),
            ("speed, picked to fastest", f"{share:.2f}"),
            ("jfk.flac, alone", f"{alone_s * 1000:.0f} ms, of which its window {window_s * 1000:.0f} ms"),
            ("jfk.flac, during calibration", f"{beside_s * 1000:.0f} ms"),
        ],
        {"found": found, "picked": picked, "fastest": fastest, "every": every, "delays": delays},
    )


def _said(setting: dict[str, Any]) -> str:
    return (
        f"{setting['variant']}, {setting['workers']} x {setting['cpu_threads']} threads, batches of "
        f"{setting['batch_size']}, margin {setting['context_margin']:g} s"
    )


def _setting(shown: dict[str, Any]) -> Setting:
    return Setting(
        variant=shown["variant"],
        compute_type=shown["compute_type"],
        replicas=shown["workers"],
        cpu_threads=shown["cpu_threads"],
        batch_size=shown["batch_size"],
        context_margin_s=shown["context_margin"],
    )


def _described(trial: Trial) -> dict[str, Any]:
    setting = trial.setting
    return {
        "variant": setting.variant,
        "workers": setting.replicas,
        "cpu_threads": setting.cpu_threads,
        "batch_size": setting.batch_size,
        "context_margin": setting.context_margin_s,
        "speed": trial.speed,
    }


def _delays(daemon: RunningDaemon, recording: str) -> dict[str, list[float]]:
    """Measure the seconds from a request to its text, alone and during a calibration, and of its window."""
    delays: dict[str, list[float]] = {"alone": [], "window": [], "beside": []}
    with daemon.connect() as client, daemon.connect() as other:
        client.runtimes.create(name="bench", model=MODEL, keep_alive=-1)
        client.runtimes.load("bench")
        client.transcribe(recording, runtime="bench", cache=False)

        def job(into: list[float]) -> None:
            began = time.perf_counter()
            transcript = client.transcribe(recording, runtime="bench", cache=False)
            into.append(time.perf_counter() - began)
            if into is delays["alone"]:
                delays["window"].append(transcript.duration / client.jobs.list()[-1]["speed"])

        for _ in range(rounds(JOBS)):
            job(delays["alone"])
        measuring = threading.Event()

        def tell(event: dict[str, Any]) -> None:
            if event["detail"] == "measuring":
                measuring.set()
            else:
                measuring.clear()

        calibrating = threading.Thread(
            target=lambda: other.request_with_events(("calibration",), "calibration.run", tell, model=MODEL)
        )
        calibrating.start()
        while calibrating.is_alive() and len(delays["beside"]) < rounds(JOBS):
            time.sleep(1.0)  # until the middle of a trial
            if measuring.wait(1.0):
                job(delays["beside"])
        calibrating.join()
    return delays


async def _against_everything(
    found: dict[str, Any], state: Path
) -> tuple[list[float], list[float], dict[str, Any], list[dict[str, Any]]]:
    """Return the speeds of the picked and the fastest setting by round, the fastest, and correct trials."""
    chosen = _setting(found["chosen"])
    async with service(state) as daemon:
        possible = {one.variant.name: one for one in await daemon.variants(PRESET) if one.problem is None}
        expected = MAX_GAIN * found["chosen"]["speed"]
        trials = [
            trial
            for one in possible.values()
            for settings in _all_settings(one)
            for trial in await _try(daemon, possible, settings, expected)
        ]
        right = [one for one in trials if one.speed and (one.errors or 0) <= found["reference_errors"]]
        right.sort(key=lambda one: -(one.speed or 0.0))
        finalists = list(dict.fromkeys([chosen, *(one.setting for one in right[:FINALISTS])]))
        finals = [
            [(await _try(daemon, possible, [one]))[0] for one in finalists] for _ in range(rounds(ROUNDS))
        ]
    by_finalist = [[one.speed or 0.0 for one in trials] for trials in zip(*finals, strict=True)]
    best = max(range(len(finalists)), key=lambda place: statistics.median(by_finalist[place]))
    return by_finalist[0], by_finalist[best], _described(finals[0][best]), [_described(one) for one in right]


@asynccontextmanager
async def service(state: Path, models: Path = CACHE / "models") -> AsyncIterator[DaemonInterface]:
    """Provide the interface that a daemon gives to calibration, without a daemon that does other work."""
    os.environ |= {"WHISPERD_NATIVE_DIR": str(CACHE / "native"), "WHISPERD_MODELS_DIR": str(models)}
    async with open_service(state / "config.toml", Settings(), "", state) as opened:
        yield calibration_interface(opened)


def _all_settings(one: JudgedVariant) -> list[list[Setting]]:
    """Return all settings of a variant, grouped by those that one load of a worker can run."""
    cores = usable_cores()
    shapes = [(count, cores // count) for count in range(1, cores + 1) if cores % count == 0]
    return [
        [
            Setting(
                variant=one.variant.name,
                compute_type=one.variant.compute_types[0],
                replicas=shape[0],
                cpu_threads=shape[1],
                batch_size=batch_size,
                context_margin_s=margin_s,
            )
            for batch_size in BATCH_SIZES[: rounds(len(BATCH_SIZES))]
        ]
        for shape, margin_s in itertools.product(shapes, MARGINS_S)
    ]


async def _try(
    daemon: DaemonInterface,
    possible: dict[str, JudgedVariant],
    settings: list[Setting],
    expected: float = 0.0,
) -> list[Trial]:
    """Try settings that differ only in batch size; give up those that are far slower than expected."""
    setting = settings[0]
    one = possible[setting.variant]
    prepared = await daemon.prepare(PRESET, one.backend, one.variant)
    tuning = Tuning(setting.replicas, setting.cpu_threads, setting.batch_size, setting.context_margin_s)
    params = load_params(PRESET, replace(prepared, tuning=tuning))
    options = DecodeOptions(language="en", beam_size=(await daemon.circumstances()).beam_size)
    trials: list[Trial] = []
    while len(trials) < len(settings):
        async with daemon.open_worker(prepared, params, Patience()) as worker:
            bench = Bench(worker, options)
            for setting in settings[len(trials) :]:
                trials.append(await bench.measure(setting, Limits(3600, 600, expected)))
                if bench.is_spent:  # the worker is still computing the abandoned trial
                    break
    return trials
