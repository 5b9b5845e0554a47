"""The store: one SQLite database for everything that outlives the daemon.

`open_database` opens it, migrates it to the current version and returns a `Database`. Other rooms run SQL of
their own with `Database.run`, or with a `Saver` if no caller should wait for it. The tables come from the
numbered files in `migrations/`. A released migration never changes: the next one corrects its mistakes. A
release that stores values which earlier ones reject adds a migration too, even one with nothing but a
comment: earlier ones then leave the database alone (`store.too_new`), instead of setting it aside as damaged.
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
