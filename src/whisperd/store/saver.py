"""Write to the database in the background, off the event loop.

Writes handed over while the previous ones are being saved are collected and saved together in one
transaction, so that the event loop only pays for handing them over, however many there are. Callers that need
to know that a write is on disk wait for its ticket.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from whisperd.rpc.errors import WhisperdError
from whisperd.store import errors
from whisperd.store.database import Database
from whisperd.tasks import open_task_group

__all__ = ["Saver", "Ticket", "Writing", "open_saver"]

log = logging.getLogger(__name__)

Writing = Callable[[sqlite3.Connection], object]
"""A write to be done within a transaction."""


class Ticket:
    """A write that is queued or being saved."""

    def __init__(self, writing: Writing) -> None:
        self.writing = writing
        self._done = anyio.Event()
        self._error: WhisperdError | None = None

    async def saved(self) -> None:
        """Wait until it is on disk. Raises the error if it could not be saved."""
        await self._done.wait()
        if self._error is not None:
            raise self._error.copy()

    @property
    def is_saved(self) -> bool:
        """Whether it is on disk."""
        return self._done.is_set() and self._error is None

    @property
    def has_failed(self) -> bool:
        """Whether it could not be saved."""
        return self._error is not None

    def settle(self, error: WhisperdError | None = None) -> None:
        """Mark it as saved or failed, and drop the write, so that a kept ticket keeps nothing of it alive."""
        self.writing = _nothing
        self._error = error
        self._done.set()


def _nothing(_connection: sqlite3.Connection) -> None:
    """The write of a settled ticket: nothing."""


@asynccontextmanager
async def open_saver(database: Database) -> AsyncIterator[Saver]:
    """Save in the background during the block; everything handed over is saved when the block ends."""
    saver = Saver(database)
    async with open_task_group() as tasks:
        tasks.start_soon(saver.run)
        try:
            yield saver
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await saver.flush()


class Saver:
    """Saves writes to a database, in the order in which they are handed over."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._waiting: list[Ticket] = []
        self._wanted = anyio.Event()
        self._saving = anyio.Lock()

    async def run(self) -> None:
        """Save writes until cancelled."""
        while True:
            await self._wanted.wait()
            await self.flush()

    async def flush(self) -> None:
        """Save all writes handed over so far, and those that arrive meanwhile, until none is left."""
        async with self._saving:
            while self._waiting:
                self._wanted = anyio.Event()
                tickets, self._waiting = self._waiting, []
                with anyio.CancelScope(shield=True):  # tickets being saved are always settled
                    await self._save(tickets)

    def hand_over(self, writing: Writing) -> Ticket:
        """Queue a write, to be saved after those queued before it; returns at once."""
        ticket = Ticket(writing)
        self._waiting.append(ticket)
        self._wanted.set()
        return ticket

    async def _save(self, tickets: Sequence[Ticket]) -> None:
        error, has_begun = await self._transact(tickets)
        # A faulty write must not fail the others, so each is retried alone. If none was reached, the database
        # is at fault, and each would only wait for it in turn.
        if error is not None and has_begun and len(tickets) > 1:
            for ticket in tickets:
                await self._save([ticket])
            return
        for ticket in tickets:
            ticket.settle(error)

    async def _transact(self, tickets: Sequence[Ticket]) -> tuple[WhisperdError | None, bool]:
        """Save these together; return the error if that failed, and whether the first write was reached."""
        has_begun = False

        def write(connection: sqlite3.Connection) -> None:
            nonlocal has_begun
            has_begun = True
            for ticket in tickets:
                ticket.writing(connection)

        try:
            await self.database.run(write)
        except WhisperdError as error:
            log.warning("cannot write to the database: %s (%s)", error.message, error.code)
            return error.copy(), has_begun
        except Exception:
            log.exception("cannot write to the database")
            return errors.not_saved(), has_begun
        return None, has_begun
