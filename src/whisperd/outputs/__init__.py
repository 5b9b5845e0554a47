"""Writers: a transcript as text, json or verbose_json. Pure: a transcript in, text out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from whisperd.jobs.job import Transcript
from whisperd.rpc.errors import WhisperdError

__all__ = ["FORMATS", "render", "verbose"]


def render(transcript: Transcript, format_name: str) -> str:
    """The transcript in a format, ending with a newline. Raises `format.unknown`."""
    if format_name not in _WRITERS:
        raise WhisperdError(
            "format.unknown", f"There is no format {format_name!r}.", f"Use one of {', '.join(FORMATS)}."
        )
    return _WRITERS[format_name](transcript)


def verbose(transcript: Transcript) -> dict[str, Any]:
    """The transcript in the shape of OpenAI's `verbose_json`."""
    return {
        "task": transcript.task,
        "language": transcript.language,
        "duration": transcript.duration,
        "text": transcript.text,
        "segments": [
            {
                "id": segment.id,
                "seek": segment.seek,
                "start": segment.start,
                "end": segment.end,
                "text": segment.text,
                "tokens": list(segment.tokens),
                "temperature": segment.temperature,
                "avg_logprob": segment.avg_logprob,
                "compression_ratio": segment.compression_ratio,
                "no_speech_prob": segment.no_speech_prob,
            }
            for segment in transcript.segments
        ],
    }


def _text(transcript: Transcript) -> str:
    """A line for each segment, which is what `whisperctl transcribe` prints as it comes."""
    lines = (segment.text.strip() for segment in transcript.segments)
    return "".join(f"{line}\n" for line in lines if line)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


_WRITERS: dict[str, Callable[[Transcript], str]] = {
    "text": _text,
    "json": lambda transcript: _json({"text": transcript.text}),
    "verbose_json": lambda transcript: _json(verbose(transcript)),
}

FORMATS = tuple(_WRITERS)
"""The formats that can be asked for."""
