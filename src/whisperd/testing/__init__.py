"""For who writes a backend: the conformance suite that every backend passes, `whisperd.testing.conformance`.

Nothing that runs in the daemon imports this room.
"""
