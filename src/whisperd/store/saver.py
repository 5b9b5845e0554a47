"""What is saved beside the event loop.

What is handed over is collected while the last of it is being saved, and saved together in one transaction:
it costs the event loop no more than to hand it over, however much there is. Whoever has to know that
something is on the disk waits for it.
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
"""Something to be done in a transaction."""


class Ticket:
    """Something that is being saved."""

    def __init__(self, writing: Writing) -> None:
        self.writing = writing
        self._done = anyio.Event()
        self._error: WhisperdError | None = None

    async def saved(self) -> None:
        """Wait until it is on the disk. Raises why it could not be saved."""
        await self._done.wait()
        if self._error is not None:
            raise self._error.copy()

    @property
    def is_saved(self) -> bool:
        """Whether it is on the disk."""
        return self._done.is_set() and self._error is None

    @property
    def has_failed(self) -> bool:
        """Whether it could not be saved."""
        return self._error is not None

    def settle(self, error: WhisperdError | None = None) -> None:
        """It is saved, or will not be: who keeps the ticket keeps nothing of it."""
        self.writing = _nothing
        self._error = error
        self._done.set()


def _nothing(_connection: sqlite3.Connection) -> None:
    """What is left to be saved of what is settled."""


@asynccontextmanager
async def open_saver(database: Database) -> AsyncIterator[Saver]:
    """Save during the block what is handed over; all of it is saved when the block ends."""
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
    """Saves in a data base what is handed over, in this order."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._waiting: list[Ticket] = []
        self._wanted = anyio.Event()
        self._saving = anyio.Lock()

    async def run(self) -> None:
        """Save what is handed over, until cancelled."""
        while True:
            await self._wanted.wait()
            await self.flush()

    async def flush(self) -> None:
        """Save what was handed over, and what still is meanwhile, until nothing waits."""
        async with self._saving:
            while self._waiting:
                self._wanted = anyio.Event()
                tickets, self._waiting = self._waiting, []
                with anyio.CancelScope(shield=True):  # what is being saved is settled as well
                    await self._save(tickets)

    def hand_over(self, writing: Writing) -> Ticket:
        """Have something done with what was handed over before and after it; returns at once."""
        ticket = Ticket(writing)
        self._waiting.append(ticket)
        self._wanted.set()
        return ticket

    async def _save(self, tickets: Sequence[Ticket]) -> None:
        error, has_begun = await self._transact(tickets)
        # The one at fault holds up no others. Where none was begun, it is the data base: each would wait for
        # it by itself.
        if error is not None and has_begun and len(tickets) > 1:
            for ticket in tickets:
                await self._save([ticket])
            return
        for ticket in tickets:
            ticket.settle(error)

    async def _transact(self, tickets: Sequence[Ticket]) -> tuple[WhisperdError | None, bool]:
        """Why they could not be saved, if so; whether they were begun with."""
        has_begun = False

        def write(connection: sqlite3.Connection) -> None:
            nonlocal has_begun
            has_begun = True
            for ticket in tickets:
                ticket.writing(connection)

        try:
            await self.database.run(write)
        except WhisperdError as error:
            log.warning("the data base cannot be written: %s (%s)", error.message, error.code)
            return error.copy(), has_begun
        except Exception:
            log.exception("the data base cannot be written")
            return errors.not_saved(), has_begun
        return None, has_begun
