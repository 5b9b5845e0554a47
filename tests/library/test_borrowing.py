"""Programs reuse the calibrations of the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from whisperd.calibration import Circumstances
from whisperd.calibration.table import CalibrationTable, copy_calibrations
from whisperd.calibration.values import Calibration
from whisperd.store import open_database

pytestmark = pytest.mark.anyio

FOUND = Calibration(
    model="base",
    circumstances=Circumstances(
        processor=None, cores=2, gpus=(), driver=None, beam_size=5, versions={}, variants={}
    ),
    fingerprint="this computer",
    time="2026-01-01T00:00:00Z",
    elapsed_s=30.0,
    is_complete=True,
    candidates=(),
    trials=(),
)


async def test_calibrations_are_copied(tmp_path: Path) -> None:
    async with open_database(tmp_path / "daemon.sqlite3") as daemons:
        await CalibrationTable(daemons).put(FOUND)
        async with open_database(tmp_path / "program.sqlite3") as ours:
            await copy_calibrations(daemons.path, ours)
            table = CalibrationTable(ours)
            await table.open()
            assert table.find("base", "this computer") == FOUND


@pytest.mark.parametrize("content", [None, b"", b"no data base" * 1000])
async def test_a_missing_or_invalid_database_yields_no_calibrations(
    tmp_path: Path, content: bytes | None
) -> None:
    other = tmp_path / "other.sqlite3"
    if content is not None:
        other.write_bytes(content)
    async with open_database(tmp_path / "program.sqlite3") as ours:
        await copy_calibrations(other, ours)
        table = CalibrationTable(ours)
        await table.open()
        assert table.all() == []
    assert other.exists() == (content is not None)
