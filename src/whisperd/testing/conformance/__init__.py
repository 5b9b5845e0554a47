"""The conformance suite: `python -m whisperd.testing.conformance PLUGIN`.

A backend that passes works like any other. The suite reads the plugin's announcement, then loads its engine
in worker processes, as the daemon does, and makes every request that the daemon may make: the shipped speech
in batches and alone, windows of every length, every option, damaged models, and a sudden end.
docs/plugins.md explains how to write a backend.
"""

from whisperd.testing.conformance.checks import Outcome
from whisperd.testing.conformance.suite import CHECKS, Suite

__all__ = ["CHECKS", "Outcome", "Suite"]
