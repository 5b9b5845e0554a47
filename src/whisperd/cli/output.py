"""Printing: answers, tables, errors and progress; as text for people or as one JSON document."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from whisperd.rpc.errors import WhisperdError, sendable
from whisperd.text_width import text_width

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import IO, Any, Literal

    Map = dict[str, Any]

__all__ = [
    "Draft",
    "Progress",
    "Repainted",
    "ago",
    "columns",
    "counted",
    "discard_output",
    "duration",
    "facts",
    "in_words",
    "local_time",
    "prepare_streams",
    "print_error",
    "print_json",
    "print_line",
    "print_notice",
    "print_problem",
    "print_table",
    "printable",
    "shortened",
    "table",
    "wrapped",
]

USUAL_COLUMNS = 80
USUAL_LINES = 24
LEAST_CELLS = 6
"""The narrowest that a flexible column gets."""
MAX_DIGITS = 9
"""The most digits of a width: enough for any line, while Python refuses to parse thousands of them."""
BAR_CELLS = 20
LEAST_BAR_CELLS = 5
"""A shorter bar shows no more than the percentage."""


def prepare_streams() -> None:
    """Make sure that printing never fails because of a missing stream or an unencodable character."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - stays open
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Discard pending output that cannot be written, so that the interpreter exits silently."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def print_json(document: object) -> None:
    """Print one JSON document to standard output."""
    print(_json(document, indent=2))


def print_line(document: object) -> None:
    """Print one line of JSON to standard output, and flush it."""
    print(_json(document), flush=True)


def print_error(error: WhisperdError, *, as_json: bool = False, subject: str | None = None) -> None:
    """Print what went wrong and how to fix it."""
    if as_json:
        print_json({"error": error.to_wire()})
        return
    prefix = f"{subject}: " if subject else ""
    print_notice(f"whisperctl: {printable(prefix + error.message)}")
    if error.fix:
        print_notice(f"  {printable(error.fix)}")


def print_problem(problem: Map, prefix: str = "") -> None:
    """Print an error that is part of an answer, with its fix below."""
    print(printable(f"{prefix}{problem['message']}"))
    print(f"  {printable(problem['fix'])}")


def print_notice(line: str) -> None:
    """Print a line to standard error. A closed standard error does not affect the exit status."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table whose columns are as wide as they need to be."""
    for line in table(header, rows):
        print(line)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    room: int | None = None,
    flexible: Sequence[str] = (),
) -> list[str]:
    """Return the lines of a table, its header first.

    If they are wider than `room`, the widest of the `flexible` columns is narrowed repeatedly until they fit.
    """
    cells = [
        list(header),
        *([in_words(cell) for cell in row] for row in rows),
    ]
    widths = [max(text_width(row[column]) for row in cells) for column in range(len(header))]
    shrinkable = [column for column, name in enumerate(header) if name in flexible]
    while room is not None and sum(widths) + 2 * (len(widths) - 1) > room:
        widest = max(shrinkable, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= LEAST_CELLS:
            break
        widths[widest] -= 1
    return [
        "  ".join(
            _padded(shortened(cell, width), width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]


def facts(known: Sequence[tuple[str, object]]) -> list[str]:
    """Return labelled values, one per line; the values of a list are aligned below each other."""
    cells = max(len(label) for label, _ in known) + len(": ")
    return [
        f"{'' if place else label + ':':{cells}}{in_words(one)}"
        for label, value in known
        for place, one in enumerate(value if isinstance(value, list) else [value])
    ]


def wrapped(text: str, width: int, *, label: str = "", cells: int = 0) -> list[str]:
    """Return a text wrapped to a width, after a label that is padded to `cells`."""
    import textwrap

    return textwrap.wrap(
        printable(text),
        width,
        initial_indent=label.ljust(cells),
        subsequent_indent=" " * cells,
        break_on_hyphens=False,
        break_long_words=False,
    )


def in_words(value: object) -> str:
    """Return a value in readable form, on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else printable(str(value))


def shortened(text: str, room: int) -> str:
    """Return a text of at most this many terminal cells; a longer one loses its middle."""
    if text_width(text) <= room:
        return text
    if room <= len("..."):
        return _beginning(text, room)
    kept = room - len("...")
    end = _beginning(text[::-1], kept // 2)[::-1]
    return f"{_beginning(text, kept - kept // 2)}...{end}"


def printable(text: str) -> str:
    """Return text on one line without control characters, whatever a file name contains."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    """Return an escape as the daemon and shells write it. A lone surrogate, Python's form of a byte that is
    not UTF-8, becomes that byte."""
    return f"\\x{ord(one) - 0xDC00:02x}" if "\udc80" <= one <= "\udcff" else ascii(one)[1:-1]


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `1 job`, `2 jobs`."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def duration(seconds: float | None) -> str:
    """Return seconds in readable form: `1:02:03`."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ago(time: str | None, now: datetime) -> str:
    """Return how long ago a time (RFC 3339) was: `3 min ago`."""
    from datetime import datetime

    if time is None:
        return "never"
    seconds = (now - datetime.fromisoformat(time)).total_seconds()
    for unit, unit_s, first in (("days", 86_400, 86_400), ("h", 3600, 3600), ("min", 60, 60), ("s", 1, 10)):
        if seconds >= first:
            count = int(seconds // unit_s)
            return f"{count} {'day' if (unit, count) == ('days', 1) else unit} ago"
    return "now"


def local_time(time: str) -> str:
    """Return a time (RFC 3339) in local time."""
    from datetime import datetime

    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def columns(stream: IO[str]) -> int:
    """Return the width of a stream's terminal, or a default. `$COLUMNS` overrides it, as everywhere."""
    explicit = os.environ.get("COLUMNS", "")[:MAX_DIGITS]
    if explicit.isdecimal() and int(explicit):
        return int(explicit)
    return _terminal_size(stream)[0] or USUAL_COLUMNS


class Repainted:
    """Lines on a terminal that are redrawn in place."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout
        self._count = 0

    @staticmethod
    def is_possible(stream: IO[str]) -> bool:
        """Whether the stream is a terminal whose cursor can be moved."""
        if not stream.isatty() or os.environ.get("TERM") == "dumb":
            return False
        return sys.platform != "win32" or "WT_SESSION" in os.environ

    @property
    def room(self) -> int:
        """The maximum width of a line."""
        return _room(self._stream)

    def show(self, lines: Sequence[str]) -> None:
        """Overwrite the previous lines. If they do not all fit, the last line counts the others."""
        most = max((_terminal_size(self._stream)[1] or USUAL_LINES) - 1, 2)
        if len(lines) > most:
            lines = [*lines[: most - 1], f"... and {len(lines) - most + 1} more"]
        up = f"\x1b[{self._count}A" if self._count else ""
        written = "".join(f"{shortened(line, self.room)}\x1b[K\n" for line in lines)
        self._stream.write(f"{up}{written}\x1b[J")
        self._stream.flush()
        self._count = len(lines)


class _Rewritten:
    """A line on a terminal that is redrawn in place."""

    def __init__(self, *, quiet: bool = False, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._mode: Literal["terminal", "log", "brief"] | None = None
        if self._stream.isatty() and not quiet:
            self._mode = "terminal"
        self._shown_cells = 0

    def _rewrite(self, line: str) -> None:
        """Overwrite the previous line."""
        self._write("\r" + _padded(line, min(self._shown_cells, _room(self._stream))))
        self._shown_cells = text_width(line)

    def clear(self) -> None:
        """Erase the line before something else is printed."""
        if self._shown_cells:
            self._write("\r" + " " * self._shown_cells + "\r")
            self._shown_cells = 0

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._mode = None  # the terminal is closed


class Progress(_Rewritten):
    """The progress of an operation.

    A pipe gets a line only when something long begins and when it ends; with `verbose`, a line for each
    tenth.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, stream: IO[str] | None = None) -> None:
        super().__init__(quiet=quiet, stream=stream)
        if self._mode is None and not quiet:
            self._mode = "log" if verbose else "brief"
        self._begun: set[str] = set()
        self._logged: tuple[str, int] | None = None

    @property
    def is_shown(self) -> bool:
        """Whether progress is displayed at all."""
        return self._mode is not None

    def show(self, what: str, percent: float | None, details: str = "") -> None:
        """Show the current progress."""
        if self._mode == "log":
            tenth = -1 if percent is None else int(percent // 10)
            if self._logged != (what, tenth):
                self._logged = (what, tenth)
                self._write(_line(what, percent, details) + "\n")
        elif self._mode == "terminal":
            room = _room(self._stream)
            self._rewrite(_beginning(printable(_line(what, percent, details, room=room)), room))

    def begin(self, key: str, line: str) -> None:
        """In a pipe, print once that something long begins; `key` identifies it."""
        if self._mode == "brief" and key not in self._begun:
            self._begun.add(key)
            self._write(line + "\n")

    def end(self, key: str, line: str) -> None:
        """In a pipe, print that it is done, if it has begun."""
        if key in self._begun:
            self._begun.remove(key)
            self._write(line + "\n")


class Draft(_Rewritten):
    """Text that is still being revised; not shown in a pipe."""

    def show(self, text: str) -> None:
        """Overwrite the previous text; only the end of a long text is shown."""
        if self._mode is None:
            return
        line, room = printable(text), _room(self._stream)
        if text_width(line) > room:
            line = f"...{_beginning(line[::-1], room - len('...'))[::-1]}"[:room]
        self._rewrite(line)


def _line(what: str, percent: float | None, details: str, *, room: int = 0) -> str:
    """Return a progress line, with a bar as long as the rest of the line leaves room for."""
    if percent is None:
        return f"{what} ... {details}".rstrip()
    percent = min(percent, 100)
    numbers = f" {percent:3.0f} % {details}".rstrip()
    cells = min(BAR_CELLS, room - text_width(what + numbers) - len(" []"))
    if cells < LEAST_BAR_CELLS:
        return what + numbers
    filled = round(percent * cells / 100)
    return f"{what} [{'#' * filled}{'.' * (cells - filled)}]{numbers}"


def _room(stream: IO[str]) -> int:
    """Return the maximum width of a line: after the last column, some terminals move to the next line."""
    return columns(stream) - 1


def _terminal_size(stream: IO[str]) -> tuple[int, int]:
    """Return columns and lines; zeros if unknown."""
    try:
        return os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return 0, 0


def _beginning(text: str, room: int) -> str:
    """Return as much of the beginning of a text as fits."""
    taken = 0
    for index, character in enumerate(text):
        taken += text_width(character)
        if taken > room:
            return text[:index]
    return text


def _padded(text: str, width: int) -> str:
    return text + " " * (width - text_width(text))


def _json(document: object, indent: int | None = None) -> str:
    import json

    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    # A byte of a file name that is not UTF-8 is written as the daemon writes it: strict parsers would refuse
    # a lone surrogate.
    return json.dumps(sendable(document), indent=indent, ensure_ascii=not is_unicode, default=_plain)


def _plain(value: object) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    raise TypeError(type(value).__name__)
