-- Which way to run a model was measured to be the fastest on this computer.

CREATE TABLE calibrations (
    model TEXT NOT NULL,
    fingerprint TEXT NOT NULL,  -- of the computer and of the versions of all variants
    time TEXT NOT NULL,
    result TEXT NOT NULL,  -- a JSON object: what was tried, and what came of it
    PRIMARY KEY (model, fingerprint)
);
