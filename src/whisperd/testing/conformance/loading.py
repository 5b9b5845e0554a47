"""Checks of loading, of refusing to load, and of the end of a worker."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import psutil

from whisperd.announcement import COMPUTE_TYPES
from whisperd.rpc.errors import WhisperdError
from whisperd.tasks import open_task_group
from whisperd.testing.conformance.bench import BATCH_SIZE, Bench, Trial, text_of
from whisperd.testing.conformance.checks import Checks, Failure
from whisperd.testing.conformance.sounds import differs, noise
from whisperd.testing.conformance.transcription import check_is_refusal
from whisperd.worker.process import WorkerDied
from whisperd.worker.protocol import LoadParams

__all__ = ["LOADING"]

LOADING: Checks[Bench] = Checks()

MID_BATCH_S: Final = 0.3
"""How long after sending a batch an engine is certainly computing it."""
END_TIMEOUT_S: Final = 30.0
"""How long killed processes may take to disappear."""


@LOADING
async def compute_types(bench: Bench) -> None:
    """Every announced compute type can be loaded and used."""
    sample = bench.english[1]
    default = bench.params().compute_type
    for kind in (one for one in bench.variant.compute_types if one != default):
        try:
            async with bench.open(bench.params(compute_type=kind)) as worker:
                if worker.info.compute_type not in COMPUTE_TYPES:
                    raise Failure(f"{kind} is reported as {worker.info.compute_type!r}")
                text = await Trial(bench, worker).text(sample.pcm)
        except WhisperdError as error:
            raise Failure(f"{kind}: {error.message} ({error.code})") from error
        if bench.alone and differs(text_of(bench.alone[1]), text):
            raise Failure(f"{kind} transcribes {sample.text!r} as {text.strip()!r}")


@LOADING
async def unknown_compute_type(bench: Bench) -> None:
    """An unknown compute type is refused, with a fix."""
    await _check_refused(bench, bench.params(compute_type="int3"), "the compute type int3")


@LOADING
async def unknown_device(bench: Bench) -> None:
    """An unknown device is refused, with a fix."""
    await _check_refused(bench, bench.params(device="abacus"), "the device abacus")


@LOADING
async def missing_model(bench: Bench) -> None:
    """A missing model is refused, with a fix."""
    with tempfile.TemporaryDirectory() as folder:
        params = bench.params(model_path=str(Path(folder, "missing")), model_name=None)
        await _check_refused(bench, params, "a missing model")


@LOADING
async def damaged_model(bench: Bench) -> None:
    """A model with half of its data missing is refused, with a fix."""
    with _damaged(Path(bench.params().model_path)) as path:
        params = bench.params(model_path=str(path), model_name=None)
        await _check_refused(bench, params, "a model with half of its data missing")


async def _check_refused(bench: Bench, params: LoadParams, what: str) -> None:
    try:
        async with bench.open(params):
            pass
    except WhisperdError as error:
        check_is_refusal(error)
    except WorkerDied as death:
        raise Failure(f"{what} crashes the process: {death.how}") from death
    else:
        raise Failure(f"{what} is loaded without an error")


@contextmanager
def _damaged(whole: Path) -> Iterator[Path]:
    """Yield a copy of a model with its largest file cut in half."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, whole.name)
        files = [whole] if whole.is_file() else [file for file in whole.iterdir() if file.is_file()]
        if whole.is_dir():
            copy.mkdir()
        largest = max(files, key=lambda file: file.stat().st_size)
        for file in files:
            target = copy if whole.is_file() else copy / file.name
            shutil.copyfile(file, target)
            if file == largest:
                with target.open("rb+") as opened:
                    opened.truncate(file.stat().st_size // 2)
        yield copy


@LOADING
async def end(bench: Bench) -> None:
    """Unloading a model leaves no process of it behind, and so frees its memory."""
    async with bench.open(bench.params()) as worker:
        await Trial(bench, worker).transcribe(bench.english[0].pcm)
        processes = _family(worker.pid)
    await _check_gone(processes)


@LOADING
async def cancelling(bench: Bench) -> None:
    """A cancelled batch ends at once, with its process."""
    processes: list[psutil.Process] = []

    async def watch(pid: int) -> None:
        await anyio.sleep(MID_BATCH_S)
        processes.extend(_family(pid))
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with open_task_group() as tasks, bench.open(bench.params()) as worker:
            tasks.start_soon(watch, worker.pid)
            await _transcribe_long(bench, Trial(bench, worker))
            await anyio.sleep_forever()  # the batch has ended before the cancellation
    await _check_gone(processes)


@LOADING
async def killed(bench: Bench) -> None:
    """A worker killed during a batch is noticed, and another one can replace it."""
    async with bench.open(bench.params()) as worker, open_task_group() as tasks:

        async def transcribe_until_death() -> None:
            with suppress(WorkerDied):
                await _transcribe_long(bench, Trial(bench, worker))

        tasks.start_soon(transcribe_until_death)
        await anyio.sleep(MID_BATCH_S)
        with suppress(psutil.NoSuchProcess):
            psutil.Process(worker.pid).kill()
        await worker.died.wait()
    try:
        async with bench.open(bench.params()) as worker:
            await Trial(bench, worker).transcribe(bench.english[0].pcm)
    except WhisperdError as error:
        raise Failure(f"after a killed worker, the next one fails: {error.message} ({error.code})") from error


async def _transcribe_long(bench: Bench, trial: Trial) -> None:
    await trial.transcribe(*[bench.english[-1].pcm] * (BATCH_SIZE - 1), noise(30))


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


async def _check_gone(processes: list[psutil.Process]) -> None:
    _, alive = await anyio.to_thread.run_sync(lambda: psutil.wait_procs(processes, timeout=END_TIMEOUT_S))
    if left := [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]:
        raise Failure(f"{len(left)} processes remain, the first is {left[0].name()} ({left[0].pid})")
