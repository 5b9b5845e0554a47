"""Transcripts: segments and their words, and how texts are joined. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import msgspec

__all__ = ["Segment", "Transcript", "Word", "is_chinese_or_japanese", "join_texts", "letters", "on_one_line"]

_LINE_ENDS = re.compile("[\t-\r\x1c-\x1f\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f]")


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A word, with the space before it; times in seconds from the beginning of the file."""

    text: str
    start: float
    end: float
    probability: float


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of recognised speech; times in seconds from the beginning of the file."""

    id: int
    seek: int
    """Where its window begins, in hundredths of a second, as in OpenAI's API."""
    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    words: tuple[Word, ...] = ()
    """Empty unless requested."""
    channel: int | None = None
    """Channel number from 0, if channels are transcribed separately."""
    language: str | None = None
    """Code of its language."""


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a job. Durations are in seconds."""

    task: str
    language: str | None
    duration: float
    text: str
    segments: tuple[Segment, ...]
    runtime: str
    elapsed: float
    has_words: bool = False
    """Whether word timestamps were requested."""
    skipped: int = 0
    """How many damaged packets of the recording could not be decoded."""


def on_one_line(text: str) -> str:
    """Return the text with line ends replaced by spaces, and without terminal control characters."""
    return text if text.isprintable() else _CONTROLS.sub("", _LINE_ENDS.sub(" ", text))


def join_texts(texts: Iterable[str]) -> str:
    """Join texts with a space, or without one in Chinese and Japanese."""
    joined = ""
    for text in filter(None, map(str.strip, texts)):
        gap = "" if not joined or any(map(is_chinese_or_japanese, joined[-1] + text[0])) else " "
        joined += gap + text
    return joined


def letters(text: str) -> str:
    """Return the letters and digits of a text, ignoring case and punctuation, to compare what was spoken."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def is_chinese_or_japanese(character: str) -> bool:
    """Whether a character is of Chinese or Japanese writing, which has no spaces, not even between sentences.

    Thai and others put spaces between phrases: see `whisperd.worker.words`.
    """
    return (  # wide, but neither Korean nor an emoji
        unicodedata.east_asian_width(character) in ("W", "F")
        and unicodedata.category(character) not in ("So", "Sk")  # the latter for a skin tone
        and not unicodedata.name(character, "").startswith("HANGUL")
    )
