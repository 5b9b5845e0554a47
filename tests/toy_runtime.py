"""Helpers for tests that load the toy engine without a daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil

from whisperd.plugins import Backend, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.loaded import LoadedRuntime
from whisperd.runtimes.prepare import Prepared
from whisperd.tasks import open_task_group
from whisperd.worker.process import Patience
from whisperd.worker.protocol import SAMPLE_RATE, BatchParams, DecodeOptions, EngineWindow, LoadParams
from whisperd_testing import LIMIT_S

BACKENDS = str(Path(__file__).parent / "backends")
"""Must be on the `PYTHONPATH` of a worker that runs the toy engine."""
ENGINE = "toy_backend:load"
VARIANT = Variant(name="toy-cpu", lock=None, device="cpu", priority=1, compute_types=("int8",))


def window(seconds: float, group: int = 0) -> EngineWindow:
    return EngineWindow(pcm=bytes(2 * round(seconds * SAMPLE_RATE)), group=group)


def batch(*seconds: float) -> BatchParams:
    return BatchParams(windows=tuple(map(window, seconds)), options=DecodeOptions(language="en"))


@asynccontextmanager
async def running_runtime(
    model: str,
    *,
    batch_size: int = 4,
    replicas: int = 1,
    patience: Patience | None = None,
    failures: list[WhisperdError] | None = None,
) -> AsyncIterator[LoadedRuntime]:
    """Load a toy model for the duration of the block.

    If the runtime fails, its error is raised, or appended to `failures` if given.
    """

    async def run() -> None:
        try:
            await runtime.run()
        except WhisperdError as error:
            if failures is None:
                raise
            failures.append(error)

    runtime = LoadedRuntime(
        "toy",
        Prepared(Backend(name="toy", engine=ENGINE, variants=(VARIANT,)), VARIANT, None, Path(model)),
        LoadParams(model_path=model, replicas=replicas),
        batch_size,
        patience,
    )
    async with open_task_group() as tasks:
        tasks.start_soon(run)
        await runtime.ready.wait()
        yield runtime
        tasks.cancel_scope.cancel()


async def until(condition: Callable[[], object], timeout_s: float = LIMIT_S) -> None:
    """Wait until another process makes the condition true."""
    with anyio.fail_after(timeout_s):
        while not condition():
            await anyio.sleep(0.005)


def descendants() -> list[psutil.Process]:
    """Return the processes started by this test that are still running."""
    return psutil.Process().children(recursive=True)
