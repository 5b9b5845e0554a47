-- Saved runtimes, and which of them is the default.

CREATE TABLE runtimes (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    model TEXT NOT NULL,
    backend TEXT NOT NULL,
    device TEXT NOT NULL,
    device_index TEXT NOT NULL,  -- a JSON array of numbers
    compute_type TEXT NOT NULL,
    cpu_threads INTEGER NOT NULL CHECK (cpu_threads >= 0),
    workers INTEGER NOT NULL CHECK (workers >= 0),
    batched INTEGER NOT NULL CHECK (batched IN (0, 1)),
    batch_size INTEGER NOT NULL CHECK (batch_size > 0),
    keep_alive REAL NOT NULL CHECK (keep_alive >= 0 OR keep_alive = -1),  -- seconds; -1 is for ever
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    protected INTEGER NOT NULL CHECK (protected IN (0, 1)),
    created TEXT NOT NULL,
    changed TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version > 0)
);

-- A table of one row at most, which can be changed and not deleted, and whose runtime cannot be deleted:
-- never two defaults, and never none once there was one.
CREATE TABLE default_runtime (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    id TEXT NOT NULL REFERENCES runtimes (id)
);

CREATE TRIGGER default_runtime_stays BEFORE DELETE ON default_runtime
BEGIN
    SELECT RAISE (ABORT, 'there is always a default runtime');
END;
