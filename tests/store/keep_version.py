"""Create a database of every version, with rows in every table, for the tests of migrations.

Run it after adding a migration: it creates the files missing in tests/data/store and leaves the others
unchanged. They stand for the databases of older programs, and are never recreated.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from whisperd.store.migrate import bundled_migrations, migrate

KEPT = Path(__file__).parent.parent / "data" / "store"

ROWS = {
    10: """
        UPDATE transcripts SET content = '89abcdef0123456789abcdef0123456789abcdef0123456789abcdef01234567';
    """,
    9: """
        INSERT INTO runtime_history VALUES
            ('0a1b2c3d', '{"time":"2026-11-12T13:14:15.123Z","status":"loaded","detail":null,"error":null}');
    """,
    8: """
        INSERT INTO former_outputs VALUES
            (CAST('/home/me/Old/talk.en.txt' AS BLOB),
             '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef', '2026-10-11T12:13:14.123Z');
    """,
    7: """
        INSERT INTO job_speech VALUES
            ('bb00bb00bb', 0,
             CAST(x'86a474797065a5666f756e64a47061727400a76368616e6e656c00a8706f736974696f6ece000500'
             || x'00a57370616e73c418401f0000000000000077010000000000401f000000000000a66d656d6f7279c400'
             AS BLOB));
    """,
    5: """
        INSERT INTO work VALUES ('2026-07-01', 3, 4500.5, 300.25), ('2026-07-02', 1, 11.0, 0.5);
    """,
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
    4: """
        INSERT INTO transcripts VALUES
            (1, '2026-07-08T09:10:11.123Z',
             '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef', 1234567,
             '/home/me/talk.mp3', 'en', 'We begin.' || char(10) || 'Then we end.',
             CAST(x'88a47461736baa7472616e736372696265a86c616e6775616765a2656ea86475726174696f6ecb40'
             || x'24000000000000a474657874b6576520626567696e2e205468656e20776520656e642ea87365676d'
             || x'656e7473928ca2696400a47365656b00a57374617274cb3fe0000000000000a3656e64cb40100000'
             || x'00000000a474657874aa20576520626567696e2ea6746f6b656e7390ab74656d7065726174757265'
             || x'cb0000000000000000ab6176675f6c6f6770726f62cb0000000000000000b1636f6d707265737369'
             || x'6f6e5f726174696fcb0000000000000000ae6e6f5f7370656563685f70726f62cb00000000000000'
             || x'00a5776f72647390a76368616e6e656cc08ca2696401a47365656bcd0190a57374617274cb401200'
             || x'0000000000a3656e64cb4022000000000000a474657874ad205468656e20776520656e642ea6746f'
             || x'6b656e7390ab74656d7065726174757265cb0000000000000000ab6176675f6c6f6770726f62cb00'
             || x'00000000000000b1636f6d7072657373696f6e5f726174696fcb0000000000000000ae6e6f5f7370'
             || x'656563685f70726f62cb0000000000000000a5776f72647390a76368616e6e656cc0a772756e7469'
             || x'6d65a462617365a7656c6170736564cb3ff8000000000000a96861735f776f726473c2'
             AS BLOB));
        INSERT INTO jobs VALUES
            ('aa00aa00aa', '/run/user/1000/whisperd/daemon.sock', '2026-07-08T09:10:01.000Z',
             '2026-07-08T09:10:11.123Z', 1,
             '{"id":"aa00aa00aa","path":"L2hvbWUvbWUvdGFsay5tcDM=","input":{"path":"/home/me/t'
             || 'alk.mp3"},"options":{"runtime":null,"model":null,"language":"en","task":"transcr'
             || 'ibe","beam_size":null,"temperature":null,"prompt":null,"hotwords":null,"vad":tru'
             || 'e,"channels":"mix","clip":null,"priority":"normal","cache":true},"runtime":"base'
             || '","runtime_id":"0a1b2c3d","model":"base","detached":true,"created":"2026-07-08T0'
             || '9:10:01.000Z","stamp":{"size_bytes":1234567,"modified_ns":1783501800123456789},"'
             || 'content_hash":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"'
             || ',"recipe":"fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210","st'
             || 'atus":"completed","started":"2026-07-08T09:10:02.000Z","ended":"2026-07-08T09:10'
             || ':11.123Z","duration":10.0,"elapsed":1.5,"done":10.0,"speed":6.67,"language":"en"'
             || ',"cached":false,"error":null}'),
            ('bb00bb00bb', '/run/user/1000/whisperd/daemon.sock', '2026-07-08T09:12:01.000Z', NULL, NULL,
             '{"id":"bb00bb00bb","path":"L2hvbWUvbWUvdGFsay5tcDM=","input":{"path":"/home/me/t'
             || 'alk.mp3"},"options":{"runtime":null,"model":null,"language":"en","task":"transcr'
             || 'ibe","beam_size":null,"temperature":null,"prompt":null,"hotwords":null,"vad":tru'
             || 'e,"channels":"mix","clip":null,"priority":"normal","cache":true},"runtime":"base'
             || '","runtime_id":"0a1b2c3d","model":"base","detached":true,"created":"2026-07-08T0'
             || '9:12:01.000Z","stamp":{"size_bytes":1234567,"modified_ns":1783501800123456789},"'
             || 'content_hash":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"'
             || ',"recipe":"fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210","st'
             || 'atus":"queued","started":null,"ended":null,"duration":null,"elapsed":null,"done"'
             || ':0.0,"speed":null,"language":null,"cached":false,"error":null}');
        INSERT INTO job_windows VALUES
            ('bb00bb00bb', 0,
             CAST(x'87a5696e64657800a57374617274cb3fe0000000000000a3656e64cb4023000000000000a7636861'
             || x'6e6e656cc0a86c616e6775616765a2656ea9656c61707365645f73cb3ff4000000000000a6726573'
             || x'756c7483a86c616e6775616765a2656eb46c616e67756167655f70726f626162696c697479cb3fe8'
             || x'000000000000a87365676d656e74739188a57374617274cb0000000000000000a3656e64cb400c00'
             || x'0000000000a474657874aa20576520626567696e2ea6746f6b656e739101ab74656d706572617475'
             || x'7265cb0000000000000000ab6176675f6c6f6770726f62cbbfd0000000000000b1636f6d70726573'
             || x'73696f6e5f726174696fcb3ff0000000000000ae6e6f5f7370656563685f70726f62cb0000000000'
             || x'000000'
             AS BLOB));
    """,
    6: """
        INSERT INTO watches VALUES
            ('cc00cc00', '/run/user/1000/whisperd/daemon.sock', CAST('/home/me/Recordings' AS BLOB),
             '{"id":"cc00cc00","recursive":true,"include":["*.mp3"],"exclude":["drafts"],"runtime":"4e5f6a7b",'
             || '"profile":"editor","options":{"language":"de"},"outputs":["text","srt"],"output_dir":null,'
             || '"name":"{stem}.{lang}.{ext}","overwrite":false,"after":"move","move_to":"/home/me/Done",'
             || '"command":["notify-send","{stem}"],"notify":true,"quiet_hours":"22:00-07:00","paused":false,'
             || '"created":"2026-08-09T10:11:12.123Z","changed":"2026-08-09T10:11:12.123Z","version":1}');
        INSERT INTO watch_files VALUES
            (1, 'cc00cc00', CAST('talk.mp3' AS BLOB), '801:2f', 1234567, 1783501800123456789,
             '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef', 'done', 'aa00aa00aa', 0,
             NULL, NULL, NULL),
            (2, 'cc00cc00', CAST('broken.mp3' AS BLOB), '801:30', 1234, 1783501800123456789, NULL, 'failed',
             NULL, 1, NULL,
             '{"code":"audio.corrupt","message":"It is broken.","fix":"Mend it.","data":{}}', NULL);
        INSERT INTO watch_outputs VALUES
            (CAST('/home/me/Recordings/talk.en.txt' AS BLOB), 1, 'text', 'en',
             'fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210', NULL);
        INSERT INTO watch_log VALUES
            (1, 'cc00cc00', '2026-08-09T10:11:13.123Z', 'done', CAST('talk.mp3' AS BLOB), 'It is done.');
    """,
}
"""For each version, the rows that a program of that version adds."""


def stored_database(version: int) -> Path:
    """Return the path of the stored database of a version."""
    return KEPT / f"version-{version}.sqlite3"


def make_database(path: Path, version: int) -> None:
    """Create a database as a program of that version does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for migration in bundled_migrations()[:version]:
            migrate(connection, [migration])
            connection.executescript(ROWS.get(migration.number, ""))


if __name__ == "__main__":
    KEPT.mkdir(exist_ok=True)
    for migration in bundled_migrations():
        if not stored_database(migration.number).exists():
            make_database(stored_database(migration.number), migration.number)
