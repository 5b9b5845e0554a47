-- How much was transcribed, day by day.

CREATE TABLE work (
    day TEXT NOT NULL PRIMARY KEY,  -- such as 2026-03-01, by the clock of this computer
    jobs INTEGER NOT NULL,
    audio_s REAL NOT NULL,
    elapsed_s REAL NOT NULL
) WITHOUT ROWID;
