"""The store: one SQLite data base for everything that outlives the daemon.

`open_database` opens it, brings it up to date and gives a `Database`; rooms that keep something there
say what in SQL of their own, run by `Database.run`, or by a `Saver` where nobody is to wait for it. Their
tables come from numbered files in `migrations/`. A migration that was released is never changed: what it
got wrong, the next one mends.
"""

from whisperd.store.database import Database, open_database, problem_with
from whisperd.store.errors import damaged
from whisperd.store.saver import Saver, Ticket, Writing, open_saver

__all__ = [
    "Database",
    "Saver",
    "Ticket",
    "Writing",
    "damaged",
    "open_database",
    "open_saver",
    "problem_with",
]
