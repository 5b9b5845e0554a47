"""What the doctor sees, and what it says of it. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from whisperd.hardware import Hardware
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import JudgedVariant

__all__ = [
    "BundleFacts",
    "Crash",
    "Facts",
    "Finding",
    "FolderFacts",
    "FolderRole",
    "ModelFacts",
    "RuntimeFacts",
    "SocketFacts",
    "Status",
]

Status = Literal["ok", "warning", "broken"]
FolderRole = Literal["settings", "state", "natives", "models"]
CrashedPart = Literal["daemon", "worker", "decoder", "mistake"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the page."""

    name: str
    """What was looked at."""
    status: Status
    message: str
    fix: str | None = None
    """What to do next; None where all is well."""


class FolderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of whisperd's, there or still to be made."""

    role: FolderRole
    path: str
    exists: bool = True
    is_folder: bool = True
    writable: bool = True
    """Whether we may write there; of one that is not there, whether we may make it."""
    mode: int | None = None
    """Its permissions; None where there are none of the kind, or no folder."""
    owned: bool = True
    """Whether it is ours."""
    foreign: str | None = None
    """A file in it that belongs to somebody else, as after `sudo`."""
    free_bytes: int | None = None
    device: int | None = None
    """What disk it is on."""
    executable: bool = True
    """Whether programs and libraries may be run from its disk."""
    error: str | None = None
    """Why it could not be looked at."""


class SocketFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The socket, as a client finds it."""

    path: str
    kind: Literal["none", "socket", "other"] = "none"
    mode: int | None = None
    folder_is_open: bool = False
    """Whether others can put something else in its place."""
    owned: bool = True
    """Whether socket and folder are ours."""
    listening: bool = False
    locked: bool = False
    """Whether a daemon holds the lock beside it."""


class BundleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A native bundle."""

    name: str
    version: str | None
    """What is installed; None for nothing."""
    needed: bool
    """Whether it would be used on this computer: the decoder's, and that of one variant."""
    damaged: tuple[str, ...] = ()
    """Files that are not as they were installed."""


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An installed model."""

    name: str
    damaged: tuple[str, ...] = ()


class RuntimeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A saved runtime of the daemon that looks."""

    name: str
    model: str
    default: bool
    enabled: bool
    problem: WhisperdError | None = None
    """Why it failed the last time."""


class Crash(msgspec.Struct, frozen=True, kw_only=True):
    """Something ended that was not to, by the log."""

    time: str
    """`2026-01-31 12:00:00`, by the clock of this computer."""
    part: CrashedPart
    how: str
    """Such as `signal SIGSEGV`."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the doctor sees, but for the socket."""

    version: str
    python: str
    settings_path: str
    settings_exist: bool
    settings_problem: WhisperdError | None = None
    folders: tuple[FolderFacts, ...] = ()
    database_exists: bool = False
    database_is_gone: bool = False
    """Whether the daemon that looks has lost its own."""
    database_problem: WhisperdError | None = None
    set_aside: tuple[str, ...] = ()
    """Damaged data bases that were kept."""
    has_pip: bool = True
    is_offline: bool = False
    plugin_problems: tuple[WhisperdError, ...] = ()
    """Why plugins were passed over."""
    variants: tuple[JudgedVariant, ...] = ()
    bundles: tuple[BundleFacts, ...] = ()
    models: tuple[ModelFacts, ...] = ()
    models_problem: WhisperdError | None = None
    """Why they cannot be listed."""
    environment: Mapping[str, str] = {}
    """Those variables that matter."""
    clashing: Mapping[str, tuple[str, ...]] = {}
    """By folder of the loader's path, libraries in it that a bundle has as well."""
    hardware: Hardware = Hardware()
    runtimes: tuple[RuntimeFacts, ...] | None = None
    """None where no daemon looks."""
    crashes: tuple[Crash, ...] = ()
    log_problem: str | None = None
