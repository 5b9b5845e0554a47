-- What was written for watch folders that are watched no more: so that a watch that is added anew knows its own.

CREATE TABLE former_outputs (
    path BLOB NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL,  -- SHA-256 of all that may be there and is ours, with spaces
    since TEXT NOT NULL  -- RFC 3339
);
