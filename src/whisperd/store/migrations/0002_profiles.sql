-- Profiles: named choices of a user or program.

CREATE TABLE profiles (
    name TEXT NOT NULL PRIMARY KEY,
    -- The id of a runtime; it may have been deleted since, which is an error when the profile is used.
    runtime TEXT,
    options TEXT NOT NULL,  -- a JSON object of job options
    created TEXT NOT NULL,
    changed TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version > 0)
);
