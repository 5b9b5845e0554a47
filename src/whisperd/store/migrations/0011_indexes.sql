-- What is looked for by an index, however much is kept.

-- By what was written: where else that lies.
CREATE INDEX watch_outputs_by_hash ON watch_outputs (hash);

-- Counting the files of a watch by their status reads nothing but this.
DROP INDEX watch_files_by_status;
CREATE INDEX watch_files_by_status ON watch_files (watch, status, gone);

-- By age: what is old enough to be forgotten.
CREATE INDEX transcripts_by_created ON transcripts (created);
