"""Stores inputs that clients send in pieces: spooled to private files, deleted after use."""

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

    Files that exist when the daemon starts are from an earlier one: they are deleted, except those whose jobs
    are resumed.
    """

    def __init__(self, folder: Path, limits: Callable[[], LimitSettings], kept: Collection[str] = ()) -> None:
        """`kept` are the uploads to retain. Raises `WhisperdError` (`uploads.not_writable`)."""
        self._folder = folder
        self._limits = limits
        self._sizes_bytes: dict[str, int] = {}
        self._lock = threading.Lock()  # guards the sizes: pieces are written in threads
        try:
            make_private_folder(self._folder)
            self._adopt(kept)
        except OSError as error:
            raise WhisperdError(
                "uploads.not_writable",
                f"The folder for uploads, {folder}, cannot be created: {error.strerror or error}.",
                "Check its permissions and disk, or set WHISPERD_STATE_DIR to another folder.",
            ) from error

    def _adopt(self, kept: Collection[str]) -> None:
        for path in self._folder.iterdir():
            if path.name in kept:
                self._sizes_bytes[path.name] = path.stat().st_size
            else:
                _delete(path)

    def sync(self, upload: str) -> None:
        """Make an upload survive a power failure. Blocks. Raises like `append`."""
        try:
            with self.path(upload).open("rb+") as file:
                os.fsync(file.fileno())
            sync_folder(self._folder)
        except OSError as error:
            raise self._refused(error) from error

    def create(self) -> str:
        """Begin an upload and return its id. Blocks. Raises `disk.full`, `uploads.not_writable`."""
        upload = secrets.token_hex(8)
        try:
            os.close(os.open(self._path(upload), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise self._refused(error) from error
        with self._lock:
            self._sizes_bytes[upload] = 0
        return upload

    def append(self, upload: str, data: bytes) -> int:
        """Add a piece, and return the size so far in bytes. Blocks.

        Raises `upload.unknown`, `upload.too_large`, `upload.no_room`, `disk.full` and
        `uploads.not_writable`; all but the first delete the upload.
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
        """Return the path of an upload. Raises `upload.unknown`."""
        if upload not in self._sizes_bytes:
            raise _unknown(upload)
        return self._path(upload)

    def size_bytes(self, upload: str) -> int:
        """Return the size of an upload so far. Raises `upload.unknown`."""
        if (size_bytes := self._sizes_bytes.get(upload)) is None:
            raise _unknown(upload)
        return size_bytes

    def remove(self, upload: str) -> None:
        """Delete an upload. Does nothing if it was deleted."""
        with self._lock:
            is_known = self._sizes_bytes.pop(upload, None) is not None
        if is_known:
            _delete(self._path(upload))

    def _grow(self, upload: str, more_bytes: int) -> int:
        """Count a piece before it is written, and return the size including it."""
        limits = self._limits()
        with self._lock:
            if upload not in self._sizes_bytes:  # just deleted
                raise _unknown(upload)
            size_bytes = self._sizes_bytes[upload] + more_bytes
            if size_bytes > limits.max_upload_bytes:
                raise WhisperdError(
                    "upload.too_large",
                    f"The upload is larger than {limits.max_upload_bytes:,} bytes.",
                    "Give the file's path instead, or raise `limits.max_upload_bytes` in the settings.",
                )
            if sum(self._sizes_bytes.values()) + more_bytes > limits.max_uploads_bytes:
                raise WhisperdError(
                    "upload.no_room",
                    f"All uploads together are larger than {limits.max_uploads_bytes:,} bytes.",
                    "Wait until some jobs are over, or raise `limits.max_uploads_bytes` in the settings.",
                )
            self._sizes_bytes[upload] = size_bytes
            return size_bytes

    def _refused(self, error: OSError) -> WhisperdError:
        reason = error.strerror or str(error)
        if refusal(error) == "full":
            code, fix = "disk.full", f"Free some space on the disk of {self._folder}."
        else:
            code, fix = "uploads.not_writable", f"Check the permissions and the disk of {self._folder}."
        return WhisperdError(code, f"The upload cannot be stored: {reason}.", fix)

    def _path(self, upload: str) -> Path:
        return self._folder / upload


def _delete(path: Path) -> None:
    try:
        remove(path)
    except OSError as error:  # the next daemon tries again
        log.warning("cannot delete an upload: %s", error.strerror or error)


def _open_existing(path: str, flags: int) -> int:
    # A late piece must not recreate an upload that was deleted.
    return os.open(path, flags & ~os.O_CREAT)


def _unknown(upload: str) -> WhisperdError:
    return WhisperdError(
        "upload.unknown", f"There is no upload {upload!r:.40}.", "Begin one with `uploads.create`."
    )
