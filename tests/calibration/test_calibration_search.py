"""A whole calibration with fake workers and its own clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from whisperd.calibration import CalibrationTable, Calibrator, Circumstances, DaemonInterface, Idle
from whisperd.calibration.calibrator import MOST_BUDGET_S
from whisperd.plugins import Backend, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import JudgedVariant
from whisperd.runtimes.prepare import Prepared
from whisperd.runtimes.preset import RuntimePreset
from whisperd.store import open_database
from whisperd.worker.protocol import LoadParams

pytestmark = pytest.mark.anyio

VARIANT = Variant(name="slow-cpu", lock=None, device="cpu", priority=1, compute_types=("int8",))
BACKEND = Backend(name="slow", engine="", variants=(VARIANT,))


class SilentWorker:
    """Never answers."""

    async def transcribe(self, _: object) -> list[Any]:
        return await anyio.sleep_forever()


class Computer:
    """A computer on which a worker takes a given time to load."""

    def __init__(self, load_s: float, *, cores: int = 2, most_workers: int = 64) -> None:
        self.now_s = 0.0
        self.load_s = load_s
        self.cores = cores
        self.most_workers = most_workers
        """How many workers fit into memory."""
        self.loaded: list[tuple[int, int]] = []
        """The numbers of workers and threads that were loaded."""

    def interface(self) -> DaemonInterface:
        return DaemonInterface(
            variants=self.variants,
            circumstances=self.circumstances,
            prepare=self.prepare,
            check_room=self.check_room,
            parameters=self.parameters,
            open_worker=self.open_worker,  # type: ignore[arg-type]
            clock=lambda: self.now_s,
        )

    async def variants(self, _: RuntimePreset) -> Sequence[JudgedVariant]:
        return [JudgedVariant(BACKEND, VARIANT, None)]

    async def circumstances(self) -> Circumstances:
        return Circumstances(
            processor=None, cores=self.cores, gpus=(), driver=None, beam_size=5, versions={}, variants={}
        )

    async def prepare(self, *_: object) -> Prepared:
        return Prepared(BACKEND, VARIANT, None, Path("/model"))

    async def check_room(
        self, _preset: RuntimePreset, _prepared: Prepared, params: LoadParams, _batch_size: int
    ) -> None:
        if params.replicas > self.most_workers:
            raise WhisperdError("memory.not_enough", "They do not fit.", "Use fewer.")

    async def parameters(self, _: str) -> float:
        return 1.5e9

    @asynccontextmanager
    async def open_worker(self, _: Prepared, params: LoadParams, *__: object) -> AsyncIterator[Any]:
        self.loaded.append((params.replicas, params.cpu_threads))
        self.now_s += self.load_s
        yield SilentWorker()


async def test_running_out_of_time_before_the_first_measurement_is_reported(tmp_path: Path) -> None:
    computer = Computer(load_s=MOST_BUDGET_S)
    async with open_database(tmp_path / "db") as database:
        calibrator = Calibrator(CalibrationTable(database), Idle(lambda: False), computer.interface())
        with pytest.raises(WhisperdError) as raised:
            await calibrator.run("large-v3")
    assert raised.value.code == "calibration.nothing_works"
    assert "no engine transcribed the shipped speech within 15 minutes" in raised.value.message
    assert "smaller model" in raised.value.fix


async def test_a_search_starts_with_as_many_workers_as_fit(tmp_path: Path) -> None:
    computer = Computer(load_s=MOST_BUDGET_S, cores=16, most_workers=5)
    async with open_database(tmp_path / "db") as database:
        calibrator = Calibrator(CalibrationTable(database), Idle(lambda: False), computer.interface())
        with pytest.raises(WhisperdError):
            await calibrator.run("large-v3")
    assert computer.loaded == [(4, 4)]
