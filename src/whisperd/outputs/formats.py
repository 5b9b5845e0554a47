"""Writers of a transcript in each format. Pure: a transcript in, text out.

Spoken text may contain syntax of the format: `-->` in a subtitle, a tab, a `#`. Each writer escapes it by the
means of its format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from whisperd.jobs.line_breaks import clean
from whisperd.jobs.segments import Segment, Transcript, Word, join_texts
from whisperd.outputs.cues import Cue, cues
from whisperd.worker.sentences import ends_sentence

__all__ = ["FORMATS", "Format", "verbose"]

PARAGRAPH_PAUSE_S: Final = 1.5
PARAGRAPH_CHARACTERS: Final = 600
"""A paragraph ends with a sentence that a pause follows, or that brings it to this length. In text without
full stops, it ends with a segment, at twice this length."""


@dataclass(frozen=True)
class Format:
    """The file extension and writer of a format."""

    extension: str
    write: Callable[[Transcript], str]


def verbose(transcript: Transcript) -> dict[str, Any]:
    """Return the transcript in the shape of OpenAI's `verbose_json`."""
    shape: dict[str, Any] = {
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
                **({} if segment.channel is None else {"channel": segment.channel}),
                **({} if segment.language is None else {"language": segment.language}),
            }
            for segment in transcript.segments
        ],
    }
    if transcript.has_words:
        shape["words"] = [
            {
                "word": word.text.strip(),
                "start": word.start,
                "end": word.end,
                "probability": word.probability,
                "segment": segment.id,
                **({} if segment.channel is None else {"channel": segment.channel}),
            }
            for segment in transcript.segments
            for word in segment.words
        ]
    return shape


def _text(transcript: Transcript) -> str:
    """Write a line for each segment, as `whisperctl transcribe` prints them while they arrive."""
    lines = ((_speaker(segment), clean(segment.text)) for segment in transcript.segments)
    return "".join(f"{speaker}{line}\n" for speaker, line in lines if line)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _srt(transcript: Transcript) -> str:
    """Write SubRip. It cannot escape `-->`, so an arrow character replaces it."""
    blocks = []
    for number, cue in enumerate(cues(_labelled(transcript.segments), transcript.duration), 1):
        lines = "\n".join(_without_arrow(line) for line in cue.texts)
        blocks.append(f"{number}\n{_times(cue, ',')}\n{lines}\n")
    return "\n".join(blocks)


def _vtt(transcript: Transcript) -> str:
    """Write WebVTT, with the time of each word if word times are known."""
    blocks = ["WEBVTT\n"]
    for cue in cues(transcript.segments, transcript.duration):
        voice = "" if cue.channel is None else f"<v {_name(cue.channel)}>"
        lines = "\n".join(_timed_lines(cue) if transcript.has_words else map(_vtt_text, cue.texts))
        blocks.append(f"{_times(cue, '.')}\n{voice}{lines}\n")
    return "\n".join(blocks)


def _timed_lines(cue: Cue) -> Iterator[str]:
    """Write word times: WebVTT requires them to lie within the cue and to increase, across lines as well."""
    last_ms, end_ms = _milliseconds(cue.start), _milliseconds(cue.end)
    for line in cue.lines:
        written = ""
        for position, piece in enumerate(line):
            text = piece.text if position else piece.text.lstrip()
            gap = text[: len(text) - len(text.lstrip())]
            start_ms = _milliseconds(piece.start)
            if last_ms < start_ms < end_ms:
                gap, last_ms = f"{gap}<{_clock(start_ms, '.')}>", start_ms
            written += f"{gap}<c>{_vtt_text(text.lstrip())}</c>"
        yield written


def _vtt_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _without_arrow(text: str) -> str:
    return text.replace("-->", "\N{LONG RIGHTWARDS ARROW}")


def _tsv(transcript: Transcript) -> str:
    """Write tab-separated values: start and end in milliseconds, text."""
    rows = ["start\tend\ttext"]
    rows += [
        f"{_milliseconds(segment.start)}\t{_milliseconds(segment.end)}\t{_speaker(segment)}{clean(segment.text)}"
        for segment in transcript.segments
    ]
    return "\n".join(rows) + "\n"


def _lrc(transcript: Transcript) -> str:
    """Write lyrics. The space after the time keeps text that begins with `[` from being parsed as a time."""
    lines = []
    for segment in _labelled(transcript.segments):
        if segment.words:
            text = "".join(f" <{_lyrics_clock(word.start)}> {clean(word.text)}" for word in segment.words)
        else:
            text = f" {clean(segment.text)}"
        lines.append(f"[{_lyrics_clock(segment.start)}]{text}\n")
    return "".join(lines)


def _md(transcript: Transcript) -> str:
    """Write Markdown: paragraphs, each with its start time."""
    blocks = []
    for paragraph in _paragraphs(transcript.segments):
        text = _md_text(join_texts(segment.text for segment in paragraph))
        speaker = "" if paragraph[0].channel is None else f" {_name(paragraph[0].channel)}"
        blocks.append(f"**{_short_clock(paragraph[0].start)}{speaker}** {text}\n")
    return "\n".join(blocks)


def _paragraphs(segments: Sequence[Segment]) -> list[list[Segment]]:
    found: list[list[Segment]] = []
    for segment in segments:
        if not segment.text.strip():
            continue
        if not found or _ends_paragraph(found[-1], segment):
            found.append([])
        found[-1].append(segment)
    return found


def _ends_paragraph(paragraph: Sequence[Segment], following: Segment) -> bool:
    if paragraph[-1].channel != following.channel:
        return True
    length = sum(len(segment.text) for segment in paragraph)
    if not ends_sentence(paragraph[-1].text):
        return length >= 2 * PARAGRAPH_CHARACTERS
    return length >= PARAGRAPH_CHARACTERS or following.start - paragraph[-1].end >= PARAGRAPH_PAUSE_S


_MD_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])|^(\d+)([.)])|^([-+=])")


def _md_text(text: str) -> str:
    def escape(found: re.Match[str]) -> str:
        special, number, dot, sign = found.groups()
        return f"{number}\\{dot}" if number else f"\\{special or sign}"

    return _MD_SPECIAL.sub(escape, clean(text))


def _name(channel: int) -> str:
    return f"Speaker {channel + 1}"


def _speaker(segment: Segment) -> str:
    """Return the prefix that names the speaker, or nothing if the speaker is unknown."""
    return "" if segment.channel is None else f"{_name(segment.channel)}: "


def _labelled(segments: Sequence[Segment]) -> Iterator[Segment]:
    """Prepend the speaker's name to the segment as a word wherever the speaker changes."""
    speaker: int | None = None
    for segment in segments:
        if segment.channel in (None, speaker) or not clean(segment.text):
            yield segment
            continue
        speaker = segment.channel
        label = Word(text=_speaker(segment).strip(), start=segment.start, end=segment.start, probability=1.0)
        yield msgspec.structs.replace(
            segment,
            text=f"{label.text} {segment.text.strip()}",
            words=(label, *segment.words) if segment.words else (),
        )


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _clock(milliseconds: int, point: str) -> str:
    """Format a time as `01:02:03.456`."""
    whole, rest = divmod(milliseconds, 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{rest:03}"


def _times(cue: Cue, point: str) -> str:
    """Format the start and end of a cue, at least 1 ms apart: players skip a cue of no length."""
    start_ms = _milliseconds(cue.start)
    return f"{_clock(start_ms, point)} --> {_clock(max(_milliseconds(cue.end), start_ms + 1), point)}"


def _lyrics_clock(seconds: float) -> str:
    """Format a time as `62:03.45`, without hours."""
    hundredths = max(0, round(seconds * 100))
    return f"{hundredths // 6000:02}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"


def _short_clock(seconds: float) -> str:
    """Format a time as `1:02:03`, or `2:03` within the first hour."""
    whole = int(max(0.0, seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


FORMATS: Final = {
    "text": Format("txt", _text),
    "json": Format("json", lambda transcript: _json({"text": transcript.text})),
    "verbose_json": Format("json", lambda transcript: _json(verbose(transcript))),
    "srt": Format("srt", _srt),
    "vtt": Format("vtt", _vtt),
    "tsv": Format("tsv", _tsv),
    "lrc": Format("lrc", _lrc),
    "md": Format("md", _md),
}
"""The available formats, by name."""
