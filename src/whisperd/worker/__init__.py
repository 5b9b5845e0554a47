"""The child process that holds a loaded model, and the protocol of its engine.

`protocol` is what backend plugins implement; `process` is the daemon's handle on a worker, and tells why one
has died (`faults`, `oom`); `main` runs in the child, and holds what an engine answers against its protocol
and against the sound (`answers`, `coverage`, `phantoms`). What engines share is in `rules`, `attempts`,
`sentences`, `words` and, with numpy, `loudness`. Nothing here knows of jobs, files or clients.
"""
