-- Watch folders, the files that were found in them, what was written for each, and what happened.

CREATE TABLE watches (
    id TEXT NOT NULL PRIMARY KEY,
    daemon TEXT NOT NULL,  -- the socket of the daemon that watches it: several may share a data base
    path BLOB NOT NULL,
    preset TEXT NOT NULL,  -- a JSON object: what is to be done with its files
    UNIQUE (daemon, path)
);

CREATE TABLE watch_files (
    id INTEGER NOT NULL PRIMARY KEY,
    watch TEXT NOT NULL REFERENCES watches (id) ON DELETE CASCADE,
    path BLOB NOT NULL,  -- within its folder
    inode TEXT NOT NULL,  -- with the device
    size INTEGER NOT NULL,
    modified INTEGER NOT NULL,  -- nanoseconds
    hash TEXT,  -- SHA-256; null where it could not be found out in time
    status TEXT NOT NULL CHECK (status IN ('working', 'written', 'done', 'lost', 'retrying', 'failed')),
    job TEXT,
    attempts INTEGER NOT NULL,
    retry_at TEXT,
    error TEXT,  -- a JSON object
    gone TEXT,  -- since when it is not there any more
    UNIQUE (watch, path)
);

CREATE INDEX watch_files_by_inode ON watch_files (watch, inode);
CREATE INDEX watch_files_by_status ON watch_files (watch, status);

CREATE TABLE watch_outputs (
    path BLOB NOT NULL PRIMARY KEY,
    file INTEGER NOT NULL REFERENCES watch_files (id) ON DELETE CASCADE,
    format TEXT NOT NULL,
    language TEXT NOT NULL,
    hash TEXT,  -- SHA-256 of what was written; null: nothing yet
    next_hash TEXT  -- of what is to take its place
);

CREATE INDEX watch_outputs_by_file ON watch_outputs (file);

CREATE TABLE watch_log (
    id INTEGER NOT NULL PRIMARY KEY,
    watch TEXT NOT NULL REFERENCES watches (id) ON DELETE CASCADE,
    time TEXT NOT NULL,
    event TEXT NOT NULL,
    path BLOB,  -- of a file, within its folder
    message TEXT NOT NULL
);

CREATE INDEX watch_log_by_watch ON watch_log (watch, id);
