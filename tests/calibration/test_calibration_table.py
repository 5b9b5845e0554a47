"""Results are stored, and apply to the computer on which they were measured."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from whisperd.calibration import CalibrationTable, Circumstances
from whisperd.calibration.values import Calibration
from whisperd.rpc.errors import WhisperdError
from whisperd.store import Database, open_database

pytestmark = pytest.mark.anyio


def found(model: str = "base", fingerprint: str = "here", time: str = "2026-01-01") -> Calibration:
    return Calibration(
        model=model,
        circumstances=Circumstances(
            processor=None, cores=2, gpus=(), driver=None, beam_size=5, versions={}, variants={}
        ),
        fingerprint=fingerprint,
        time=time,
        elapsed_s=30.0,
        is_complete=True,
        candidates=(),
        trials=(),
    )


async def test_results_survive_a_restart(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db") as database:
        await CalibrationTable(database).put(found())
    async with open_database(tmp_path / "db") as database:
        table = CalibrationTable(database)
        await table.open()
        assert table.find("base", "here") == found()
        assert table.find("base", "there") is None
        assert table.find("small", "here") is None


async def test_the_latest_result_is_shown_regardless_of_its_computer(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db") as database:
        table = CalibrationTable(database)
        await table.put(found(fingerprint="here", time="1"))
        await table.put(found(fingerprint="there", time="2"))
        await table.put(found("small", time="3"))
        assert table.latest("base") == found(fingerprint="there", time="2")
        again = found(fingerprint="here", time="4")
        await table.put(again)
        assert table.latest("base") == again
        assert await table.forget("base") == 2
        assert table.latest("base") is None
        assert table.latest("small") is not None


async def test_only_the_last_results_of_old_computers_are_kept(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db") as database:
        table = CalibrationTable(database)
        for number in range(6):
            await table.put(found(fingerprint=str(number), time=str(number)))
        kept = [one.fingerprint for one in table.all()]
        again = CalibrationTable(database)
        await again.open()
        assert kept == [one.fingerprint for one in again.all()] == ["2", "3", "4", "5"]


async def test_an_unreadable_result_is_ignored(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db") as database:
        table = CalibrationTable(database)
        await table.put(found())
        newer = msgspec.json.encode({"model": "base", "what": "is this"}).decode()

        def spoil(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO calibrations VALUES ('base', 'new', '9', ?)", (newer,))

        await database.run(spoil)
        again = CalibrationTable(database)
        await again.open()
        assert again.all() == [found()]


async def test_a_failed_write_keeps_the_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise WhisperdError("disk.full", "The disk is full.", "Make room.")

    async with open_database(tmp_path / "db") as database:
        table = CalibrationTable(database)
        await table.put(found(time="1"))
        with monkeypatch.context() as context, pytest.raises(WhisperdError):
            context.setattr(Database, "run", refuse)
            await table.put(found(time="2"))
        assert table.find("base", "here") == found(time="1")


async def test_results_forgotten_during_a_write_stay_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Database.run
    async with open_database(tmp_path / "db") as database:
        table = CalibrationTable(database)
        for number in range(4):
            await table.put(found(fingerprint=str(number), time=str(number)))

        async def forget_first(*arguments: object) -> object:
            monkeypatch.undo()
            await table.forget("base")
            return await run(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Database, "run", forget_first)
        await table.put(found(fingerprint="new", time="9"))
        again = CalibrationTable(database)
        await again.open()
        assert table.all() == again.all() == [found(fingerprint="new", time="9")]
