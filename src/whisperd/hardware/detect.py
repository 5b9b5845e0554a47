"""Detect what a computer has, given its probes. Pure: a test passes a recording of another computer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from whisperd.hardware.facts import Libraries, Processor, System, Tools
from whisperd.hardware.libraries import find_blas, find_cuda_libraries
from whisperd.hardware.memory import Memory, memory_within
from whisperd.hardware.probes import ProbeFailed, Probes
from whisperd.hardware.processor import find_processor
from whisperd.hardware.system import find_system
from whisperd.hardware.tools import find_tools

__all__ = ["FACTS", "Fact", "find_fact"]


class Fact(NamedTuple):
    """A fact: its type, and the function that finds it."""

    type: Any
    find: Callable[[Probes], Any]


FACTS: Final[Mapping[str, Fact]] = {
    "system": Fact(System, find_system),
    "processor": Fact(Processor, find_processor),
    "memory": Fact(Memory, lambda probes: memory_within(probes.memory(), probes.read)),
    "cuda_libraries": Fact(Libraries, find_cuda_libraries),
    "blas": Fact(Libraries, find_blas),
    "tools": Fact(Tools, find_tools),
}
"""The facts of `Hardware` by name, except the GPUs, whose driver is queried in a separate process."""


def find_fact(name: str, probes: Probes) -> tuple[Any, str | None]:
    """Return one fact, or a sentence that says why it is unknown."""
    try:
        return FACTS[name].find(probes), None
    except ProbeFailed as failure:
        why = str(failure)
    except Exception as mistake:  # a computer unlike any that this code was written for
        why = f"detection failed: {mistake!r}"
    return None, f"{why[:1].upper()}{why[1:]}."
