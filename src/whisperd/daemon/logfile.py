"""The log file: readable only by its owner, rotated, without audio or text of a transcript.

Messages for the terminal go to the journal instead, with fields, if a service manager has connected standard
error to it.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import logging.handlers
import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from whisperd.paths import make_private_folder
from whisperd.rpc.errors import WhisperdError
from whisperd.service_manager.journal import journal_handler
from whisperd.settings import LogSettings

__all__ = ["LogFile"]

LOGGERS = ("whisperd", "asyncio")
"""Ours, and asyncio's, which reports bugs in how we use it."""


class LogFile:
    """The daemon's log."""

    def __init__(self, path: Path, settings: LogSettings, *, level: str | None, to_terminal: bool) -> None:
        """Start logging. A `level` from the command line overrides the settings.

        Raises `WhisperdError` (`log.not_writable`).
        """
        self._level = level
        try:
            make_private_folder(path.parent)
            self._file = _PrivateFile(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise WhisperdError(
                "log.not_writable",
                f"The log {path} cannot be written to: {error.strerror or error}.",
                "Check the folder's permissions and its disk, or set WHISPERD_STATE_DIR to another folder.",
            ) from error
        handlers: list[logging.Handler] = [self._file]
        if to_terminal:
            handlers.append(journal_handler() or logging.StreamHandler())
        for handler in handlers:
            if handler.formatter is None:
                handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            for name in LOGGERS:
                logging.getLogger(name).addHandler(handler)
        logging.getLogger("asyncio").addFilter(_is_relevant)
        self.apply(settings)

    def receive_crashes(self) -> None:
        """From now on, a crash in native code leaves a traceback in the log."""
        self._file.receive_crashes()

    def apply(self, settings: LogSettings) -> None:
        """Apply settings that were reloaded."""
        self._file.maxBytes = settings.max_bytes
        self._file.backupCount = settings.files
        logging.getLogger("whisperd").setLevel((self._level or settings.level).upper())


def _is_relevant(record: logging.LogRecord) -> bool:
    """Whether to log a message of asyncio: not if a socket got data just when its reader was cancelled."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.InvalidStateError))


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A rotating log of which each file is readable only by its owner, from its creation."""

    _for_crashes: int | None = None

    def _open(self) -> TextIOWrapper:
        return os.fdopen(self._open_privately(), "a", encoding=self.encoding, errors=self.errors)

    def _open_privately(self) -> int:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        Path(self.baseFilename).chmod(0o600)  # the file may have existed
        return descriptor

    def receive_crashes(self) -> None:
        """Have Python write its last words to the log."""
        # A descriptor of its own: while the log is rotated, its number may belong to another file.
        descriptor, before = self._open_privately(), self._for_crashes
        faulthandler.enable(descriptor)
        self._for_crashes = descriptor
        if before is not None:
            os.close(before)

    def doRollover(self) -> None:
        """Begin a new log. If the old one cannot be renamed, it grows: that is better than losing lines."""
        with suppress(OSError):
            super().doRollover()
        if self.stream is None or self.stream.closed:
            self.stream = self._open()
        if self._for_crashes is not None:
            self.receive_crashes()

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop a line that cannot be written, as on a full disk. Python would print a traceback for each."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
