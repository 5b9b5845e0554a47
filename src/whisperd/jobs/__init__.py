"""Jobs: their lifecycle, the window scheduler, and assembly of transcripts.

A `job` is one transcription of one input. `manager` owns every job and `executor` runs it: `run` transcribes
a file, `live` transcribes speech as it is spoken (`audio_buffer`, `agreement`). Both submit windows to the
`dispatcher` of their runtime, which computes them in the order chosen by the `scheduler` (`batching`). The
results go to a `transcript_builder`, which assembles them with `stitch` (`reconcile`, `segments`) and
publishes events. The `keeper` saves jobs and finished windows in the `journal` and texts in `transcripts`
(`search`); a stored transcript is found by the `recipe` that made it and by the content of the file
(`identity`). `work_log` counts what was transcribed. `options` (`languages`) describe a job, `lifecycle`
holds how jobs begin and end, and `history` the jobs that ended.

`scheduler`, `batching`, `stitch`, `reconcile`, `segments`, `agreement`, `line_breaks`, `vote`, `languages`,
`pace`, `history` and `search` are pure. This room asks the runtimes for a leased engine and the decoder for
windows; it knows no client.
"""
