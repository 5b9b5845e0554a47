"""What a file is, as far as its beginning tells plainly. Pure."""

from __future__ import annotations

import codecs
from typing import Final

__all__ = ["BEGINNING_BYTES", "is_mp4", "is_wav", "kind_of"]

BEGINNING_BYTES: Final = 4096
"""As much of a file as is looked at."""

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
    """What begins so, with its article; None of what is not plainly something else than a recording."""
    for mark, kind in _MARKS:
        if beginning.startswith(mark):
            return kind
    try:  # a letter that is cut at the end is no fault
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(beginning)
    except UnicodeDecodeError:
        return None
    if not text or any(one < " " and one not in _CONTROLS_OF_TEXT for one in text):
        return None
    start = text.lstrip().lower()
    return next((kind for mark, kind in _TEXTS if start.startswith(mark)), "a text file")


def is_mp4(beginning: bytes) -> bool:
    """Whether it is an MP4, as M4A, MOV and 3GP are."""
    return beginning.startswith(b"ftyp", 4)


def is_wav(beginning: bytes) -> bool:
    """Whether it is a WAV, of whatever size and order of bytes. An AVI is a RIFF file as well."""
    if beginning.startswith(b"RIFF"):
        return beginning[8:12] != b"AVI "
    return beginning.startswith((b"RF64", b"BW64", b"RIFX", b"riff"))
