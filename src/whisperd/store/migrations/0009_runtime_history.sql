-- What became of each runtime: its last changes of status.

CREATE TABLE runtime_history (
    runtime TEXT NOT NULL REFERENCES runtimes (id) ON DELETE CASCADE,
    moment TEXT NOT NULL  -- JSON: time, status, detail, error
);

CREATE INDEX runtime_history_of ON runtime_history (runtime);
