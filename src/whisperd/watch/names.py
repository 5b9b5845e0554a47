"""Names: decide which files of a folder are recordings, and name their outputs. Pure."""

from __future__ import annotations

import hashlib
import os
import string
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Final, NamedTuple

from whisperd.outputs import FORMATS
from whisperd.watch.globs import matches

__all__ = [
    "DEFAULT_TEMPLATE",
    "ERROR_FORMAT",
    "MEDIA_EXTENSIONS",
    "Place",
    "Selection",
    "check_template",
    "is_hidden",
    "is_partial",
    "is_same_name",
    "may_be_source",
    "output_name",
    "output_names",
    "skipped_folders",
]

DEFAULT_TEMPLATE: Final = "{stem}.{lang}.{ext}"
PLACEHOLDERS: Final = frozenset({"stem", "name", "lang", "ext", "format"})
ERROR_FORMAT: Final = "error"
"""The format name of the file that says why there is no text."""
MAX_NAME_BYTES: Final = 255
"""The limit of nearly every file system."""

MEDIA_EXTENSIONS: Final = frozenset(
    """
    3ga 3gp aac ac3 aif aifc aiff alac amr ape asf au avi awb caf dss dts eac3 f4v flac flv gsm m1v m2ts
    m2v m4a m4b m4v mka mkv mov mp2 mp3 mp4 mpa mpeg mpg mpga mts mxf oga ogg ogm ogv opus qt ra rm rmvb
    spx tta vob voc w64 wav weba webm wma wmv wv
    """.split()  # noqa: SIM905
)
"""Transcribed when a watch sets no `include` patterns."""

_SHARED_EXTENSIONS: Final = frozenset(["dts", "mts", "ts"])
"""Extensions also used for source code: TypeScript and device tree sources."""

_PARTIAL_EXTENSIONS: Final = frozenset(
    """
    !qb !ut aria2 bc! crdownload dltmp download filepart lock opdownload part partial swp temp tmp ytdl
    """.split()  # noqa: SIM905
)

_FOLDERS_OF_SYSTEMS: Final = frozenset(
    [
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "recycler",
        "system volume information",
    ]
)
"""Recycle bins, snapshots and thumbnails, as created by Windows and by NAS systems."""

_TEXT_EXTENSIONS: Final = frozenset(one.extension for one in FORMATS.values())
"""Text output formats, whoever wrote them: never taken as recordings, even if a pattern matches."""


def may_be_source(name: str) -> bool:
    """Whether a file with this media extension may be source code, so that its content has to decide."""
    return os.path.splitext(name)[1][1:].casefold() in _SHARED_EXTENSIONS


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or private to a program: dot files, `~$lock`, `backup~`."""
    return name.startswith((".", "~")) or name.endswith("~")


def _is_trash_or_unfinished(folder: str) -> bool:
    """Whether a folder holds deleted or unfinished files: Safari downloads into `talk.mp3.download`."""
    name = folder.casefold()
    downloaded = name.removesuffix(".download")
    return is_hidden(folder) or name in _FOLDERS_OF_SYSTEMS or (downloaded != name and _is_media(downloaded))


def is_partial(name: str) -> bool:
    """Whether a name marks an unfinished file: `talk.mp3.part`, `talk.temp.mp4`."""
    words = name.casefold().split(".")[1:]
    return (
        is_hidden(name)
        or any(word in _PARTIAL_EXTENSIONS for word in words[-2:])
        or name.startswith("Unconfirmed ")
    )


class Place(NamedTuple):
    """A folder: as named, resolved, and its inode."""

    path: str
    real: str
    """Its path with symbolic links resolved."""
    inode: str | None = None
    """None if the folder does not exist or cannot be read."""


class Selection(NamedTuple):
    """Which files of a folder to transcribe. Paths are relative to the folder."""

    recursive: bool = True
    include: tuple[str, ...] = ()
    """Patterns; if empty, all audio and video files match."""
    exclude: tuple[str, ...] = ()
    """Patterns of files to skip, and of folders not to enter."""
    skipped: frozenset[str] = frozenset()
    """Folders to skip, even behind a link, as other watches or `move_to` own them: paths and real paths."""
    skipped_inodes: frozenset[str] = frozenset()

    def wants(self, path: str) -> bool:
        """Whether a file is to be transcribed, judging by its name."""
        name = os.path.basename(path)
        if is_partial(name) or _is_text(name) or any(matches(path, glob) for glob in self.exclude):
            return False
        if self.include:
            return any(matches(path, glob) for glob in self.include)
        return _is_media(name)

    def enters(self, folder: str) -> bool:
        """Whether to enter a folder, provided that its parent is entered."""
        return (
            self.recursive
            and folder not in self.skipped
            and not _is_trash_or_unfinished(os.path.basename(folder))
            and not any(matches(folder, glob) for glob in self.exclude)
        )

    def reaches(self, path: str) -> bool:
        """Whether all folders above a path are entered."""
        folder = os.path.dirname(path)
        while folder:
            if not self.enters(folder):
                return False
            folder = os.path.dirname(folder)
        return True

    def takes(self, path: str) -> bool:
        """Whether a file is to be transcribed, judging by its name and its folders."""
        return self.reaches(path) and self.wants(path)


def skipped_folders(root: Place, others: Iterable[Place]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names and the inodes by which a `Selection` below `root` skips these folders."""
    others = list(others)
    here, really_here = (os.path.join(path, "") for path in (root.path, root.real))
    names = {path.removeprefix(here).removeprefix(really_here) for one in others for path in one[:2]}
    return frozenset(names), frozenset(one.inode for one in others if one.inode is not None)


def check_template(template: str, formats: Sequence[str]) -> str | None:
    """Return what is wrong with a name template for these formats, as a sentence; None if it is valid."""
    try:
        # `{stem:.3}` would give many files the same name, and `{stem:999999999}` one that exhausts memory.
        used = {
            "?" if form or conversion else name
            for _, name, form, conversion in string.Formatter().parse(template)
            if name is not None
        }
    except ValueError:  # unbalanced braces
        used = {"?"}
    if used - PLACEHOLDERS:
        return f"{template!r} may only contain {', '.join(f'{{{name}}}' for name in sorted(PLACEHOLDERS))}."
    if "/" in template or os.sep in template or "\0" in template:
        return f"{template!r} must be a file name without folders."
    if not used & {"stem", "name"}:
        return f"{template!r} would give all files the same name; add {{stem}} or {{name}}."
    names = [_filled(template, "a.wav", "en", one) for one in formats]
    if len(set(names)) < len(names):
        return f"{template!r} would give two formats the same name; add {{format}} or {{ext}}."
    if any(_is_media(name) for name in names):
        return f"{template!r} would give texts the extension of a recording."
    return None


def output_name(
    template: str, source: str, language: str, format_name: str, max_bytes: int = MAX_NAME_BYTES
) -> str:
    """Return the name of an output of a recording, no longer than `max_bytes`.

    In a name that would be longer, a hash replaces the end of the recording's name.
    """
    name = _filled(template, source, language, format_name)
    if len(os.fsencode(name)) <= max_bytes:
        return name
    mark = "~" + hashlib.sha256(os.fsencode(source)).hexdigest()[:8]
    stem, extension = os.path.splitext(source)
    for kept in range(len(stem), -1, -1):
        name = _filled(template, f"{stem[:kept]}{mark}{extension}", language, format_name)
        if len(os.fsencode(name)) <= max_bytes:
            return name
    extension = "error.txt" if format_name == ERROR_FORMAT else FORMATS[format_name].extension
    return f"{mark}.{extension}"


def _is_media(name: str) -> bool:
    return os.path.splitext(name)[1][1:].casefold() in MEDIA_EXTENSIONS


def _is_text(name: str) -> bool:
    return os.path.splitext(name)[1][1:].casefold() in _TEXT_EXTENSIONS


def _filled(template: str, source: str, language: str, format_name: str) -> str:
    if format_name == ERROR_FORMAT:
        return f"{source}.error.txt"
    values: Mapping[str, str] = {
        "stem": os.path.splitext(source)[0],
        "name": source,
        "lang": language,
        "ext": FORMATS[format_name].extension,
        "format": format_name,
    }
    return template.format_map(values)


def output_names(
    template: str, source: str, language: str, format_name: str, max_bytes: int = MAX_NAME_BYTES
) -> Iterator[str]:
    """Yield possible names of an output, the best first, as another recording may have the same stem."""
    stem, extension = os.path.splitext(source)
    yield output_name(template, source, language, format_name, max_bytes)
    yield output_name(template.replace("{stem}", "{name}"), source, language, format_name, max_bytes)
    for number in count(2):
        yield output_name(template, f"{stem} ({number}){extension}", language, format_name, max_bytes)


def is_same_name(one: str, other: str) -> bool:
    """Whether a file system that ignores case or Unicode normalization takes two names for the same."""
    return _folded(one) == _folded(other)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
