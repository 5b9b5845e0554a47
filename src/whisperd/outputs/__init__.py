"""Writers of transcripts: text, json, subtitles and more. Pure: a transcript in, text out."""

from __future__ import annotations

from whisperd.jobs.segments import Transcript
from whisperd.outputs.formats import FORMATS, verbose
from whisperd.rpc.errors import WhisperdError

__all__ = ["FORMATS", "render", "verbose"]


def render(transcript: Transcript, format_name: str) -> str:
    """Return the transcript in a format, ending with a newline. Raises `format.unknown`."""
    if format_name not in FORMATS:
        raise WhisperdError(
            "format.unknown", f"There is no format {format_name!r}.", f"Use one of {', '.join(FORMATS)}."
        )
    return FORMATS[format_name].write(transcript)
