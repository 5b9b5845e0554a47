"""Locates whisperd's files and folders. An environment variable can override each path.

Imports stay light here: the thin client needs only `socket_path`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "config_file",
    "database_file",
    "home",
    "log_file",
    "make_private_folder",
    "models_dir",
    "native_dir",
    "runtime_dir",
    "socket_path",
    "state_dir",
    "usual_socket_path",
    "whisperctl_for",
]

APP = "whisperd"

# The kernel's limits on the path of a Unix socket, less the closing zero byte.
MAX_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107


def socket_path(named: str | None = None) -> str:
    """Return `named`, else `$WHISPERD_SOCKET`, else the default path, the same in daemon and clients."""
    if explicit := named or os.environ.get("WHISPERD_SOCKET"):
        return os.path.abspath(explicit) if os.name == "posix" else explicit  # noqa: PTH100 - light
    return usual_socket_path()


def usual_socket_path() -> str:
    """Return the default path: `whisperd/daemon.sock` in the user's runtime directory.

    If there is no such directory, or its path is too long for a socket, a private folder in `/tmp` takes its
    place.
    """
    if os.name == "nt":
        return rf"\\.\pipe\whisperd-{os.environ.get('USERNAME', 'user')}"
    runtime = runtime_dir()
    path = f"{runtime}/{APP}/daemon.sock"
    if runtime is None or len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        return f"/tmp/{APP}-{os.getuid()}/daemon.sock"  # noqa: S108 - made 0700, and its owner is checked
    return path


def whisperctl_for(socket: str) -> str:
    """Return the start of a command line that reaches the daemon on this socket."""
    if socket == socket_path():
        return "whisperctl"
    from shlex import quote

    return f"whisperctl --socket {socket if os.name == 'nt' else quote(socket)}"


def runtime_dir() -> str | None:
    """Return the runtime directory of the user; None if there is none. Not for Windows."""
    explicit = os.environ.get("XDG_RUNTIME_DIR")
    if explicit and _is_own(explicit):  # after `su` or `sudo -u` it is another user's
        return os.path.normpath(explicit)  # WSL's ends with a slash, unlike that of its service manager
    if sys.platform == "darwin":
        try:
            return str(_folder_of_user("runtime"))
        except WhisperdError:
            return None
    usual = f"/run/user/{os.getuid()}"
    return usual if _is_own(usual) else None


def _is_own(folder: str) -> bool:
    """Whether a folder belongs to this user, who can write to it."""
    try:
        is_own = os.stat(folder).st_uid == os.getuid()  # noqa: PTH116 - light
        return is_own and os.access(folder, os.W_OK)
    except OSError:
        return False


def config_file() -> Path:
    """Return `$WHISPERD_CONFIG`, else `config.toml` in the user's configuration directory."""
    return _place("WHISPERD_CONFIG", "config", "config.toml")


def state_dir() -> Path:
    """Return `$WHISPERD_STATE_DIR`, else the user's state directory: database, logs, spooled uploads."""
    return _place("WHISPERD_STATE_DIR", "state", "")


def log_file() -> Path:
    """Return the path of the daemon's log, in the state directory."""
    return state_dir() / "daemon.log"


def database_file() -> Path:
    """Return the path of the database, in the state directory."""
    return state_dir() / f"{APP}.sqlite3"


def native_dir() -> Path:
    """Return `$WHISPERD_NATIVE_DIR`, else `native` in the user's local data directory."""
    return _place("WHISPERD_NATIVE_DIR", "data", "native")


def models_dir() -> Path:
    """Return `$WHISPERD_MODELS_DIR`, else `models` in the user's local data directory."""
    return _place("WHISPERD_MODELS_DIR", "data", "models")


def _place(variable: str, kind: str, name: str) -> Path:
    from pathlib import Path

    explicit = os.environ.get(variable)
    return Path(explicit) if explicit else _folder_of_user(kind, APP) / name


def home() -> Path:
    """Return the user's home folder. Raises `home.unknown`."""
    from pathlib import Path

    try:
        return Path.home()
    except RuntimeError:
        raise _homeless() from None


def make_private_folder(folder: str | os.PathLike[str]) -> None:
    """Create a folder and its missing parents, accessible to the user alone. Raises `OSError`.

    Folders that exist are left unchanged.
    """
    from pathlib import Path

    folder = Path(folder)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        make_private_folder(folder.parent)  # `parents=True` would create these by the umask
        folder.mkdir(mode=0o700, exist_ok=True)


def _folder_of_user(kind: str, app: str | None = None) -> Path:
    """Return one of the user's folders, or the folder of a program in it. Raises `home.unknown`."""
    import platformdirs

    try:
        folder: Path = getattr(platformdirs, f"user_{kind}_path")(app, appauthor=False)
    except RuntimeError:
        raise _homeless() from None
    if folder.parts[0] == "~":  # from older versions of platformdirs
        raise _homeless()
    return folder


def _homeless() -> WhisperdError:
    """Return `home.unknown`: for example in a container, under a user id without an account."""
    return WhisperdError(
        "home.unknown",
        "The home folder is unknown: HOME is not set, and the system has no account for this user id.",
        "Set HOME to a folder that this user can write to.",
    )
