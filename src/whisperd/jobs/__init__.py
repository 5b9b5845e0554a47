"""Jobs: their life, the window scheduler, stitching.

A job is one transcription of one input. `manager` owns every job, `executor` does them: `run` brings a file
to its text, `live` what is being spoken (`intake`, `agreement`). Both hand windows to the `dispatcher` of
their runtime, which computes them in the order of the `scheduler` (`batching`), and what comes back to
`telling`, which puts it together with `stitch` (`reconcile`, `segments`) and tells of it. The `keeper` keeps
what is done: jobs and finished windows in the `journal`, texts in `transcripts` (`search`), found again by
the `recipe` that made them and by what the file was (`identity`); `work` counts what was done. A job is asked
for with `options` (`languages`), and begins and ends as `endings` has it.

`scheduler`, `batching`, `stitch`, `reconcile`, `segments`, `agreement`, `script`, `vote`, `languages`,
`pace`, `ended`, `search` are pure. This room asks the runtimes for a leased engine and the decoder for
windows; it knows no client.
"""
