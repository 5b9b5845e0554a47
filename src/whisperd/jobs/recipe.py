"""The recipe of a transcript: everything that determines the text of given audio, and nothing else.

Anything not known to be irrelevant counts. A new option changes the recipe, and so does any change to the
code that cuts, computes or joins windows: at worst, something is computed again without need.
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
"""The code that decodes, cuts, transcribes and joins audio, besides the plugin of the engine."""
IMMATERIAL: Final = ("runtime", "model", "priority", "cache")
"""Job options about where and when it runs; the model that the engine runs is in the recipe."""
FILLED_IN: Final = ("beam_size", "temperature")
"""Options with defaults in the settings: the values given to the engine count."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that determines the text of given audio, except speed settings of its runtime."""

    rules: str
    """See `rules_digest`."""
    engine: str
    """The model's bytes, the variant that runs it, its precision, and its amount of context."""
    decoder: str
    """The bundle that decodes audio and detects speech."""
    max_window_s: float
    options: dict[str, Any]
    """See `options_that_matter`."""

    @property
    def digest(self) -> str:
        """A hash of the recipe, which does not reveal the options."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


def options_that_matter(options: JobOptions, decode_options: DecodeOptions) -> dict[str, Any]:
    """Return the options that affect the text: those of the engine, defaults filled in, and most others."""
    asked = msgspec.structs.asdict(options)
    asked = {name: value for name, value in asked.items() if name not in (*IMMATERIAL, *FILLED_IN)}
    return {"job": asked, "engine": msgspec.structs.asdict(decode_options)}


def rules_digest(engine: str) -> str:
    """Return a hash of the code that makes text with an engine (`module:function`). Blocks."""
    digest = hashlib.sha256()
    for name in (*RULES, _package(engine.partition(":")[0])):
        digest.update(f"{name}\n".encode())
        for source in _sources(name):
            digest.update(source)
    return digest.hexdigest()


def _package(module: str) -> str:
    """Return the package of a module, or the module itself if it is in none."""
    return module.rpartition(".")[0] or module


def _sources(name: str) -> Iterator[bytes]:
    """Return the source files of a module or package; if there are none, the version instead."""
    spec = importlib.util.find_spec(name)
    try:
        if spec is None or spec.origin is None or not spec.has_location:
            raise FileNotFoundError(name)
        file = Path(spec.origin)
        files = sorted(file.parent.rglob("*.py")) if spec.submodule_search_locations else [file]
        yield from [one.read_bytes() for one in files]
    except (ImportError, OSError, ValueError):
        yield __version__.encode()
