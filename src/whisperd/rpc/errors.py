"""The one kind of error that reaches a person: a stable code, a message, and what to do next."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["UNEXPECTED", "WhisperdError", "from_sendable", "sendable"]

UNEXPECTED: Final = "process.failed"
"""The code of an exception that a child process did not mean to raise; its traceback is for the log."""
MAX_TEXT_CHARACTERS: Final = 8_000
"""An error may quote what a client sent, and is not to send megabytes of it back."""


_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SPELLED: Final = re.compile(rb"\\x([89a-f][0-9a-f])")


class WhisperdError(Exception):
    """Something went wrong that a person should understand and can act on.

    `code` is a stable `noun.problem` word for programs, `message` one sentence that says what
    happened, `fix` one sentence that says what to do next, `data` details (may be empty).
    """

    def __init__(self, code: str, message: str, fix: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.add_note(f"{fix} ({code})")  # for who sees it in a traceback, below the message
        self.code = code
        self.message = message
        self.fix = fix
        self.data: dict[str, Any] = dict(data or {})

    def to_wire(self) -> dict[str, Any]:
        """The map that travels on the wire and is printed under `--json`."""
        wire = {"code": self.code, "message": self.message, "fix": self.fix, "data": self.data}
        return dict(sendable(wire, MAX_TEXT_CHARACTERS))

    def to_text(self) -> str:
        """All that a person needs in one line, for peers that take errors for texts."""
        return str(sendable(f"{self.message} {self.fix} ({self.code})", MAX_TEXT_CHARACTERS))

    def copy(self) -> WhisperdError:
        """The same error without where it was raised: to keep it, or to raise it in several tasks."""
        return WhisperdError(self.code, self.message, self.fix, self.data)

    @classmethod
    def from_wire(cls, wire: object) -> WhisperdError:
        """Read an error map; anything else (another server's error) becomes `rpc.foreign_error`."""
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
            f"The other side answered with an error of its own: {wire!r:.200}.",
            "Check that the socket belongs to whisperd.",
        )

    def __repr__(self) -> str:
        return f"WhisperdError({self.code!r}, {self.message!r}, fix={self.fix!r})"


def sendable(value: Any, max_characters: int | None = None) -> Any:
    r"""The same value as a message can hold it: every text in it is valid, and no longer than that many
    characters, and what is not plain is a text.

    A path may hold bytes that are no UTF-8; Python keeps them as surrogates, which nobody can encode. They
    are spelled as `\xe9`, so that two names are two; `from_sendable` reads that.
    """
    match value:
        case str():
            if max_characters is not None and len(value) > max_characters:
                value = value[: max_characters - 1] + "…"
            return value if value.isascii() else _SURROGATE.sub(_spelled, value)
        case Mapping():
            return {sendable(str(key)): sendable(inner, max_characters) for key, inner in value.items()}
        case list() | tuple():
            return [sendable(inner, max_characters) for inner in value]
        case None | bool() | float() | bytes():
            return value
        case int() if -(2**63) <= value < 2**64:
            return value
        case _:  # a plugin's
            return sendable(str(value), max_characters)


def from_sendable(path: str) -> str:
    r"""The path that a person means who writes it as it is shown, with `\xe9` for a byte that is no UTF-8."""
    return os.fsdecode(_SPELLED.sub(lambda found: bytes([int(found[1], 16)]), os.fsencode(path)))


def _spelled(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"
