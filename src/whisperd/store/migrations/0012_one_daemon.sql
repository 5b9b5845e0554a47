-- Jobs and watches belong to the data base: one daemon has it, whichever socket it listens on.

CREATE TABLE jobs_anew (
    id TEXT NOT NULL PRIMARY KEY,
    created TEXT NOT NULL,
    ended TEXT,  -- null: it is to go on, or its daemon has ended before it
    transcript INTEGER REFERENCES transcripts (id) ON DELETE SET NULL,
    record TEXT NOT NULL  -- a JSON object: what was asked for, and what came of it
);

INSERT INTO jobs_anew SELECT id, created, ended, transcript, record FROM jobs ORDER BY rowid;
DROP TABLE jobs;
ALTER TABLE jobs_anew RENAME TO jobs;
CREATE INDEX jobs_by_transcript ON jobs (transcript);

CREATE TABLE watches_anew (
    id TEXT NOT NULL PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,
    preset TEXT NOT NULL  -- a JSON object: what is to be done with its files
);

-- Of a folder that was watched on several sockets, the watch stays that was added last,
INSERT INTO watches_anew
SELECT id, path, preset FROM watches
WHERE rowid IN (SELECT max(rowid) FROM watches GROUP BY path) ORDER BY rowid;

CREATE TABLE watch_heirs AS
SELECT watches.id AS former, watches_anew.id AS heir FROM watches JOIN watches_anew USING (path)
WHERE watches.id != watches_anew.id;

-- and has what the others knew: a file that both know is as the one that stays has it.
UPDATE OR IGNORE watch_files SET watch = (SELECT heir FROM watch_heirs WHERE former = watch)
WHERE watch IN (SELECT former FROM watch_heirs);
UPDATE watch_outputs SET file = (
    SELECT known.id FROM watch_files AS other
    JOIN watch_heirs ON former = other.watch
    JOIN watch_files AS known ON known.watch = heir AND known.path = other.path
    WHERE other.id = file
) WHERE file IN (SELECT id FROM watch_files WHERE watch IN (SELECT former FROM watch_heirs));
DELETE FROM watch_files WHERE watch IN (SELECT former FROM watch_heirs);
UPDATE watch_log SET watch = (SELECT heir FROM watch_heirs WHERE former = watch)
WHERE watch IN (SELECT former FROM watch_heirs);

DROP TABLE watch_heirs;
DROP TABLE watches;
ALTER TABLE watches_anew RENAME TO watches;
