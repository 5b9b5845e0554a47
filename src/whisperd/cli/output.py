"""Printing: answers, tables, errors and progress; as text for people or as one JSON document."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO, Any

__all__ = [
    "Progress",
    "columns",
    "discard_output",
    "duration",
    "prepare_streams",
    "print_error",
    "print_json",
    "print_line",
    "print_table",
    "printable",
    "say",
    "size",
]

USUAL_COLUMNS = 80
COLUMNS_FOR_A_BAR = 60
BAR_CELLS = 20


def prepare_streams() -> None:
    """See to it that printing never fails for want of a stream, or for a character that it cannot show."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for good
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        # In JSON, this writes a lone surrogate (a byte of a file name that is not UTF-8) as JSON does.
        reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Nobody can take what is still to be written: let it go, so that the interpreter's end is silent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    print(_json(document, indent=2))


def print_line(document: object) -> None:
    """One line of JSON on standard output, at once."""
    print(_json(document), flush=True)


def print_error(error: WhisperdError, *, as_json: bool, subject: str | None = None) -> None:
    """What went wrong and what to do next."""
    if as_json:
        print_json({"error": error.to_wire()})
        return
    prefix = f"{subject}: " if subject else ""
    say(f"whisperctl: {printable(prefix + error.message)}")
    if error.fix:
        say(f"  {printable(error.fix)}")


def say(line: str) -> None:
    """A line on standard error. That nobody listens there is no reason to fail, or to end well."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they need to be."""
    cells = [
        list(header),
        *([("-" if cell is None else printable(str(cell))) for cell in row] for row in rows),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def printable(text: str) -> str:
    """Text on one line that does nothing to a terminal, whatever a file name may hold."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def size(size_bytes: float | None) -> str:
    """Bytes as a person reads them: `145 MB`."""
    if size_bytes is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return (
                f"{size_bytes:.0f} {unit}" if size_bytes >= 10 or unit == "B" else f"{size_bytes:.1f} {unit}"
            )
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them: `1:02:03`."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def columns(stream: IO[str]) -> int:
    """How wide a stream's terminal is, or would be. `$COLUMNS` has the last word, as everywhere."""
    explicit = os.environ.get("COLUMNS", "")
    if explicit.isdecimal() and int(explicit):
        return int(explicit)
    try:
        return os.get_terminal_size(stream.fileno()).columns or USUAL_COLUMNS
    except (OSError, ValueError, AttributeError):
        return USUAL_COLUMNS


class Progress:
    """A line on a terminal that is written again and again; nothing at all in a pipe.

    With `verbose`, a pipe gets a line for each new tenth instead.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty() and not quiet
        self._is_log = verbose and not quiet and not self._is_terminal
        self._shown = ""
        self._logged: tuple[str, int] | None = None

    @property
    def is_shown(self) -> bool:
        """Whether anybody gets to see it."""
        return self._is_terminal or self._is_log

    def show(self, what: str, percent: float | None, details: str = "") -> None:
        """Say how far something is."""
        if self._is_log:
            tenth = -1 if percent is None else int(percent // 10)
            if self._logged != (what, tenth):
                self._logged = (what, tenth)
                self._write(_line(what, percent, details) + "\n")
        elif self._is_terminal:
            room = columns(self._stream) - 1  # in the last column, some terminals go on to the next line
            line = _line(what, percent, details, bar=room >= COLUMNS_FOR_A_BAR)[:room]
            self._write("\r" + line.ljust(min(len(self._shown), room)))
            self._shown = line

    def clear(self) -> None:
        """Take the line away before something else is printed."""
        if self._shown:
            self._write("\r" + " " * len(self._shown) + "\r")
            self._shown = ""

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._is_terminal = self._is_log = False  # the terminal is gone


def _line(what: str, percent: float | None, details: str, *, bar: bool = False) -> str:
    if percent is None:
        return f"{what} ... {details}".rstrip()
    percent = min(percent, 100)
    filled = round(percent * BAR_CELLS / 100)
    drawn = f" [{'#' * filled}{'.' * (BAR_CELLS - filled)}]" if bar else ""
    return f"{what}{drawn} {percent:3.0f} % {details}".rstrip()


def _json(document: object, indent: int | None = None) -> str:
    import json

    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(document, indent=indent, ensure_ascii=not is_unicode, default=_plain)


def _plain(value: object) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    raise TypeError(type(value).__name__)
