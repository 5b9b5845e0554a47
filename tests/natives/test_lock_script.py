"""`scripts/lock.py` learns the sizes of a wheel from its end, and fetches no more of it than that."""

from __future__ import annotations

import importlib.util
import random
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "lock.py"
UNPACKED_BYTES = 2_000_000


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lock_script"] = module  # where its dataclasses look for their names
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """One that is much larger than its directory."""
    path = tmp_path / "large-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("large.bin", random.Random(0).randbytes(UNPACKED_BYTES - 5))
        archive.writestr("small.py", "A = 1")
    return path


class Server(ThreadingHTTPServer):
    """Serves one file; gives parts of it if `gives_parts`, and counts the bytes that it sends."""

    def __init__(self, file: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data = file.read_bytes()
        self.gives_parts = True
        self.sent_bytes = 0


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        data, asked = self.server.data, self.headers["Range"]
        if self.server.gives_parts:
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            data = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.server.data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.server.sent_bytes += len(data)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def server(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    server = Server(wheel)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_sizes_without_the_content(script: ModuleType, server: Server, wheel: Path) -> None:
    remote = script.RemoteFile(f"http://127.0.0.1:{server.server_port}/{wheel.name}")
    assert script.sizes(remote) == (wheel.stat().st_size, UNPACKED_BYTES)
    assert server.sent_bytes < UNPACKED_BYTES / 2


def test_a_server_that_gives_no_parts(script: ModuleType, server: Server, wheel: Path) -> None:
    server.gives_parts = False
    with pytest.raises(OSError, match="no parts"):
        script.RemoteFile(f"http://127.0.0.1:{server.server_port}/{wheel.name}")
