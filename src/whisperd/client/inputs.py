"""Conversion of a client's arguments to parameters of the wire protocol."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from whisperd._version import PROTOCOL, __version__
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import IO, Any, Protocol, TypeGuard

    class Readable(Protocol):
        """A binary file such as `open(path, "rb")` returns, or anything with the same `read`."""

        def read(self, count: int, /) -> bytes:
            """Read at most `count` bytes; none at the end."""

    Path = str | os.PathLike[str]
    Input = Path | bytes | bytearray | memoryview | Readable
    """A path, the bytes of a media file, or an open binary file."""

__all__ = [
    "absolute",
    "hello_params",
    "input_params",
    "is_path",
    "model_name",
    "option_params",
    "path_params",
    "pieces",
    "runtime_params",
    "watch_params",
]

UPLOAD_PIECE_BYTES = 1024 * 1024

# Paths that mean something else in each process.
_PER_PROCESS = ("/dev/stdin", "/dev/fd/", "/proc/self/")


def hello_params(profile: str | None) -> dict[str, Any]:
    """Return the parameters of the greeting on every connection.

    Without a profile, the one named by `WHISPERD_PROFILE` applies, if set; an empty name means none.
    """
    params: dict[str, Any] = {"client": "whisperd-python", "version": __version__, "protocol": PROTOCOL}
    named = os.environ.get("WHISPERD_PROFILE") if profile is None else profile
    return {**params, "profile": named} if named else params


def is_path(source: Input) -> TypeGuard[Path]:
    """Whether the daemon can open the source itself: a path, but not of a pipe.

    A named pipe, `/dev/stdin` or what a shell substitutes for `<(command)` must be read here and sent.
    """
    if not isinstance(source, str | os.PathLike):
        return False
    path = absolute(source)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return True  # the daemon reports what is wrong with it
    return not (stat.S_ISFIFO(mode) or (path.startswith(_PER_PROCESS) and not stat.S_ISCHR(mode)))


def input_params(path: Path) -> dict[str, Any]:
    """Return the parameters for a file to transcribe. Raises `audio.not_found` if it cannot be a file."""
    if not os.fspath(path):
        raise WhisperdError("audio.not_found", "The name of the file is empty.", "Pass the name of a file.")
    name = absolute(path)
    if "://" in (given := os.fspath(path)) and not os.path.lexists(name):
        raise WhisperdError(
            "audio.not_found",
            f"{given} is a URL, not the name of a file.",
            "Download it first, such as with `curl -sL URL | whisperctl transcribe -`.",
        )
    return path_params(name)


def pieces(source: Input) -> Iterator[bytes]:
    """Yield the source in pieces that fit into a message. Raises `audio.not_readable`."""
    if isinstance(source, str | os.PathLike):
        with _open(source) as file:
            yield from pieces(file)
    elif isinstance(source, bytes | bytearray | memoryview):
        view = memoryview(source).cast("B")
        for offset in range(0, len(view), UPLOAD_PIECE_BYTES):
            yield bytes(view[offset : offset + UPLOAD_PIECE_BYTES])
    elif not hasattr(source, "read"):
        kind = type(source).__name__
        raise TypeError(f"the input must be a path, bytes or an open file, not {kind}")
    else:
        while piece := source.read(UPLOAD_PIECE_BYTES):
            if not isinstance(piece, bytes):
                raise TypeError("a file to transcribe must be opened in binary mode")
            yield piece


def absolute(path: Path) -> str:
    """Return the absolute path: the daemon has another working directory."""
    return os.path.abspath(os.fspath(path))


def option_params(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return job options as parameters, without those left at their default."""
    params = {name: value for name, value in options.items() if value is not None}
    if "model" in params:
        params["model"] = model_name(params["model"])
    if isinstance(params.get("temperature"), int | float):
        params["temperature"] = [params["temperature"]]
    return params


def runtime_params(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a runtime's fields as parameters."""
    params = dict(fields)
    if "model" in params:
        params["model"] = model_name(params["model"])
    if isinstance(params.get("device_index"), int):
        params["device_index"] = [params["device_index"]]
    return params


def path_params(path: Path) -> dict[str, Any]:
    """Return the parameter for a path: absolute, and as bytes if it is not UTF-8."""
    path = absolute(path)
    try:
        path.encode()
    except UnicodeEncodeError:
        return {"path_bytes": os.fsencode(path)}
    return {"path": path}


def watch_params(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a watch's fields as parameters."""
    params = dict(fields)
    for name in ("output_dir", "move_to"):
        if params.get(name) is not None:
            params[name] = absolute(params[name])
    for name in ("include", "exclude", "outputs", "command"):
        if name in params:
            params[name] = list(params[name])
    if "options" in params:
        params["options"] = option_params(params["options"])
    return params


def model_name(name: str | os.PathLike[str], *, is_in_store: bool = False) -> str:
    """Return a model's name, which for a folder or a file is its absolute path.

    As in the store, a string is a path if it begins with `.` or `~`, or is an absolute path. Here it is also
    a path if such a file ending in `.bin` exists, or such a nested folder with a model: `models/mine`.
    `is_in_store`, where only a model of the store can be meant, skips that check.
    """
    if not isinstance(name, str):
        return absolute(name)
    if name in (".", "..") or name.startswith((f".{os.sep}", f"..{os.sep}", "./", "../", "~")):
        return absolute(os.path.expanduser(name))
    weights = name
    if not name.endswith(".bin"):  # a folder without a model must not hide a model of that name
        weights = os.path.join(name, "model.bin") if os.path.dirname(name) else ""
    return absolute(name) if os.path.isfile(weights) and not is_in_store else name


def _open(path: Path) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise WhisperdError(
            "audio.not_readable",
            f"{os.fspath(path)} cannot be read: {error.strerror or error}.",
            "Check the permissions of the file and its parent folders.",
        ) from error
