"""What a client asks for, as it travels on the wire."""

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
        """What `open(path, "rb")` returns, and whatever else can be read like it."""

        def read(self, count: int, /) -> bytes:
            """At most so many bytes; none at the end."""

    Path = str | os.PathLike[str]
    Input = Path | bytes | bytearray | memoryview | Readable
    """A path, the bytes of a media file, or an open file of them."""

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

# What these name depends on the process that asks.
_OURS = ("/dev/stdin", "/dev/fd/", "/proc/self/")


def hello_params(profile: str | None) -> dict[str, Any]:
    """What a client says of itself first, on every connection.

    Without a profile it is that of the variable `WHISPERD_PROFILE`, if that is set; the empty name is none.
    """
    params: dict[str, Any] = {"client": "whisperd-python", "version": __version__, "protocol": PROTOCOL}
    named = os.environ.get("WHISPERD_PROFILE") if profile is None else profile
    return {**params, "profile": named} if named else params


def is_path(source: Input) -> TypeGuard[Path]:
    """Whether the daemon can open it by itself: a path, though not of a pipe.

    A named pipe, `/dev/stdin` or what a shell puts for `<(command)` has to be read here and sent.
    """
    if not isinstance(source, str | os.PathLike):
        return False
    path = absolute(source)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return True  # it is for the daemon to say what is wrong with it
    return not (stat.S_ISFIFO(mode) or (path.startswith(_OURS) and not stat.S_ISCHR(mode)))


def input_params(path: Path) -> dict[str, Any]:
    """A file to transcribe, as it travels. Raises `audio.not_found` of what cannot be one."""
    if not os.fspath(path):
        raise WhisperdError("audio.not_found", "The name of the file is empty.", "Name a file.")
    name = absolute(path)
    if "://" in (given := os.fspath(path)) and not os.path.lexists(name):
        raise WhisperdError(
            "audio.not_found",
            f"{given} is an address, and not the name of a file.",
            "Fetch it first, as with `curl -sL ADDRESS | whisperctl transcribe -`.",
        )
    return path_params(name)


def pieces(source: Input) -> Iterator[bytes]:
    """The source in pieces that fit in a message. Raises `audio.not_readable`."""
    if isinstance(source, str | os.PathLike):
        with _open(source) as file:
            yield from pieces(file)
    elif isinstance(source, bytes | bytearray | memoryview):
        view = memoryview(source).cast("B")
        for offset in range(0, len(view), UPLOAD_PIECE_BYTES):
            yield bytes(view[offset : offset + UPLOAD_PIECE_BYTES])
    elif not hasattr(source, "read"):
        kind = type(source).__name__
        raise TypeError(f"what is transcribed is a path, bytes or an open file, and not of the type {kind}")
    else:
        while piece := source.read(UPLOAD_PIECE_BYTES):
            if not isinstance(piece, bytes):
                raise TypeError("a file to transcribe has to be opened in binary mode")
            yield piece


def absolute(path: Path) -> str:
    """The same path from everywhere: the daemon has another working folder."""
    return os.path.abspath(os.fspath(path))


def option_params(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they travel: those at their default are left out."""
    params = {name: value for name, value in options.items() if value is not None}
    if "model" in params:
        params["model"] = model_name(params["model"])
    if isinstance(params.get("temperature"), int | float):
        params["temperature"] = [params["temperature"]]
    return params


def runtime_params(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A runtime's fields as they travel."""
    params = dict(fields)
    if "model" in params:
        params["model"] = model_name(params["model"])
    if isinstance(params.get("device_index"), int):
        params["device_index"] = [params["device_index"]]
    return params


def path_params(path: Path) -> dict[str, Any]:
    """The path of a file or folder as it travels: absolute, and as bytes where it is not UTF-8."""
    path = absolute(path)
    try:
        path.encode()
    except UnicodeEncodeError:
        return {"path_bytes": os.fsencode(path)}
    return {"path": path}


def watch_params(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is set of a watch, as it travels."""
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
    """A model's name, which for a folder or a file is its absolute path.

    As in the store, a text is a path if it begins with `.` or `~`, or is an absolute path; here also if there
    is such a file that ends in `.bin`, or a model in such a folder within another one: `models/mine`. That
    is not looked for where only a model of the store can be meant.
    """
    if not isinstance(name, str):
        return absolute(name)
    if name in (".", "..") or name.startswith((f".{os.sep}", f"..{os.sep}", "./", "../", "~")):
        return absolute(os.path.expanduser(name))
    weights = name
    if not name.endswith(".bin"):  # a folder without a model hides no model that is called so
        weights = os.path.join(name, "model.bin") if os.path.dirname(name) else ""
    return absolute(name) if os.path.isfile(weights) and not is_in_store else name


def _open(path: Path) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise WhisperdError(
            "audio.not_readable",
            f"{os.fspath(path)} cannot be read: {error.strerror or error}.",
            "Check the permissions of the file and of its folders.",
        ) from error
