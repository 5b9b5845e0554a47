"""A file on a package index, of which only the parts that are read are fetched."""

from __future__ import annotations

import io
import os
import ssl
import urllib.request
from typing import Any

__all__ = ["RemoteFile"]


class RemoteFile(io.RawIOBase):
    """Raises `OSError` where the server gives no parts."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("https://", "http://")):
            raise OSError("it does not lie on a server")
        self._url = url
        self._position = 0
        _, self.size_bytes = self._fetch(0, 1)

    def seekable(self) -> bool:
        """It can be read from anywhere."""
        return True

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on elsewhere."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read as much as fits."""
        end = min(self._position + len(buffer), self.size_bytes)
        if end <= self._position:
            return 0
        data, _ = self._fetch(self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _fetch(self, start: int, end: int) -> tuple[bytes, int]:
        """A part, and the size of the whole."""
        request = urllib.request.Request(self._url, headers={"Range": f"bytes={start}-{end - 1}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60, context=_certificates()) as answer:  # noqa: S310
            part, _, size = answer.headers.get("Content-Range", "").rpartition("/")
            if answer.status != 206 or not part.startswith(f"bytes {start}-"):
                raise OSError("the index gives no parts of files")
            return answer.read(end - start), int(size)


def _certificates() -> ssl.SSLContext:
    """Those that pip is told to trust, as far as its environment says."""
    return ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
