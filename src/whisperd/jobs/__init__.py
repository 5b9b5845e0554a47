"""Jobs: their life, the window scheduler, stitching.

A job is one transcription of one input. `manager` owns every job, `executor` does them; `scheduler` and
`stitch` are pure.
This room asks the runtimes for a leased engine and the decoder for windows; it knows no client.
"""
