"""The recordings of tests/data/audio: what is said in them, and how like it a text is."""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from typing import Any

from whisperd.speech import words
from whisperd_testing import AUDIO

__all__ = ["likeness", "recordings", "words"]


def likeness(text: str, reference: str) -> float:
    """From 0, where no word is the same, to 1."""
    return SequenceMatcher(None, words(text), words(reference), autojunk=False).ratio()


def recordings() -> dict[str, dict[str, Any]]:
    """By their files, what the manifest says of them: `text`, `language`, ..."""
    return {one["file"]: one for one in json.loads((AUDIO / "manifest.json").read_text("utf-8"))}
