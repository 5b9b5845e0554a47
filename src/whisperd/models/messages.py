"""Messages between the daemon and its children that fetch and convert models, each a line of JSON."""

from __future__ import annotations

import msgspec

from whisperd.models.catalogue import ModelFile

__all__ = [
    "Cached",
    "CachedFile",
    "ConvertLine",
    "ConvertRequest",
    "Converted",
    "Failed",
    "FetchRequest",
    "Finished",
    "HubSettings",
    "Line",
    "Listed",
    "NotConverted",
    "Read",
    "Received",
    "Started",
    "partial_name",
]


class HubSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Timeouts and retries for the hub."""

    connect_timeout_s: float = 8.0
    """How long to wait for the first answer."""
    read_timeout_s: float = 10.0
    """After this long without a byte, the download resumes over a new connection."""
    stall_timeout_s: float = 60.0
    """After this long without a byte, the download fails."""
    attempts: int = 5
    """After this many failed attempts in a row without a byte, the download fails."""
    retry_delay_s: float = 0.5
    """The delay before the first retry; doubled each time."""


class FetchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request to the child that fetches, its only argument."""

    repo: str
    revision: str | None = None
    files: tuple[ModelFile, ...] = ()
    """What is known about the files to fetch."""
    names: tuple[str, ...] = ()
    """The files to fetch, if they exist."""
    folder: str | None = None
    """The download folder; None to only search the user's existing cache."""
    settings: HubSettings = HubSettings()


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The child has loaded its modules and now uses the network."""


class Listed(msgspec.Struct, frozen=True, kw_only=True, tag="listed"):
    """The hub listed the files."""

    commit: str
    files: tuple[ModelFile, ...]


class Received(msgspec.Struct, frozen=True, kw_only=True, tag="received"):
    """The number of bytes of a file that are in the download folder, under the file's hash."""

    file: str
    done: int


class CachedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file in the user's cache, with the hash under which the cache stores it."""

    file: ModelFile
    path: str


class Cached(msgspec.Struct, frozen=True, kw_only=True, tag="cached"):
    """The files of a model in the user's cache; empty if there are none."""

    commit: str | None
    files: tuple[CachedFile, ...]


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """All files are downloaded."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The request failed; the fields of a `WhisperdError`."""

    code: str
    message: str
    fix: str
    data: dict[str, str | int | None] = {}


Line = Started | Listed | Received | Cached | Finished | Failed


class ConvertRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request to the child that converts a model, its only argument."""

    convert: str
    """The plugin's `module:function`."""
    bundle: str | None
    """The native bundle to have on the path."""
    source: str
    """The folder of the model."""
    target: str
    """The file to write."""
    precision: str


class Read(msgspec.Struct, frozen=True, kw_only=True, tag="read"):
    """The number of bytes of the source that are converted."""

    done: int


class Converted(msgspec.Struct, frozen=True, tag="converted"):
    """The file is complete."""


class NotConverted(msgspec.Struct, frozen=True, kw_only=True, tag="not_converted"):
    """The conversion failed; `errno` is set if the system reported an error."""

    reason: str
    errno: int | None = None


ConvertLine = Read | Converted | NotConverted


def partial_name(file: ModelFile) -> str:
    """Return the file name of an unfinished download: its expected hash, so that resuming it is safe."""
    return f"{file.sha256 or file.git_sha1}.partial"
