"""Recognises files by their first bytes. Pure."""

from __future__ import annotations

import codecs
from typing import Final

__all__ = [
    "BEGINNING_BYTES",
    "ENDING_BYTES",
    "is_mp4",
    "is_outdated_wav",
    "is_single_ogg",
    "is_wav",
    "kind_of",
]

BEGINNING_BYTES: Final = 4096
"""Number of bytes that are inspected."""
ENDING_BYTES: Final = 2**16
"""Number of bytes at the end that hold the last page of an Ogg file."""

_OGG_PAGE: Final = b"OggS\0"

_MARKS: Final = (
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive, which may be an office document"),
    (b"\x1f\x8b", "a compressed file"),
    (b"7z\xbc\xaf\x27\x1c", "a compressed file"),
    (b"Rar!\x1a\x07", "a compressed file"),
    (b"\x89PNG\r\n\x1a\n", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\x00", "a database"),
)
_TEXTS: Final = (
    ("#extm3u", "a playlist, which contains no audio"),
    ("<!doctype html", "a web page"),
    ("<html", "a web page"),
)
_CONTROLS_OF_TEXT: Final = "\t\n\r\f"


def kind_of(beginning: bytes) -> str | None:
    """Return what a file is, with an article, if it is clearly not a recording; else None."""
    for mark, kind in _MARKS:
        if beginning.startswith(mark):
            return kind
    try:  # a character cut off at the end is no error
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(beginning)
    except UnicodeDecodeError:
        return None
    if not text or any(one < " " and one not in _CONTROLS_OF_TEXT for one in text):
        return None
    start = text.lstrip().lower()
    return next((kind for mark, kind in _TEXTS if start.startswith(mark)), "a text file")


def is_mp4(beginning: bytes) -> bool:
    """Whether it is an MP4, including M4A, MOV and 3GP."""
    return beginning.startswith(b"ftyp", 4)


def is_wav(beginning: bytes) -> bool:
    """Whether it is a WAV of any size and byte order. (AVI files are RIFF files, too.)"""
    if beginning.startswith(b"RIFF"):
        return beginning[8:12] != b"AVI "
    return beginning.startswith((b"RF64", b"BW64", b"RIFX", b"riff"))


def is_outdated_wav(beginning: bytes, size_bytes: int) -> bool:
    """Whether the header of a WAV accounts for less than half of it.

    Either its recorder was cut off, or it is larger than 4 GB, and the header has only the remainder.
    """
    stated = int.from_bytes(beginning[4:8], "little")
    return beginning.startswith(b"RIFF") and is_wav(beginning) and 0 < 2 * stated < size_bytes


def is_single_ogg(beginning: bytes, ending: bytes) -> bool:
    """Whether an Ogg file ends with one of the tracks that it begins with.

    Otherwise it holds several recordings in sequence (RFC 3533 calls that chaining), as of a radio station.
    """
    first, page = set(), 0
    while beginning.startswith(_OGG_PAGE, page) and _begins_track(beginning[page:]):
        first.add(beginning[page + 14 : page + 18])
        page = beginning.find(_OGG_PAGE, page + 1)
    last = ending.rfind(_OGG_PAGE)
    return last >= 0 and ending[last + 14 : last + 18] in first


def _begins_track(page: bytes) -> bool:
    return page[5:6] != b"" and bool(page[5] & 2)
