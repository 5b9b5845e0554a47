"""The recordings of tests/data/audio: what is said in them, how like it a text is, and what to ask for."""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from typing import Any

import pytest

from whisperd.speech import words
from whisperd_testing import AUDIO

__all__ = ["likeness", "recordings", "with_a_name_spelled", "with_what_is_not_english", "words"]

with_a_name_spelled = pytest.mark.parametrize(
    "options",
    [
        {"prompt": "Mr. Jon Dashwoode"},
        {"hotwords": "Mr. Jon Dashwoode", "prompt": "It was a day like any other in that town. " * 90},
    ],
    ids=["prompt", "hotwords before a long prompt"],
)
"""Of `austen-0870.wav`: nobody hears that it is not Dashwood."""
with_what_is_not_english = pytest.mark.parametrize(
    ("options", "code"),
    [({"language": "de"}, "language.not_in_model"), ({"task": "translate"}, "task.not_in_model")],
)


def likeness(text: str, reference: str) -> float:
    """From 0, where no word is the same, to 1."""
    return SequenceMatcher(None, words(text), words(reference), autojunk=False).ratio()


def recordings() -> dict[str, dict[str, Any]]:
    """By their files, what the manifest says of them: `text`, `language`, ..."""
    return {one["file"]: one for one in json.loads((AUDIO / "manifest.json").read_text("utf-8"))}
