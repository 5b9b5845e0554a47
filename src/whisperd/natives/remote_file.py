"""A file on a package index of which only the parts that are read are downloaded."""

from __future__ import annotations

import io
import os
import ssl
import urllib.request
from typing import Any

__all__ = ["RemoteFile"]


class RemoteFile(io.RawIOBase):
    """A remote file, read by range requests. Raises `OSError` if the server does not support them."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("https://", "http://")):
            raise OSError("it is not on a web server")
        self._url = url
        self._position = 0
        _, self.size_bytes = self._fetch(0, 1)

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, and return how many bytes were read."""
        end = min(self._position + len(buffer), self.size_bytes)
        if end <= self._position:
            return 0
        data, _ = self._fetch(self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _fetch(self, start: int, end: int) -> tuple[bytes, int]:
        """Return a part of the file, and the size of the whole."""
        request = urllib.request.Request(self._url, headers={"Range": f"bytes={start}-{end - 1}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60, context=_certificates()) as answer:  # noqa: S310
            part, _, size = answer.headers.get("Content-Range", "").rpartition("/")
            if answer.status != 206 or not part.startswith(f"bytes {start}-"):
                raise OSError("the index does not serve parts of files")
            return answer.read(end - start), int(size)


def _certificates() -> ssl.SSLContext:
    """Return the certificates that pip's environment variable says to trust."""
    return ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
