-- Which audio a transcript is of, so that a search finds a recording once, however often it was transcribed.

ALTER TABLE transcripts ADD COLUMN content TEXT;  -- SHA-256 of the audio's file; null where that is not known

UPDATE transcripts SET content = (
    SELECT json_extract(jobs.record, '$.content_hash') FROM jobs WHERE jobs.transcript = transcripts.id LIMIT 1
);
