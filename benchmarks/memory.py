"""Peak memory of a worker, compared with the estimate made before it is loaded.

Each line is a fresh worker process with an untrained model (`benchmarks.shapes`). All its replicas compute
full batches of the longest windows at once, with beams and word times, and then a window whose text is
doubtful, so that it is computed again with the full context. For models that are available everywhere, the
memory for clear English is measured as well. Linux reports the peak of a process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.calibration import service
from benchmarks.measure import Outcome, RunningDaemon, bundle_path, model_path, rounds
from benchmarks.recordings import SAMPLE_RATE, as_wav, english, pcm_of
from benchmarks.shapes import SHAPES, make_model
from whisperd.calibration import DaemonInterface
from whisperd.models import shipped_catalogue
from whisperd.plugins import Backend
from whisperd.runtimes.prepare import load_params
from whisperd.runtimes.preset import RuntimePreset
from whisperd.worker.process import Patience, Worker
from whisperd.worker.protocol import BatchParams, ComputeType, DecodeOptions, EngineWindow

WINDOW_S, SHORT_WINDOW_S = 26, 3
"""The longest usual window, and one too short for the text that the model writes."""
LEAST, MOST = 0.95, 1.12
"""Limits of the estimate, relative to the measured peak."""
CLEAR = DecodeOptions(language="en")
HARD = DecodeOptions(language="de", temperatures=(0.0, 0.2), word_times=True)
"""Languages other than English are decoded with beams at once, not only if the model is unsure."""
REAL = {"tiny": "tiny.en", "base": "base"}


@dataclass(frozen=True)
class Line:
    """The settings of a worker."""

    model: str
    compute_type: ComputeType
    replicas: int
    batch_size: int
    variant: str = "ctranslate2-cpu"


@dataclass(frozen=True)
class Found:
    """The memory of a worker, in bytes."""

    loaded: int
    loading: int
    """Peak while loading."""
    english: int | None
    """Peak with clear English."""
    peak: int
    """Peak with hard work."""
    estimate: int


LINES = [
    *(Line("tiny", "int8", replicas, batch_size) for replicas in (1, 2) for batch_size in (1, 4, 8)),
    *(Line("base", "int8", replicas, batch_size) for replicas in (1, 2) for batch_size in (1, 4, 8)),
    Line("base", "int8", 1, 16),
    Line("base", "int8", 4, 4),
    Line("small", "int8", 1, 1),
    Line("small", "int8", 1, 4),
    Line("small", "int8", 2, 4),
    Line("large-v3-turbo", "int8", 1, 1),
    Line("large-v3-turbo", "int8", 1, 4),
    Line("tiny", "float32", 1, 4),
    Line("base", "float32", 1, 1),
    Line("base", "float32", 1, 4),
    Line("base", "float32", 2, 4),
    Line("small", "float32", 1, 1),
    # whisper.cpp computes the windows of a batch one after the other.
    Line("tiny", "int8", 1, 1, "whispercpp-avx"),
    Line("tiny", "int8", 2, 1, "whispercpp-avx"),
    Line("base", "int8", 1, 1, "whispercpp-avx"),
    Line("base", "int8", 2, 1, "whispercpp-avx"),
    Line("base", "float16", 1, 1, "whispercpp-avx"),
    Line("small", "int8", 1, 1, "whispercpp-avx"),
]


def measure(daemon: RunningDaemon, audio: Path) -> Outcome:
    """Measure every line."""
    lines = LINES[: rounds(len(LINES))]
    media = bundle_path(daemon, "media")
    real = {name: Path(model_path(daemon, known)) for name, known in REAL.items()}
    with TemporaryDirectory() as name:
        folder = Path(name)
        for model in dict.fromkeys(line.model for line in lines):
            make_model(real["base"], SHAPES[model], folder / model)
        sound = b"".join(pcm_of(one.path) for one in as_wav(english(audio), folder, media))
        found = anyio.run(_measure_all, lines, real, _windows(sound), folder)
    return Outcome(
        "memory",
        f"{LEAST:.0%} to {MOST:.0%} of what a worker takes at most is estimated",
        all(LEAST <= one.estimate / one.peak <= MOST for one in found),
        [_row(*pair) for pair in zip(lines, found, strict=True)],
        {"lines": [asdict(line) | asdict(one) for line, one in zip(lines, found, strict=True)]},
        ("model", "type", "replicas", "batch", "loaded", "loading", "English", "most", "estimate, MB"),
    )


def _row(line: Line, found: Found) -> tuple[str, ...]:
    sizes = (found.loaded, found.loading, found.english, found.peak)
    return (
        line.model if line.variant.startswith("ctranslate2") else f"{line.model}, whisper.cpp",
        line.compute_type,
        str(line.replicas),
        str(line.batch_size),
        *("" if size is None else f"{size / 1e6:.0f}" for size in sizes),
        f"{found.estimate / 1e6:.0f} ({found.estimate / found.peak - 1:+.0%})",
    )


async def _measure_all(
    lines: Sequence[Line], real: dict[str, Path], windows: Sequence[EngineWindow], folder: Path
) -> list[Found]:
    async with service(folder, folder / "models") as daemon:
        return [await _measure(daemon, line, real.get(line.model), windows, folder) for line in lines]


async def _measure(
    daemon: DaemonInterface, line: Line, real: Path | None, windows: Sequence[EngineWindow], folder: Path
) -> Found:
    short = [EngineWindow(pcm=window.pcm[: _size_bytes(SHORT_WINDOW_S)]) for window in windows]
    english = None
    if real is not None:
        async with _worker(daemon, line, real) as (worker, _):
            await _compute(worker, line.replicas, line.batch_size, windows, CLEAR)
            english = _status_bytes(worker, "VmHWM")
    async with _worker(daemon, line, folder / line.model) as (worker, backend):
        loaded, loading = _status_bytes(worker, "VmRSS"), _status_bytes(worker, "VmHWM")
        await _compute(worker, line.replicas, line.batch_size, windows, HARD)
        await _compute(worker, line.replicas, 1, short, HARD)
        peak = _status_bytes(worker, "VmHWM")
    known = shipped_catalogue().find(line.model)
    assert known is not None, "every shape is that of a model of the catalogue"
    own = backend.need_bytes and partial(backend.need_bytes, known.parameters_millions * 1e6)
    estimate = (own or known.memory_bytes)(
        line.compute_type, batch_size=line.batch_size, replicas=line.replicas, device="cpu"
    )
    return Found(loaded, loading, english, peak, estimate)


@asynccontextmanager
async def _worker(daemon: DaemonInterface, line: Line, model: Path) -> AsyncIterator[tuple[Worker, Backend]]:
    preset = RuntimePreset(
        id="bench",
        name=line.model,
        model=str(model),
        compute_type=line.compute_type,
        workers=line.replicas,
        cpu_threads=1,
        created="",
        changed="",
    )
    possible = next(one for one in await daemon.variants(preset) if one.variant.name == line.variant)
    prepared = await daemon.prepare(preset, possible.backend, possible.variant)
    async with daemon.open_worker(prepared, load_params(preset, prepared), Patience()) as worker:
        yield worker, possible.backend


async def _compute(
    worker: Worker, replicas: int, batch_size: int, windows: Sequence[EngineWindow], options: DecodeOptions
) -> None:
    """Compute a full batch on each replica, all at once."""
    endless = cycle(windows)
    async with anyio.create_task_group() as tasks:
        for _ in range(replicas):
            batch = tuple(islice(endless, batch_size))
            tasks.start_soon(worker.transcribe, BatchParams(windows=batch, options=options))


def _windows(sound: bytes) -> list[EngineWindow]:
    """Return windows of the longest kind, each with another start."""
    size, step = _size_bytes(WINDOW_S), _size_bytes(3)
    return [EngineWindow(pcm=(sound * 3)[start : start + size]) for start in range(0, len(sound), step)]


def _size_bytes(duration_s: int) -> int:
    return 2 * SAMPLE_RATE * duration_s


def _status_bytes(worker: Worker, name: str) -> int:
    """Return a value from Linux for a process: `VmRSS`, its resident memory, or `VmHWM`, its peak."""
    status = Path(f"/proc/{worker.pid}/status").read_text("utf-8")
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith(name))
