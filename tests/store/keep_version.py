"""Keeps a data base of every version, with rows in every table, for the tests of migrations.

Run it after a migration was added: it makes the files that are missing in tests/data/store and leaves
the others as they are. They are what older programs have left behind, and are never made anew.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from whisperd.store.migrate import bundled_migrations, migrate

KEPT = Path(__file__).parent.parent / "data" / "store"

ROWS = {
    1: """
        INSERT INTO runtimes VALUES
            ('0a1b2c3d', 'base', 'base', 'auto', 'auto', '[]', 'auto', 0, 0, 1, 4, 900.0, 1, 0,
             '2026-01-02T03:04:05.678Z', '2026-01-02T03:04:05.678Z', 1),
            ('4e5f6a7b', 'two GPUs', '/models/large-v3', 'ctranslate2', 'cuda', '[0,1]', 'int8_float16', 2, 2,
             0, 16, -1.0, 0, 1, '2026-02-03T04:05:06.789Z', '2026-03-04T05:06:07.890Z', 7);
        INSERT INTO default_runtime VALUES (1, '0a1b2c3d');
    """,
    2: """
        INSERT INTO profiles VALUES
            ('editor', '4e5f6a7b', '{"language":"de","beam_size":1}',
             '2026-04-05T06:07:08.901Z', '2026-05-06T07:08:09.012Z', 3),
            ('plain', NULL, '{}', '2026-04-05T06:07:08.901Z', '2026-04-05T06:07:08.901Z', 1);
    """,
    3: """
        INSERT INTO calibrations VALUES
            ('base', '0123456789abcdef', '2026-06-07T08:09:10.123Z',
             '{"model":"base","fingerprint":"0123456789abcdef","time":"2026-06-07T08:09:10.123Z","elapsed_s":31.5,
               "is_complete":true,"candidates":[{"start":{"variant":"ctranslate2-cpu","compute_type":"int8",
               "replicas":2,"cpu_threads":1,"batch_size":4,"context_margin_s":2.0},"shapes":[[1,2],[2,1]],
               "batch_sizes":[1,2,4,8],"margins_s":[1.0,2.0,4.0]}],"trials":[{"setting":{"variant":
               "ctranslate2-cpu","compute_type":"int8","replicas":2,"cpu_threads":1,"batch_size":4,
               "context_margin_s":30.0},"outcome":"measured","speed":20.5,"errors":1,"words":77,"load_s":0.7,
               "cost_s":4.2,"problem":null}],"passed_over":[]}');
    """,
}
"""What a program of that version adds to what was there before."""


def kept(version: int) -> Path:
    """The data base of that version."""
    return KEPT / f"version-{version}.sqlite3"


def keep(path: Path, version: int) -> None:
    """Make a data base as a program of that version does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for migration in bundled_migrations()[:version]:
            migrate(connection, [migration])
            connection.executescript(ROWS.get(migration.number, ""))


if __name__ == "__main__":
    KEPT.mkdir(exist_ok=True)
    for migration in bundled_migrations():
        if not kept(migration.number).exists():
            keep(kept(migration.number), migration.number)
