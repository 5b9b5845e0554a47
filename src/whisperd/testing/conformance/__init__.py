"""The conformance suite: `python -m whisperd.testing.conformance PLUGIN`.

A backend that passes it can be used as any other. The suite reads what the plugin announces, then loads
its engine in worker processes, as the daemon does, and asks of it everything that the daemon may ask: the
shipped speech in batches and alone, windows of every length, every option, models that are damaged, and a
sudden end. docs/plugins.md tells how to write a backend.
"""

from whisperd.testing.conformance.checks import Outcome
from whisperd.testing.conformance.suite import CHECKS, Suite

__all__ = ["CHECKS", "Outcome", "Suite"]
