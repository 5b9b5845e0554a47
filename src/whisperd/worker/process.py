"""The daemon's handle on a worker: a child process that holds one loaded model."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import NoneType
from typing import Final, TypeVar

import anyio
import msgspec

from whisperd.child import python_command
from whisperd.hardware import DEVICE_ORDER
from whisperd.isolation import isolated_environment
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.framing import FrameLimits
from whisperd.rpc.messages import InvalidAnswer
from whisperd.rpc.peer import PeerClosed
from whisperd.rpc.served_child import ServedChild, open_served_child
from whisperd.tasks import RepeatedEvent, open_task_group
from whisperd.worker.answers import bad_answer
from whisperd.worker.faults import explain_death, killed_for_memory
from whisperd.worker.oom import count_kills
from whisperd.worker.protocol import BatchParams, CancelParams, EngineInfo, LoadParams, WindowResult

__all__ = ["Patience", "Unwanted", "Worker", "WorkerDied", "open_worker"]

T = TypeVar("T")

MESSAGE_LIMITS: Final = FrameLimits(max_frame_bytes=64 * 2**20, max_depth=16, max_items=2_000_000)
"""A batch of results with all tokens may be larger than any message that a client may send."""
KILLED: Final = "signal SIGKILL" if os.name == "posix" else "exit status 1"
HUNG_UP: Final = "it closed its connection"


@dataclass(frozen=True)
class Patience:
    """How long an engine may take before it is considered stuck. Far more than a slow computer needs."""

    load_s: float = 1800.0
    batch_s: float = 600.0
    """For a batch, regardless of its contents."""
    batch_per_audio_s: float = 60.0
    """In addition, for each second of audio in it."""

    def for_batch(self, batch: BatchParams) -> float:
        """Return how many seconds a batch may take."""
        return self.batch_s + self.batch_per_audio_s * sum(window.duration_s for window in batch.windows)


class Unwanted:
    """The groups of a batch whose results are no longer wanted; it may grow while they are computed."""

    def __init__(self) -> None:
        self.groups: set[int] = set()
        self.changed = RepeatedEvent()

    def add(self, groups: Iterable[int]) -> None:
        """Add groups that are no longer wanted."""
        self.groups.update(groups)
        self.changed.set()


class WorkerDied(Exception):
    """The worker process ended, or was stuck and killed; `how` says how, such as `signal SIGSEGV`.

    `fault` is the error for the user, if the cause is known.
    """

    def __init__(self, how: str, last_words: str, fault: WhisperdError | None = None) -> None:
        super().__init__(how)
        self.how = how
        self.last_words = last_words
        self.fault = fault


class Worker:
    """A worker process with its model loaded. Create it with `open_worker`."""

    def __init__(self, child: ServedChild, params: LoadParams, patience: Patience) -> None:
        self._child = child
        self._params = params
        self._patience = patience
        self._killed_because: str | None = None
        self._batch_ids = count()
        self._kills_before = count_kills()
        """Kills by the out-of-memory killer when the worker was last known to be alive."""
        self.info: EngineInfo

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def died(self) -> anyio.Event:
        """Set as soon as the process has ended."""
        return self._child.closed

    async def transcribe(self, batch: BatchParams, unwanted: Unwanted | None = None) -> list[WindowResult]:
        """Compute a batch. The engine skips `unwanted` groups if it can; their results are meaningless.

        Raises `WhisperdError` if the engine refuses it or returns an invalid result (`worker.bad_answer`),
        `WorkerDied` if the process ends meanwhile, or is killed because it takes far too long.
        """
        batch = msgspec.structs.replace(batch, id=next(self._batch_ids))
        async with self._killed_after(self._patience.for_batch(batch)), open_task_group() as tasks:
            if unwanted is not None and self.info.cancels:
                tasks.start_soon(self._cancel, batch.id, unwanted)
            results = await self._request("transcribe", batch, list[WindowResult])
            tasks.cancel_scope.cancel()
        return results

    async def _cancel(self, batch: int, unwanted: Unwanted) -> None:
        """Tell the engine which groups are unwanted, whenever some are added."""
        with suppress(PeerClosed):  # `transcribe` reports it
            while True:
                changed = unwanted.changed.next
                if unwanted.groups:
                    params = CancelParams(id=batch, groups=tuple(sorted(unwanted.groups)))
                    await self._child.request("cancel", params, NoneType)
                await changed.wait()

    async def load(self) -> EngineInfo:
        """Load the model; called once, by `open_worker`."""
        params = self._params
        try:
            async with self._killed_after(self._patience.load_s):
                self.info = await self._request("load", params, EngineInfo)
        except WorkerDied as death:
            if self._killed_because is not None:  # the next attempt would take as long
                raise _load_stuck(params, self._patience.load_s) from death
            raise
        return self.info

    async def _request(self, method: str, params: object, into: type[T]) -> T:
        try:
            answer = await self._child.request(method, params, into)
        except PeerClosed as error:
            raise await self.cause_of_death() from error
        except WhisperdError as error:
            self._survived()
            if isinstance(error, InvalidAnswer):
                raise bad_answer(method, error.reason) from error
            raise
        self._survived()
        return answer

    def _survived(self) -> None:
        """Forget kills and messages from before an answer: they cannot explain a later death."""
        self._kills_before = count_kills()
        self._child.since_answer = ""

    async def cause_of_death(self) -> WorkerDied:
        """Return how the process ended and its last output."""
        how = await self._child.ended()
        if self._child.was_killed and how == KILLED and not self._system_has_killed():
            how = HUNG_UP
        how = self._killed_because or how
        return WorkerDied(how, self._child.last_words, self._fault(how))

    def _fault(self, how: str) -> WhisperdError | None:
        """Return why it ended, if known."""
        if self._killed_because is not None:
            return None
        if how == KILLED and self._system_has_killed():
            return killed_for_memory(how, self._params)
        return explain_death(how, self._child.since_answer, self._params)

    def _system_has_killed(self) -> bool:
        """Whether the out-of-memory killer acted since the worker was last known to be alive."""
        kills = count_kills()
        return None not in (kills, self._kills_before) and kills != self._kills_before

    @asynccontextmanager
    async def _killed_after(self, timeout_s: float) -> AsyncIterator[None]:
        """Kill the process if the block takes too long: when stuck, it may not even read a cancel request."""

        async def kill_late() -> None:
            await anyio.sleep(timeout_s)
            self._killed_because = self._killed_because or f"no answer in {timeout_s:.0f} s"
            self._child.kill()

        async with open_task_group() as tasks:
            tasks.start_soon(kill_late)
            yield
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def open_worker(
    bundle: Path | None,
    engine: str,
    params: LoadParams,
    patience: Patience | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Worker]:
    """Start a worker with a native bundle on its path and load a model.

    `engine` is the plugin's `module:function`, `environment` the variables of the variant. With a bundle,
    the worker sees no libraries but those in it. Leaving the block ends the process, which frees every byte
    that the model held. Raises like `Worker.transcribe`.
    """
    command = python_command("whisperd.worker.main", engine, *([str(bundle)] if bundle else []))
    variables = _environment(bundle, params, environment or {})
    async with open_served_child("worker", command, variables, limits=MESSAGE_LIMITS) as child:
        worker = Worker(child, params, patience or Patience())
        await worker.load()
        yield worker


def _environment(bundle: Path | None, params: LoadParams, own: Mapping[str, str]) -> dict[str, str]:
    inherited = isolated_environment(os.environ, bundle) if bundle else os.environ
    # The engine gets its number of threads as a parameter; libraries that ask OpenMP should agree with it.
    return {**inherited, **DEVICE_ORDER, "OMP_NUM_THREADS": str(params.cpu_threads), **own}


def _load_stuck(params: LoadParams, timeout_s: float) -> WhisperdError:
    return WhisperdError(
        "model.load_failed",
        f"The model in {params.model_path} was not loaded within {timeout_s:.0f} seconds.",
        "Check that its disk responds and that memory is not full, or raise runtime.load_timeout_s in the "
        "settings.",
    )
