-- Jobs, what is finished of them, and the transcripts that are kept.

CREATE TABLE transcripts (
    id INTEGER NOT NULL PRIMARY KEY,
    created TEXT NOT NULL,
    key TEXT UNIQUE,  -- a hash of the audio's bytes and of all that makes a text of them; null: not to be used again
    size INTEGER,  -- of the audio's file, in bytes
    path TEXT,  -- where the audio was seen last; null for what was sent
    language TEXT,
    text TEXT NOT NULL,  -- a line for each segment, which is what a search reads
    result BLOB NOT NULL  -- the transcript, as MessagePack
);

CREATE INDEX transcripts_by_size ON transcripts (size);

CREATE VIRTUAL TABLE transcripts_text USING fts5 (
    text, content = 'transcripts', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3'
);

CREATE TRIGGER transcripts_text_insert AFTER INSERT ON transcripts
BEGIN
    INSERT INTO transcripts_text (rowid, text) VALUES (new.id, new.text);
END;

CREATE TRIGGER transcripts_text_delete AFTER DELETE ON transcripts
BEGIN
    INSERT INTO transcripts_text (transcripts_text, rowid, text) VALUES ('delete', old.id, old.text);
END;

CREATE TABLE jobs (
    id TEXT NOT NULL PRIMARY KEY,
    daemon TEXT NOT NULL,  -- the socket of the daemon whose job it is: several may share a data base
    created TEXT NOT NULL,
    ended TEXT,  -- null: it is to go on, or its daemon has ended before it
    transcript INTEGER REFERENCES transcripts (id) ON DELETE SET NULL,
    record TEXT NOT NULL  -- a JSON object: what was asked for, and what came of it
);

CREATE INDEX jobs_by_daemon ON jobs (daemon, created);
CREATE INDEX jobs_by_transcript ON jobs (transcript);

CREATE TABLE job_windows (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    place INTEGER NOT NULL,  -- among all windows of the job, from 0
    finished BLOB NOT NULL,  -- where it lies in the audio and what was said, as MessagePack
    PRIMARY KEY (job, place)
) WITHOUT ROWID;
