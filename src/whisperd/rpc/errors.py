"""The one kind of error that reaches users: a stable code, a message, and what to do next."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = [
    "UNEXPECTED",
    "WhisperdError",
    "from_sendable",
    "internal_error",
    "is_lack_of_threads",
    "sendable",
    "thread_not_started",
    "unexpected_error",
]

UNEXPECTED: Final = "process.failed"
"""The code of an unexpected exception in a child process; its traceback goes to the log."""
MAX_TEXT_CHARACTERS: Final = 8_000
"""An error may quote what a client sent, and must not send megabytes of it back."""


_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPED: Final = re.compile(rb"\\x([89a-f][0-9a-f])")


class WhisperdError(Exception):
    """An error that a user can understand and act on.

    `code` is a stable identifier for programs, `noun.problem`; `message` is one sentence that says what
    happened; `fix` is one sentence that says what to do next; `data` has details and may be empty.
    """

    def __init__(self, code: str, message: str, fix: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.add_note(f"{fix} ({code})")  # shown below the message in a traceback
        self.code = code
        self.message = message
        self.fix = fix
        self.data: dict[str, Any] = dict(data or {})

    def __reduce__(self) -> tuple[Any, ...]:  # `pickle` and `copy` would pass on the message alone
        return WhisperdError, (self.code, self.message, self.fix, self.data)

    def to_wire(self) -> dict[str, Any]:
        """Return the map that is sent on the wire and printed under `--json`."""
        wire = {"code": self.code, "message": self.message, "fix": self.fix, "data": self.data}
        return dict(sendable(wire, MAX_TEXT_CHARACTERS))

    def to_text(self) -> str:
        """Return message, fix and code in one line, for clients that expect an error to be a string."""
        return str(sendable(f"{self.message} {self.fix} ({self.code})", MAX_TEXT_CHARACTERS))

    def copy(self) -> WhisperdError:
        """Return the same error without its traceback: to store it, or to raise it in several tasks."""
        return WhisperdError(self.code, self.message, self.fix, self.data)

    @classmethod
    def from_wire(cls, wire: object) -> WhisperdError:
        """Read an error map; anything else (an error of another server) becomes `rpc.foreign_error`."""
        if isinstance(wire, Mapping) and isinstance(wire.get("code"), str):
            data = wire.get("data")
            return cls(
                wire["code"],
                str(wire.get("message", "")),
                str(wire.get("fix", "")),
                data if isinstance(data, Mapping) else None,
            )
        return cls(
            "rpc.foreign_error",
            f"The server replied with an error in an unknown format: {wire!r:.200}.",
            "Check that the socket belongs to whisperd.",
        )

    def __repr__(self) -> str:
        return f"WhisperdError({self.code!r}, {self.message!r}, fix={self.fix!r})"


def internal_error(what: str) -> WhisperdError:
    """Return `internal.error`: `what` happened because of a bug in whisperd."""
    return WhisperdError(
        "internal.error",
        f"{what} because of a bug in whisperd.",
        "Please report it with the output of `whisperctl daemon logs`.",
    )


def unexpected_error(what: str, error: BaseException) -> WhisperdError:
    """Return the error to report for an exception that is not a `WhisperdError`: `what` happened."""
    return thread_not_started() if is_lack_of_threads(error) else internal_error(what)


def is_lack_of_threads(error: BaseException) -> bool:
    """Whether the system refused to start a thread, for which Python has no exception of its own."""
    return isinstance(error, RuntimeError) and str(error) == "can't start new thread"


def thread_not_started() -> WhisperdError:
    """`thread.not_started`: the number of processes is limited, and threads count as processes."""
    return WhisperdError(
        "thread.not_started",
        "The system refuses to start another thread: a limit on processes and threads has been reached, or "
        "memory is short.",
        "Close programs that you do not need, or raise the limit (`ulimit -u`; for a service `TasksMax=`), "
        "then try again.",
    )


def sendable(value: Any, max_characters: int | None = None) -> Any:
    r"""Convert a value so that a message can contain it: make its strings valid and truncate them to
    `max_characters`, and turn objects of other types into strings.

    A path may contain bytes that are not UTF-8. Python represents them as surrogates, which cannot be
    encoded. They are escaped as `\xe9`, so that different names stay different; `from_sendable` reverses
    this.
    """
    match value:
        case str():
            if max_characters is not None and len(value) > max_characters:
                value = value[: max_characters - 1] + "…"
            return value if value.isascii() else _SURROGATE.sub(_escaped, value)
        case Mapping():
            return {sendable(str(key)): sendable(inner, max_characters) for key, inner in value.items()}
        case list() | tuple():
            return [sendable(inner, max_characters) for inner in value]
        case None | bool() | float() | bytes():
            return value
        case int() if -(2**63) <= value < 2**64:
            return value
        case _:  # from a plugin
            return sendable(str(value), max_characters)


def from_sendable(path: str) -> str:
    r"""Return the path that was typed as it is displayed, with `\xe9` for a byte that is not UTF-8."""
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), os.fsencode(path)))


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"
