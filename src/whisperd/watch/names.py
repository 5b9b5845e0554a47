"""Names: which files of a folder are recordings, and what their outputs are called. Pure."""

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
    "left_alone",
    "may_be_source",
    "output_name",
    "output_names",
]

DEFAULT_TEMPLATE: Final = "{stem}.{lang}.{ext}"
PLACEHOLDERS: Final = frozenset({"stem", "name", "lang", "ext", "format"})
ERROR_FORMAT: Final = "error"
"""Stands for the file that says why there is no text."""
MAX_NAME_BYTES: Final = 255
"""What nearly every file system takes."""

MEDIA_EXTENSIONS: Final = frozenset(
    """
    3ga 3gp aac ac3 aif aifc aiff alac amr ape asf au avi awb caf dss dts eac3 f4v flac flv gsm m1v m2ts
    m2v m4a m4b m4v mka mkv mov mp2 mp3 mp4 mpa mpeg mpg mpga mts mxf oga ogg ogm ogv opus qt ra rm rmvb
    spx tta vob voc w64 wav weba webm wma wmv wv
    """.split()  # noqa: SIM905
)
"""What is transcribed where nobody says what is to be."""

_SHARED_EXTENSIONS: Final = frozenset(["dts", "mts", "ts"])
"""What files of source code are called as well: TypeScript, and descriptions of devices."""

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
"""Bins, snapshots and small versions of videos, as Windows and the storages of networks have them."""

_TEXT_EXTENSIONS: Final = frozenset(one.extension for one in FORMATS.values())
"""What is written, by us or by others, and never a recording: also where a pattern fits."""


def may_be_source(name: str) -> bool:
    """Whether a name that recordings have may be that of source code: then its content tells."""
    return os.path.splitext(name)[1][1:].casefold() in _SHARED_EXTENSIONS


def is_hidden(name: str) -> bool:
    """Whether a file or folder is somebody's own affair: dot files, `~$lock`, `backup~`."""
    return name.startswith((".", "~")) or name.endswith("~")


def _is_nobodys(folder: str) -> bool:
    """Whether a folder holds what is thrown away, or not whole yet: Safari loads into `talk.mp3.download`."""
    name = folder.casefold()
    downloaded = name.removesuffix(".download")
    return is_hidden(folder) or name in _FOLDERS_OF_SYSTEMS or (downloaded != name and _is_media(downloaded))


def is_partial(name: str) -> bool:
    """Whether a name says that the file is still being made: `talk.mp3.part`, `talk.temp.mp4`."""
    words = name.casefold().split(".")[1:]
    return (
        is_hidden(name)
        or any(word in _PARTIAL_EXTENSIONS for word in words[-2:])
        or name.startswith("Unconfirmed ")
    )


class Place(NamedTuple):
    """A folder, by whatever name it goes."""

    path: str
    real: str
    """Its path without links."""
    inode: str | None = None
    """None if there is none, or it cannot be read."""


class Selection(NamedTuple):
    """What of a folder is to be transcribed. Paths are those within the folder."""

    recursive: bool = True
    include: tuple[str, ...] = ()
    """Patterns; without any, every audio and video file is."""
    exclude: tuple[str, ...] = ()
    """Patterns of files, and of folders that are not looked into."""
    left_alone: frozenset[str] = frozenset()
    """Folders that are somebody else's affair, also where a link leads there: their real paths among them."""
    inodes_left_alone: frozenset[str] = frozenset()

    def wants(self, path: str) -> bool:
        """Whether a file is to be transcribed, by its name."""
        name = os.path.basename(path)
        if is_partial(name) or _is_text(name) or any(matches(path, glob) for glob in self.exclude):
            return False
        if self.include:
            return any(matches(path, glob) for glob in self.include)
        return _is_media(name)

    def enters(self, folder: str) -> bool:
        """Whether to look into a folder, if its parent is looked into."""
        return (
            self.recursive
            and folder not in self.left_alone
            and not _is_nobodys(os.path.basename(folder))
            and not any(matches(folder, glob) for glob in self.exclude)
        )

    def reaches(self, path: str) -> bool:
        """Whether the folder in which something lies is looked into."""
        folder = os.path.dirname(path)
        while folder:
            if not self.enters(folder):
                return False
            folder = os.path.dirname(folder)
        return True

    def takes(self, path: str) -> bool:
        """Whether a file is to be transcribed, by its name and by where it lies."""
        return self.reaches(path) and self.wants(path)


def left_alone(root: Place, others: Iterable[Place]) -> tuple[frozenset[str], frozenset[str]]:
    """These folders as a `Selection` of what is in `root` has them: their names, and their inodes."""
    others = list(others)
    here, really_here = (os.path.join(path, "") for path in (root.path, root.real))
    names = {path.removeprefix(here).removeprefix(really_here) for one in others for path in one[:2]}
    return frozenset(names), frozenset(one.inode for one in others if one.inode is not None)


def check_template(template: str, formats: Sequence[str]) -> str | None:
    """What is wrong with a template of names for these formats, in a sentence; None if nothing is."""
    try:
        # `{stem:.3}` would give many files one name, and `{stem:999999999}` one that fills the memory.
        used = {
            "?" if form or conversion else name
            for _, name, form, conversion in string.Formatter().parse(template)
            if name is not None
        }
    except ValueError:  # a brace too many
        used = {"?"}
    if used - PLACEHOLDERS:
        return f"{template!r} may only hold {', '.join(f'{{{name}}}' for name in sorted(PLACEHOLDERS))}."
    if "/" in template or os.sep in template or "\0" in template:
        return f"{template!r} is to be a name, without folders."
    if not used & {"stem", "name"}:
        return f"{template!r} would give all files one name; it needs {{stem}} or {{name}}."
    names = [_filled(template, "a.wav", "en", one) for one in formats]
    if len(set(names)) < len(names):
        return f"{template!r} would give two formats one name; add {{format}} or {{ext}}."
    if any(_is_media(name) for name in names):
        return f"{template!r} would make texts look like recordings."
    return None


def output_name(
    template: str, source: str, language: str, format_name: str, max_bytes: int = MAX_NAME_BYTES
) -> str:
    """The name of an output of a source with this name, no longer than `max_bytes`.

    One that would be longer loses the end of what the source is called, and gets a hash of it instead.
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
    """The names that an output may have, the best first: another recording may have the same stem."""
    stem, extension = os.path.splitext(source)
    yield output_name(template, source, language, format_name, max_bytes)
    yield output_name(template.replace("{stem}", "{name}"), source, language, format_name, max_bytes)
    for number in count(2):
        yield output_name(template, f"{stem} ({number}){extension}", language, format_name, max_bytes)


def is_same_name(one: str, other: str) -> bool:
    """Whether a file system that does not tell case, or ways to write an accent, takes them for one."""
    return _folded(one) == _folded(other)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
