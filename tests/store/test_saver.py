"""Writes in the background: in order, in groups, and without being delayed by failed ones."""

from __future__ import annotations

import gc
import sqlite3
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from whisperd.rpc.errors import WhisperdError
from whisperd.store import Database, open_database, open_saver
from whisperd.store.migrate import Migration

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    migrations = [Migration(1, "CREATE TABLE numbers (x INTEGER NOT NULL);\n")]
    async with open_database(tmp_path / "a.sqlite3", migrations) as database:
        yield database


def adding(number: int) -> Callable[[sqlite3.Connection], object]:
    return lambda connection: connection.execute("INSERT INTO numbers VALUES (?)", (number,))


async def numbers(database: Database) -> list[int]:
    select = "SELECT x FROM numbers ORDER BY rowid"
    return await database.run(lambda connection: [x for (x,) in connection.execute(select)])


async def test_a_ticket_does_not_keep_its_work_alive(database: Database) -> None:
    async with open_saver(database) as saver:
        writing = adding(1)
        of_writing = weakref.ref(writing)
        ticket = saver.hand_over(writing)
        del writing
        await ticket.saved()
        gc.collect()
        assert ticket.is_saved and of_writing() is None


async def test_failed_writes_do_not_affect_others(database: Database) -> None:
    errors = {
        "watch.unknown": WhisperdError("watch.unknown", "It was removed.", "Add it."),
        "disk.full": WhisperdError("disk.full", "There is no room.", "Make some."),
        "store.damaged": WhisperdError("store.damaged", "A page is damaged.", "Restart."),
        "job.not_saved": ZeroDivisionError(),
    }

    def failing(error: Exception) -> Callable[[sqlite3.Connection], object]:
        def fail(_connection: sqlite3.Connection) -> None:
            raise error

        return fail

    async with open_saver(database) as saver:
        first = saver.hand_over(adding(1))
        failed = {code: saver.hand_over(failing(error)) for code, error in errors.items()}
        last = saver.hand_over(adding(2))
        await first.saved()
        await last.saved()
        for code, ticket in failed.items():
            with pytest.raises(WhisperdError) as raised:
                await ticket.saved()
            assert raised.value.code == code and ticket.has_failed
    assert await numbers(database) == [1, 2]


async def test_writes_wait_together_for_a_locked_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    async def wait(work: object) -> None:
        tried.append(work)
        raise WhisperdError("store.unreadable", "Another program holds it.", "End that one.")

    monkeypatch.setattr(database, "run", wait)
    async with open_saver(database) as saver:
        tickets = [saver.hand_over(adding(number)) for number in range(3)]
        for ticket in tickets:
            with pytest.raises(WhisperdError):
                await ticket.saved()
    assert len(tried) == 1


async def test_closing_saves_everything(database: Database) -> None:
    with anyio.CancelScope() as scope:
        async with open_saver(database) as saver:
            saver.hand_over(adding(1))
            scope.cancel()
    assert await numbers(database) == [1]


async def test_nothing_is_lost_while_no_thread_can_be_started(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(anyio.to_thread, "run_sync", refuse)
        async with open_saver(database) as saver:
            await saver.hand_over(adding(1)).saved()
            saver.hand_over(adding(2))
    assert await numbers(database) == [1, 2]
