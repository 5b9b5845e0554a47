"""The recordings of tests/data/audio: their reference texts, text similarity, and request options."""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from typing import Any

import pytest

from whisperd.speech import words
from whisperd_testing import AUDIO

__all__ = ["likeness", "recordings", "with_a_name_spelled", "with_non_english_requests", "words"]

with_a_name_spelled = pytest.mark.parametrize(
    "options",
    [
        {"prompt": "The family of Mr. Jon Dashwoode, and his sisters."},
        {"hotwords": "Mr. Jon Dashwoode", "prompt": "It was a day like any other in that town. " * 90},
    ],
    ids=["prompt", "hotwords before a long prompt"],
)
"""Options for `austen-0870.wav`: this spelling of Dashwood cannot be heard, so it can only come from them."""
with_non_english_requests = pytest.mark.parametrize(
    ("options", "code"),
    [({"language": "de"}, "language.not_in_model"), ({"task": "translate"}, "task.not_in_model")],
)


def likeness(text: str, reference: str) -> float:
    """Return how similar two texts are, from 0 (no word in common) to 1 (equal)."""
    return SequenceMatcher(None, words(text), words(reference), autojunk=False).ratio()


def recordings() -> dict[str, dict[str, Any]]:
    """Return the manifest's entries (`text`, `language`, ...) by file name."""
    return {one["file"]: one for one in json.loads((AUDIO / "manifest.json").read_text("utf-8"))}
