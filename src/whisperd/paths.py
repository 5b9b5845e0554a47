"""Where the program keeps its things. Every place can be moved by an environment variable.

Imports stay light here: the thin client needs `socket_path` and nothing else.
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
    "socket_path",
    "state_dir",
    "usual_socket_path",
    "whisperctl_for",
]

APP = "whisperd"

# The kernel's limits on the path of a Unix socket, less the closing zero byte.
MAX_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107


def socket_path(named: str | None = None) -> str:
    """The path that is named, else `$WHISPERD_SOCKET`, else the usual one. Daemon and clients come to
    the same answer.
    """
    if explicit := named or os.environ.get("WHISPERD_SOCKET"):
        return os.path.abspath(explicit) if os.name == "posix" else explicit  # noqa: PTH100 - light
    return usual_socket_path()


def usual_socket_path() -> str:
    """`whisperd/daemon.sock` in the user's runtime directory.

    Where there is no such directory, or its path is too long for a socket, a folder of the user's
    own in `/tmp` takes its place.
    """
    if os.name == "nt":
        return rf"\\.\pipe\whisperd-{os.environ.get('USERNAME', 'user')}"
    runtime = _runtime_dir()
    path = f"{runtime}/{APP}/daemon.sock"
    if runtime is None or len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        return f"/tmp/{APP}-{os.getuid()}/daemon.sock"  # noqa: S108 - made 0700, and its owner is checked
    return path


def whisperctl_for(socket: str) -> str:
    """How a command begins that is to reach the daemon on this socket, wherever the usual one is."""
    if socket == socket_path():
        return "whisperctl"
    from shlex import quote

    return f"whisperctl --socket {socket if os.name == 'nt' else quote(socket)}"


def _runtime_dir() -> str | None:
    explicit = os.environ.get("XDG_RUNTIME_DIR")
    if explicit and os.access(explicit, os.W_OK):  # after `sudo -u` it is somebody else's
        return explicit
    if sys.platform == "darwin":
        try:
            return str(_folder_of_user("runtime"))
        except WhisperdError:
            return None
    usual = f"/run/user/{os.getuid()}"
    return usual if os.access(usual, os.W_OK) else None


def config_file() -> Path:
    """`$WHISPERD_CONFIG`, else `config.toml` in the user's configuration directory."""
    return _place("WHISPERD_CONFIG", "config", "config.toml")


def state_dir() -> Path:
    """`$WHISPERD_STATE_DIR`, else the user's state directory: data base, logs, spooled uploads."""
    return _place("WHISPERD_STATE_DIR", "state", "")


def log_file() -> Path:
    """The daemon's log, in the state directory."""
    return state_dir() / "daemon.log"


def database_file() -> Path:
    """The data base, in the state directory."""
    return state_dir() / f"{APP}.sqlite3"


def native_dir() -> Path:
    """`$WHISPERD_NATIVE_DIR`, else `native` in the user's local data directory."""
    return _place("WHISPERD_NATIVE_DIR", "data", "native")


def models_dir() -> Path:
    """`$WHISPERD_MODELS_DIR`, else `models` in the user's local data directory."""
    return _place("WHISPERD_MODELS_DIR", "data", "models")


def _place(variable: str, kind: str, name: str) -> Path:
    from pathlib import Path

    explicit = os.environ.get(variable)
    return Path(explicit) if explicit else _folder_of_user(kind, APP) / name


def home() -> Path:
    """The user's home folder. Raises `home.unknown`."""
    from pathlib import Path

    try:
        return Path.home()
    except RuntimeError:
        raise _homeless() from None


def make_private_folder(folder: str | os.PathLike[str]) -> None:
    """Have a folder; it is the user's alone, as are those above it that are missing. Raises `OSError`.

    What is there already stays as it is.
    """
    from pathlib import Path

    folder = Path(folder)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        make_private_folder(folder.parent)  # `parents=True` would leave these to the umask
        folder.mkdir(mode=0o700, exist_ok=True)


def _folder_of_user(kind: str, app: str | None = None) -> Path:
    """One of the user's folders, or that of a program in it. Raises `home.unknown`."""
    import platformdirs

    try:
        folder: Path = getattr(platformdirs, f"user_{kind}_path")(app, appauthor=False)
    except RuntimeError:
        raise _homeless() from None
    if folder.parts[0] == "~":  # as older versions of it say the same
        raise _homeless()
    return folder


def _homeless() -> WhisperdError:
    """As in a container, under a number that no user has."""
    return WhisperdError(
        "home.unknown",
        "The home folder is not known: HOME is not set, and the system knows no user of this number.",
        "Set HOME to a folder that this user can write to.",
    )
