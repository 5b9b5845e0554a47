"""Printing: answers, tables, errors and progress; as text for people or as one JSON document."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from whisperd.rpc.errors import WhisperdError

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
    "print_problem",
    "print_table",
    "printable",
    "say",
    "shortened",
    "table",
    "wrapped",
]

USUAL_COLUMNS = 80
USUAL_LINES = 24
LEAST_CELLS = 6
"""What is left of a column that is made narrower."""
MAX_DIGITS = 9
"""Of a width: thousands are more than Python reads, and as wide as that is every line."""
BAR_CELLS = 20
LEAST_BAR_CELLS = 5
"""A shorter one shows nothing that the percentage does not."""


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


def print_error(error: WhisperdError, *, as_json: bool = False, subject: str | None = None) -> None:
    """What went wrong and what to do next."""
    if as_json:
        print_json({"error": error.to_wire()})
        return
    prefix = f"{subject}: " if subject else ""
    say(f"whisperctl: {printable(prefix + error.message)}")
    if error.fix:
        say(f"  {printable(error.fix)}")


def print_problem(problem: Map, prefix: str = "") -> None:
    """An error that is part of an answer, and below it what to do next."""
    print(printable(f"{prefix}{problem['message']}"))
    print(f"  {printable(problem['fix'])}")


def say(line: str) -> None:
    """A line on standard error. That nobody listens there is no reason to fail, or to end well."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they need to be."""
    for line in table(header, rows):
        print(line)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    room: int | None = None,
    flexible: Sequence[str] = (),
) -> list[str]:
    """The lines of a table, its header first.

    Where they would be wider than `room`, the widest of the `flexible` columns is made narrower, again and
    again until they fit.
    """
    cells = [
        list(header),
        *([in_words(cell) for cell in row] for row in rows),
    ]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(header))]
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
    """What is known of something, a label before each value; those in a list stand below each other."""
    cells = max(len(label) for label, _ in known) + len(": ")
    return [
        f"{'' if place else label + ':':{cells}}{in_words(one)}"
        for label, value in known
        for place, one in enumerate(value if isinstance(value, list) else [value])
    ]


def wrapped(text: str, width: int, *, label: str = "", cells: int = 0) -> list[str]:
    """A text on as many lines as it takes, behind a label that has so many cells."""
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
    """A value as a person reads it, on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else printable(str(value))


def shortened(text: str, room: int) -> str:
    """A text of at most so many cells of a terminal: what is too long loses its middle."""
    if _width(text) <= room:
        return text
    if room <= len("..."):
        return _beginning(text, room)
    kept = room - len("...")
    end = _beginning(text[::-1], kept // 2)[::-1]
    return f"{_beginning(text, kept - kept // 2)}...{end}"


def printable(text: str) -> str:
    """Text on one line that does nothing to a terminal, whatever a file name may hold."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    """As the daemon and shells spell it; a byte of a name that is no UTF-8, which Python has as half a pair
    of surrogates, is that byte."""
    return f"\\x{ord(one) - 0xDC00:02x}" if "\udc80" <= one <= "\udcff" else ascii(one)[1:-1]


def counted(number: int, one: str, many: str | None = None) -> str:
    """How many there are: `1 job`, `2 jobs`."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them: `1:02:03`."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ago(time: str | None, now: datetime) -> str:
    """How long ago a moment (RFC 3339) was, as a person says it: `3 min ago`."""
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
    """A moment (RFC 3339) by the clock of this computer."""
    from datetime import datetime

    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def columns(stream: IO[str]) -> int:
    """How wide a stream's terminal is, or would be. `$COLUMNS` has the last word, as everywhere."""
    explicit = os.environ.get("COLUMNS", "")[:MAX_DIGITS]
    if explicit.isdecimal() and int(explicit):
        return int(explicit)
    return _terminal_size(stream)[0] or USUAL_COLUMNS


class Repainted:
    """Lines on a terminal that are written again in the same place."""

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
        """How wide a line can be."""
        return _room(self._stream)

    def show(self, lines: Sequence[str]) -> None:
        """Write these over the last ones. Those for which the terminal is not high enough are counted."""
        most = max((_terminal_size(self._stream)[1] or USUAL_LINES) - 1, 2)
        if len(lines) > most:
            lines = [*lines[: most - 1], f"... and {len(lines) - most + 1} more"]
        up = f"\x1b[{self._count}A" if self._count else ""
        written = "".join(f"{shortened(line, self.room)}\x1b[K\n" for line in lines)
        self._stream.write(f"{up}{written}\x1b[J")
        self._stream.flush()
        self._count = len(lines)


class _Rewritten:
    """A line on a terminal that is written again and again in the same place."""

    def __init__(self, *, quiet: bool = False, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._mode: Literal["terminal", "log", "brief"] | None = None
        if self._stream.isatty() and not quiet:
            self._mode = "terminal"
        self._shown_cells = 0

    def _rewrite(self, line: str) -> None:
        """Write it over the last one."""
        self._write("\r" + _padded(line, min(self._shown_cells, _room(self._stream))))
        self._shown_cells = _width(line)

    def clear(self) -> None:
        """Take the line away before something else is printed."""
        if self._shown_cells:
            self._write("\r" + " " * self._shown_cells + "\r")
            self._shown_cells = 0

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._mode = None  # the terminal is gone


class Progress(_Rewritten):
    """How far something is.

    A pipe gets only what takes long, a line when it begins and one when it ends; with `verbose`, a line for
    each new tenth.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, stream: IO[str] | None = None) -> None:
        super().__init__(quiet=quiet, stream=stream)
        if self._mode is None and not quiet:
            self._mode = "log" if verbose else "brief"
        self._begun: set[str] = set()
        self._logged: tuple[str, int] | None = None

    @property
    def is_shown(self) -> bool:
        """Whether anybody gets to see it."""
        return self._mode is not None

    def show(self, what: str, percent: float | None, details: str = "") -> None:
        """Say how far something is."""
        if self._mode == "log":
            tenth = -1 if percent is None else int(percent // 10)
            if self._logged != (what, tenth):
                self._logged = (what, tenth)
                self._write(_line(what, percent, details) + "\n")
        elif self._mode == "terminal":
            room = _room(self._stream)
            self._rewrite(_beginning(printable(_line(what, percent, details, room=room)), room))

    def begin(self, key: str, line: str) -> None:
        """In a pipe, say once that something begins which takes long; `key` tells it from others."""
        if self._mode == "brief" and key not in self._begun:
            self._begun.add(key)
            self._write(line + "\n")

    def end(self, key: str, line: str) -> None:
        """In a pipe, say that it is done, if it has begun."""
        if key in self._begun:
            self._begun.remove(key)
            self._write(line + "\n")


class Draft(_Rewritten):
    """Text that is still being revised; nothing in a pipe."""

    def show(self, text: str) -> None:
        """Write it over the last one; of what is too long, its end is shown."""
        if self._mode is None:
            return
        line, room = printable(text), _room(self._stream)
        if _width(line) > room:
            line = f"...{_beginning(line[::-1], room - len('...'))[::-1]}"[:room]
        self._rewrite(line)


def _line(what: str, percent: float | None, details: str, *, room: int = 0) -> str:
    """How far something is, with a bar that is as long as there is room for it beside the words."""
    if percent is None:
        return f"{what} ... {details}".rstrip()
    percent = min(percent, 100)
    numbers = f" {percent:3.0f} % {details}".rstrip()
    cells = min(BAR_CELLS, room - _width(what + numbers) - len(" []"))
    if cells < LEAST_BAR_CELLS:
        return what + numbers
    filled = round(percent * cells / 100)
    return f"{what} [{'#' * filled}{'.' * (cells - filled)}]{numbers}"


def _room(stream: IO[str]) -> int:
    """How wide a line can be: in the last column, some terminals go on to the next one."""
    return columns(stream) - 1


def _terminal_size(stream: IO[str]) -> tuple[int, int]:
    """Columns and lines; zeros where they are not known."""
    try:
        return os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return 0, 0


def _width(text: str) -> int:
    """How many cells of a terminal a text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(character: str) -> int:
    import unicodedata

    if unicodedata.category(character) in ("Mn", "Me", "Cf"):  # put over the one before it, or not shown
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _beginning(text: str, room: int) -> str:
    """As much of a text as fits."""
    taken = 0
    for index, character in enumerate(text):
        taken += _cells(character)
        if taken > room:
            return text[:index]
    return text


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _json(document: object, indent: int | None = None) -> str:
    import json

    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(document, indent=indent, ensure_ascii=not is_unicode, default=_plain)


def _plain(value: object) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    raise TypeError(type(value).__name__)
