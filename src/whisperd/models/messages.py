"""What the daemon says to its children that fetch and convert models, and they to it: a line of JSON each."""

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
    """How patient we are with the hub."""

    connect_timeout_s: float = 8.0
    """For the first answer."""
    read_timeout_s: float = 10.0
    """Without a byte before a connection is given up and the download taken up with a new one."""
    stall_timeout_s: float = 60.0
    """Without a byte before the download is given up."""
    attempts: int = 5
    """How often in a row a download is taken up again when no byte has come."""
    retry_delay_s: float = 0.5
    """Before the first new attempt; doubled each time."""


class FetchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the child is asked for, as its only argument."""

    repo: str
    revision: str | None = None
    files: tuple[ModelFile, ...] = ()
    """What is known of the files to get."""
    names: tuple[str, ...] = ()
    """The files to get, where they exist."""
    folder: str | None = None
    """Where downloads go; None: only look into the cache that the user already has."""
    settings: HubSettings = HubSettings()


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The child has loaded what it needs and turns to the network."""


class Listed(msgspec.Struct, frozen=True, kw_only=True, tag="listed"):
    """The hub told what there is."""

    commit: str
    files: tuple[ModelFile, ...]


class Received(msgspec.Struct, frozen=True, kw_only=True, tag="received"):
    """So much of a file lies in the download folder, under the file's hash."""

    file: str
    done: int


class CachedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file in the user's cache, with the hash that the cache keeps it under."""

    file: ModelFile
    path: str


class Cached(msgspec.Struct, frozen=True, kw_only=True, tag="cached"):
    """What the user's cache holds of a model; no files where it holds nothing."""

    commit: str | None
    files: tuple[CachedFile, ...]


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """All the files are there."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """It did not work; the fields of a `WhisperdError`."""

    code: str
    message: str
    fix: str
    data: dict[str, str | int | None] = {}


Line = Started | Listed | Received | Cached | Finished | Failed


class ConvertRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the child that converts a model is asked for, as its only argument."""

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
    """So many bytes of the source were converted."""

    done: int


class Converted(msgspec.Struct, frozen=True, tag="converted"):
    """The file is whole."""


class NotConverted(msgspec.Struct, frozen=True, kw_only=True, tag="not_converted"):
    """It did not work; `errno` says what the system refused, if it did."""

    reason: str
    errno: int | None = None


ConvertLine = Read | Converted | NotConverted


def partial_name(file: ModelFile) -> str:
    """The name of an unfinished download: the hash that it is to have, so that taking it up is safe."""
    return f"{file.sha256 or file.git_sha1}.partial"
