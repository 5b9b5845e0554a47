"""Tools for authors of backends: `whisperd.testing.conformance`, the suite that every backend passes.

Nothing that runs in the daemon imports this room.
"""
