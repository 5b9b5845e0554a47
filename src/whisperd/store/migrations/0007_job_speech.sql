-- Where somebody speaks in the audio of a job, as far as its decoder has listened.

CREATE TABLE job_speech (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    place INTEGER NOT NULL,  -- in the order in which it was told, from 0
    found BLOB NOT NULL,  -- as MessagePack
    PRIMARY KEY (job, place)
) WITHOUT ROWID;
