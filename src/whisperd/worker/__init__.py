"""The child process that holds a loaded model, and the protocol of its engine.

`protocol` is what backend plugins implement; `process` is the daemon's handle on a worker;
`main` runs in the child. Nothing here knows of jobs, files or clients.
"""
