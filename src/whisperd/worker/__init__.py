"""The child process that holds a loaded model, and the protocol of its engine.

Backend plugins implement `protocol`. `process` is the daemon's handle on a worker, and explains why one has
died (`faults`, `oom`). `main` runs in the child, and checks an engine's results against its protocol and
against the audio (`answers`, `coverage`, `phantoms`); `unwanted` and `freed_memory` serve it. `rules`,
`attempts`, `sentences`, `words` and, with numpy, `loudness` are shared by engines. Nothing here knows of
jobs, files or clients.
"""
