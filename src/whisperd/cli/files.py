"""Output files of commands: never written in part, never replacing an existing file without permission."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from whisperd.cli.parser import usage_error
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "EXTENSIONS",
    "OF_JSON",
    "STANDARD_INPUT",
    "LineFile",
    "check_target",
    "format_of",
    "make_folder",
    "matching",
    "targets_in",
    "title_of",
    "write_file",
]

STANDARD_INPUT = "-"
"""The name of standard input on the command line."""
EXTENSIONS = {
    "text": "txt",
    "json": "json",
    "verbose_json": "json",
    "srt": "srt",
    "vtt": "vtt",
    "tsv": "tsv",
    "lrc": "lrc",
    "md": "md",
}
"""File name extensions by format."""
OF_JSON = ("json", "verbose_json")
"""Formats whose content is part of the document that `--json` prints."""


def format_of(target: str | None, *, otherwise: str | None = None) -> str:
    """Return the format for a file name; text if it has no extension.

    An unknown extension is `otherwise`, or without that raises `usage.invalid`.
    """
    extension = os.path.splitext(target or "")[1].lower().removeprefix(".")
    if not extension:
        return "text"
    found = next((name for name, known in EXTENSIONS.items() if known == extension), otherwise)
    if found is None:
        known = ", ".join(f".{one}" for one in dict.fromkeys(EXTENSIONS.values()))
        fix = f"Use one of the extensions {known}, or pass the format, such as --format text"
        raise usage_error(f"No format has the file name extension .{extension}", fix)
    return found


def matching(names: Iterable[str], platform: str = sys.platform) -> list[str]:
    """Return the names; on Windows, where shells do not expand patterns, expand them."""
    if platform != "win32":
        return list(names)
    from glob import glob

    found = ([name] if os.path.lexists(name) else sorted(glob(name)) or [name] for name in names)
    return [name for files in found for name in files]


def title_of(name: str) -> str:
    """Return what to call an input in messages."""
    return "standard input" if name == STANDARD_INPUT else name


def targets_in(folder: str, inputs: Sequence[str], formats: Sequence[str]) -> list[dict[str, str]]:
    """Return the files in a folder for each input, by format. Raises `usage.invalid` if two would collide."""
    sources: dict[str, tuple[str, str]] = {}  # by target: the input, and its description
    found: list[dict[str, str]] = []
    for name in inputs:
        stem = "stdin" if name == STANDARD_INPUT else os.path.splitext(os.path.basename(name))[0]
        found.append({one: os.path.join(folder, f"{stem}.{EXTENSIONS[one]}") for one in formats})
        for one, target in found[-1].items():
            source = title_of(name) if len(formats) == 1 else f"{title_of(name)} as {one}"
            if target in sources:
                other, other_source = sources[target]
                is_format = other == name and len(formats) > 1
                raise usage_error(
                    f"The texts of {other_source} and {source} would both be written to {target}",
                    "Omit one of the formats" if is_format else "Transcribe them into different folders",
                )
            sources[target] = name, source
    return found


def make_folder(folder: str) -> None:
    """Create a folder unless it exists. Raises `output.not_writable`."""
    try:
        os.makedirs(folder, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise WhisperdError(
            "output.not_writable",
            f"{folder} cannot be used as a folder: it, or a parent, is a file.",
            "Pass a folder; it is created if it does not exist.",
        ) from error
    except OSError as error:
        raise _not_writable(folder, error.strerror or str(error)) from error


def check_target(target: str, inputs: Iterable[str], *, overwrite: bool, is_replaced: bool = True) -> None:
    """Check that a file may and can be written, before hours are spent on its content.

    An existing file is replaced by a new one in its folder (`is_replaced`), unless it is a `LineFile`. Raises
    `output.exists`, `output.is_input` and `output.not_writable`.
    """
    status: os.stat_result | None = None
    try:
        status = os.stat(target)
    except OSError as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise _not_writable(target, error.strerror or str(error)) from None
    folder = os.path.dirname(os.path.realpath(target))
    if status is not None:
        if stat.S_ISDIR(status.st_mode):
            raise _not_writable(target, "it is a folder")
        if not stat.S_ISREG(status.st_mode):
            return  # a device or a pipe
        if any(_is_same(status, name) for name in inputs):
            raise WhisperdError(
                "output.is_input",
                f"{target} is the recording itself.",
                "Pass another file with -o.",
            )
        if not overwrite:
            raise WhisperdError(
                "output.exists",
                f"{target} already exists.",
                "Add --overwrite to replace it, or pass another path.",
            )
    elif not os.path.isdir(folder):
        raise _not_writable(target, f"the folder {folder} does not exist")
    if (status is None or is_replaced) and not os.access(folder, os.W_OK | os.X_OK):
        raise _not_writable(target, "its folder is not writable")


class LineFile:
    """A file that is written line by line. All methods raise `output.not_writable` if that fails."""

    def __init__(self, target: str) -> None:
        self._target = target
        with self._errors_translated():
            self._file = open(target, "w", encoding="utf-8")  # noqa: SIM115 - `close` closes it

    def write(self, text: str) -> None:
        """Append text."""
        with self._errors_translated():
            self._file.write(text)

    def flush(self) -> None:
        """Write buffered text to the file."""
        with self._errors_translated():
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with self._errors_translated():
            self._file.close()

    @contextmanager
    def _errors_translated(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise  # the reader has closed the pipe, as with standard output
        except OSError as error:
            raise _not_writable(self._target, error.strerror or str(error)) from error


def write_file(target: str, content: str) -> None:
    """Write the whole file or none of it. Raises `output.not_writable`."""
    try:
        if os.path.exists(target) and not os.path.isfile(target):
            with open(target, "w", encoding="utf-8") as device:
                device.write(content)
        else:
            _replace(os.path.realpath(target), content)
    except OSError as error:
        raise _not_writable(target, error.strerror or str(error)) from error


def _replace(target: str, content: str) -> None:
    part = os.path.join(os.path.dirname(target), f".whisperctl-{os.urandom(4).hex()}.part")
    # Even while it is written, it is no less private than the file that it replaces.
    mode = 0o600 if os.path.exists(target) else 0o666
    file = open(  # noqa: SIM115 - if this fails, nothing is removed
        part, "x", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, mode)
    )
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if os.path.exists(target):
                # By descriptor: in a shared folder, the name may by now be a link to another file of ours.
                written = file.fileno() if os.chmod in os.supports_fd else part
                os.chmod(written, stat.S_IMODE(os.stat(target).st_mode))
        os.replace(part, target)
    except BaseException:
        os.unlink(part)
        raise


def _is_same(status: os.stat_result, name: str) -> bool:
    try:
        return name != STANDARD_INPUT and os.path.samestat(status, os.stat(name))
    except OSError:
        return False


def _not_writable(target: str, reason: str) -> WhisperdError:
    return WhisperdError(
        "output.not_writable",
        f"{target} cannot be written: {reason}.",
        "Check the folder, its permissions and the space on its disk.",
    )
