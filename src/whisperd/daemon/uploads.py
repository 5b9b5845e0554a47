"""Inputs that a client sends in pieces: spooled to files of the user's own, removed after use."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from whisperd.disk import refusal, remove, sync_folder
from whisperd.paths import make_private_folder
from whisperd.rpc.errors import WhisperdError
from whisperd.settings import LimitSettings

__all__ = ["UploadStore"]

log = logging.getLogger(__name__)


class UploadStore:
    """The spooled uploads.

    What lies there when the daemon starts is from a dead one, and goes, but for what its jobs go on with.
    """

    def __init__(self, folder: Path, limits: Callable[[], LimitSettings], kept: Collection[str] = ()) -> None:
        """`kept` are the uploads that stay. Raises `WhisperdError` (`uploads.not_writable`)."""
        self._folder = folder
        self._limits = limits
        self._sizes_bytes: dict[str, int] = {}
        self._lock = threading.Lock()  # over the sizes: pieces are written in threads
        try:
            make_private_folder(self._folder)
            self._take_over(kept)
        except OSError as error:
            raise WhisperdError(
                "uploads.not_writable",
                f"No folder for uploads can be made in {folder}: {error.strerror or error}.",
                "Check its permissions and its disk, or set WHISPERD_STATE_DIR to another folder.",
            ) from error

    def _take_over(self, kept: Collection[str]) -> None:
        for path in self._folder.iterdir():
            if path.name in kept:
                self._sizes_bytes[path.name] = path.stat().st_size
            else:
                _delete(path)

    def sync(self, upload: str) -> None:
        """See to it that not even a power cut takes it away. Blocks. Raises like `append`."""
        try:
            with self.path(upload).open("rb+") as file:
                os.fsync(file.fileno())
            sync_folder(self._folder)
        except OSError as error:
            raise self._refused(error) from error

    def create(self) -> str:
        """Begin an upload; returns its id. Blocks. Raises `disk.full`, `uploads.not_writable`."""
        upload = secrets.token_hex(8)
        try:
            os.close(os.open(self._path(upload), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise self._refused(error) from error
        with self._lock:
            self._sizes_bytes[upload] = 0
        return upload

    def append(self, upload: str, data: bytes) -> int:
        """Add a piece; returns the size so far in bytes. Blocks.

        Raises `upload.unknown`, `upload.too_large`, `upload.no_room`, `disk.full` and
        `uploads.not_writable`; after all but the first it is gone.
        """
        path = self.path(upload)
        try:
            size_bytes = self._grow(upload, len(data))
            with open(path, "ab", opener=_open_existing) as file:
                file.write(data)
        except OSError as error:
            self.remove(upload)
            raise self._refused(error) from error
        except WhisperdError:
            self.remove(upload)
            raise
        return size_bytes

    def path(self, upload: str) -> Path:
        """Where it lies. Raises `upload.unknown`."""
        if upload not in self._sizes_bytes:
            raise _unknown(upload)
        return self._path(upload)

    def size_bytes(self, upload: str) -> int:
        """How large it is so far. Raises `upload.unknown`."""
        if (size_bytes := self._sizes_bytes.get(upload)) is None:
            raise _unknown(upload)
        return size_bytes

    def remove(self, upload: str) -> None:
        """Delete it. Harmless when it is gone."""
        with self._lock:
            is_known = self._sizes_bytes.pop(upload, None) is not None
        if is_known:
            _delete(self._path(upload))

    def _grow(self, upload: str, more_bytes: int) -> int:
        """Account for a piece before it is written; the size with it."""
        limits = self._limits()
        with self._lock:
            if upload not in self._sizes_bytes:  # removed a moment ago
                raise _unknown(upload)
            size_bytes = self._sizes_bytes[upload] + more_bytes
            if size_bytes > limits.max_upload_bytes:
                raise WhisperdError(
                    "upload.too_large",
                    f"The upload is larger than {limits.max_upload_bytes:,} bytes.",
                    "Give the file's path instead, or raise limits.max_upload_bytes in the settings.",
                )
            if sum(self._sizes_bytes.values()) + more_bytes > limits.max_uploads_bytes:
                raise WhisperdError(
                    "upload.no_room",
                    f"All uploads together are larger than {limits.max_uploads_bytes:,} bytes.",
                    "Wait until some jobs have ended, or raise limits.max_uploads_bytes in the settings.",
                )
            self._sizes_bytes[upload] = size_bytes
            return size_bytes

    def _refused(self, error: OSError) -> WhisperdError:
        reason = error.strerror or str(error)
        if refusal(error) == "full":
            code, fix = "disk.full", f"Make room on the disk of {self._folder}."
        else:
            code, fix = "uploads.not_writable", f"Check the permissions and the disk of {self._folder}."
        return WhisperdError(code, f"The upload cannot be stored: {reason}.", fix)

    def _path(self, upload: str) -> Path:
        return self._folder / upload


def _delete(path: Path) -> None:
    try:
        remove(path)
    except OSError as error:  # it goes when a daemon starts again, if it can then
        log.warning("an upload cannot be deleted: %s", error.strerror or error)


def _open_existing(path: str, flags: int) -> int:
    # A piece that comes late brings no upload back that was removed.
    return os.open(path, flags & ~os.O_CREAT)


def _unknown(upload: str) -> WhisperdError:
    return WhisperdError(
        "upload.unknown", f"There is no upload {upload!r:.40}.", "Begin one with uploads.create."
    )
