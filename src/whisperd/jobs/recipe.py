"""What makes a text of a file's bytes: all that matters, and nothing else.

What is not known here is taken to matter. An option that is added changes the recipe, and so does a line of
the code that cuts, computes or joins windows: at worst something is computed again that need not be.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from whisperd._version import __version__
from whisperd.jobs.options import JobOptions
from whisperd.worker.protocol import DecodeOptions

__all__ = ["Recipe", "options_that_matter", "rules_digest"]

RULES: Final = (
    "whisperd.audio",
    "whisperd.worker",
    "whisperd.jobs.reconcile",
    "whisperd.jobs.run",
    "whisperd.jobs.segments",
    "whisperd.jobs.stitch",
    "whisperd.jobs.transcript_builder",
    "whisperd.jobs.vote",
    __name__,
)
"""Where it says how sound is decoded, cut, computed and joined, besides the plugin of the engine."""
IMMATERIAL: Final = ("runtime", "model", "priority", "cache")
"""Options of a job that say where and when it is done; the engine's own model is in the recipe."""
FILLED_IN: Final = ("beam_size", "temperature")
"""Options that the settings fill in: what counts is what the engine is told then."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """All that makes a text of a file's bytes, but for its runtime's speed."""

    rules: str
    """As `rules_digest` makes it."""
    engine: str
    """The model's bytes, the variant that runs it, its precision, and how much context it hears."""
    decoder: str
    """The bundle that decodes and finds speech."""
    max_window_s: float
    options: dict[str, Any]
    """As `options_that_matter` makes it."""

    @property
    def digest(self) -> str:
        """A hash of it all: what was asked for is not told by it."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


def options_that_matter(options: JobOptions, decode_options: DecodeOptions) -> dict[str, Any]:
    """What was asked for: the options of the engine as they are filled in, and all others but a few."""
    asked = msgspec.structs.asdict(options)
    asked = {name: value for name, value in asked.items() if name not in (*IMMATERIAL, *FILLED_IN)}
    return {"job": asked, "engine": msgspec.structs.asdict(decode_options)}


def rules_digest(engine: str) -> str:
    """A hash of the code that makes a text with an engine (`module:function`). Blocks."""
    digest = hashlib.sha256()
    for name in (*RULES, _package(engine.partition(":")[0])):
        digest.update(f"{name}\n".encode())
        for source in _sources(name):
            digest.update(source)
    return digest.hexdigest()


def _package(module: str) -> str:
    """The package that a module lies in, or the module where it lies in none."""
    return module.rpartition(".")[0] or module


def _sources(name: str) -> Iterator[bytes]:
    """The source files of a module or package; where there are none, its version has to do."""
    spec = importlib.util.find_spec(name)
    try:
        if spec is None or spec.origin is None or not spec.has_location:
            raise FileNotFoundError(name)
        file = Path(spec.origin)
        files = sorted(file.parent.rglob("*.py")) if spec.submodule_search_locations else [file]
        yield from [one.read_bytes() for one in files]
    except (ImportError, OSError, ValueError):
        yield __version__.encode()
