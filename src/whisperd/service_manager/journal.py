"""Log to systemd's journal with fields, by its documented native protocol.

Log messages contain `job ID` and `runtime NAME`; both also become fields, `WHISPERD_JOB` and
`WHISPERD_RUNTIME`, so that `journalctl WHISPERD_JOB=ID` shows the history of one job.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = [
    "JournalHandler",
    "PrefixedFormatter",
    "encode_entry",
    "fields_of",
    "is_journal",
    "journal_handler",
]

SOCKET: Path = Path("/run/systemd/journal/socket")
IDENTIFIER: Final = "whisperd"
_TOO_LONG: Final = (errno.EMSGSIZE, errno.ENOBUFS)

_NAMED: Final = re.compile(r"\b(job|runtime) %[sdr]|%(?:\.\d+)?[sdrf]")
"""Placeholders, and whether each is a job or a runtime."""


def is_journal(stream: str, descriptor: int) -> bool:
    """Whether a descriptor is that of the journal: `$JOURNAL_STREAM` is its device and inode, `dev:inode`."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


def journal_handler() -> logging.Handler | None:
    """Return a handler for the journal if standard error is connected to it; None otherwise.

    If its socket cannot be reached, lines go to standard error, prefixed with their priority.
    """
    if not is_journal(os.environ.get("JOURNAL_STREAM", ""), 2):
        return None
    try:
        return JournalHandler(SOCKET)
    except OSError:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(PrefixedFormatter())
        return handler


def priority(level: int) -> int:
    """Convert a level of `logging` to one of syslog(3)."""
    scale = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((number for least, number in scale if level >= least), 7)


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """Return the job and the runtime that a message mentions."""
    if not isinstance(record.args, tuple):
        return {}
    found = {}
    for match, value in zip(_NAMED.finditer(record.msg), record.args, strict=False):
        if match[1]:
            found[f"WHISPERD_{match[1].upper()}"] = str(value)
    return found


def encode_entry(fields: Mapping[str, str]) -> bytes:
    """Encode an entry: `NAME=value`, or the name, length and value if the value contains line breaks."""
    encoded = bytearray()
    for name, value in fields.items():
        data = value.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            encoded += name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
        else:
            encoded += name.encode() + b"=" + data + b"\n"
    return bytes(encoded)


class JournalHandler(logging.Handler):
    """Sends each record as an entry. The constructor raises `OSError` if there is no journal."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(os.fspath(path))
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            entry = encode_entry(
                {
                    "MESSAGE": text,
                    "PRIORITY": str(priority(record.levelno)),
                    "SYSLOG_IDENTIFIER": IDENTIFIER,
                    "LOGGER": record.name,
                    "CODE_FILE": record.pathname,
                    "CODE_LINE": str(record.lineno),
                    "CODE_FUNC": record.funcName or "",
                    **fields_of(record),
                }
            )
            self._send(entry)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Stop logging."""
        self._socket.close()
        super().close()

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.send(entry)
        except OSError as error:
            if error.errno not in _TOO_LONG:
                raise
            self._send_file(entry)

    def _send_file(self, entry: bytes) -> None:
        """Send an entry too long for a datagram as a sealed memory file."""
        if sys.platform == "linux":
            import fcntl

            descriptor = os.memfd_create("whisperd-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            with os.fdopen(descriptor, "wb") as file:
                file.write(entry)
                file.flush()
                seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
                socket.send_fds(self._socket, [b""], [descriptor])


class PrefixedFormatter(logging.Formatter):
    """Prefixes each line with its priority: `<6>whisperd.jobs: …`."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record, as `logging.Formatter` specifies."""
        before = f"<{priority(record.levelno)}>"
        lines = f"{record.name}: {super().format(record)}".splitlines()
        return "\n".join(before + line for line in lines)
