"""The options of a transcription, for type checkers. Nothing here is imported when a client starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, TypedDict

__all__ = ["JobOptions"]


class JobOptions(TypedDict, total=False):
    """What `transcribe` and `submit` take; `whisperctl transcribe --help` explains each."""

    model: str | os.PathLike[str] | None
    """A name of the catalogue, a hub repository, or a model's folder; None is the daemon's default."""
    language: str | None
    """A code or an English name; None or `auto` finds out."""
    task: Literal["transcribe", "translate"]
    beam_size: int | None
    temperature: float | Sequence[float] | None
    prompt: str | None
    hotwords: str | None
    vad: bool
    priority: Literal["interactive", "normal", "bulk"]
