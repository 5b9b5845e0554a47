"""The facts that the doctor gathers, and the findings that it makes of them. Values only."""

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
    """The result of one check."""

    name: str
    """What was checked."""
    status: Status
    message: str
    fix: str | None = None
    """What to do next; None if all is well."""


class FolderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of whisperd, whether or not it exists yet."""

    role: FolderRole
    path: str
    exists: bool = True
    is_folder: bool = True
    writable: bool = True
    """Whether we can write to it; if it does not exist, whether we can create it."""
    mode: int | None = None
    """Its permissions; None if it does not exist, or not on POSIX."""
    owned: bool = True
    """Whether it belongs to this user."""
    foreign: str | None = None
    """A file in it that belongs to another user, as after `sudo`."""
    free_bytes: int | None = None
    device: int | None = None
    """Which disk it is on."""
    executable: bool = True
    """Whether programs and libraries on its disk can be executed."""
    error: str | None = None
    """Why it could not be inspected."""


class SocketFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The socket, as a client sees it."""

    path: str
    kind: Literal["none", "socket", "other"] = "none"
    mode: int | None = None
    folder_is_open: bool = False
    """Whether other users can replace it."""
    owned: bool = True
    """Whether the socket belongs to this user, and its folder to this user or root."""
    listening: bool = False
    locked: bool = False
    """Whether a daemon holds the lock file next to it."""


class BundleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A native bundle."""

    name: str
    version: str | None
    """The installed version; None if it is not installed."""
    needed: bool
    """Whether it would be used on this computer: true of the decoder's, and of one variant's."""
    damaged: tuple[str, ...] = ()
    """Files that differ from what was installed."""


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An installed model."""

    name: str
    damaged: tuple[str, ...] = ()


class RuntimeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A saved runtime of the daemon that gathers the facts."""

    name: str
    model: str
    default: bool
    enabled: bool
    problem: WhisperdError | None = None
    """Why it last failed."""


class Crash(msgspec.Struct, frozen=True, kw_only=True):
    """A crash that the log records."""

    time: str
    """`2026-01-31 12:00:00`, in local time."""
    part: CrashedPart
    how: str
    """Such as `signal SIGSEGV`."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the doctor gathers, except the socket."""

    version: str
    python: str
    settings_path: str
    settings_exist: bool
    settings_problem: WhisperdError | None = None
    folders: tuple[FolderFacts, ...] = ()
    database_exists: bool = False
    database_is_gone: bool = False
    """Whether the database file of the daemon that gathers the facts was deleted or replaced."""
    database_problem: WhisperdError | None = None
    set_aside: tuple[str, ...] = ()
    """Damaged databases that were moved aside."""
    has_pip: bool = True
    is_offline: bool = False
    plugin_problems: tuple[WhisperdError, ...] = ()
    """Why plugins were skipped."""
    variants: tuple[JudgedVariant, ...] = ()
    bundles: tuple[BundleFacts, ...] = ()
    left_over_bytes: int = 0
    """What native bundles of other versions of whisperd or Python take."""
    models: tuple[ModelFacts, ...] = ()
    models_problem: WhisperdError | None = None
    """Why they cannot be listed."""
    environment: Mapping[str, str] = {}
    """The variables that are relevant."""
    clashing: Mapping[str, tuple[str, ...]] = {}
    """By folder of the loader's search path: libraries in it that bundles contain as well."""
    hardware: Hardware = Hardware()
    runtimes: tuple[RuntimeFacts, ...] | None = None
    """None if a client gathers the facts."""
    crashes: tuple[Crash, ...] = ()
    log_problem: str | None = None
