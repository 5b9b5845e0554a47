"""The lock maker: its locks can be installed, and it reads only the end of a wheel to learn its sizes."""

from __future__ import annotations

import itertools
import random
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from index_server import IndexServer

from whisperd.natives import Bundle, NativeStore, make_lock
from whisperd.natives.lock import parse_lock
from whisperd.natives.remote_file import RemoteFile
from whisperd.natives.target import PLATFORMS, PYTHONS

UNPACKED_BYTES = 2_000_000


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel that is much larger than its directory."""
    path = tmp_path / "large-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("large.bin", random.Random(0).randbytes(UNPACKED_BYTES - 5))
        archive.writestr("small.py", "A = 1")
    return path


class Server(ThreadingHTTPServer):
    """Serve one file, in parts if `gives_parts`, and count the bytes sent."""

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
        """Log nothing."""


@pytest.fixture
def server(wheel: Path) -> Iterator[Server]:
    server = Server(wheel)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_sizes_are_read_without_downloading_the_content(server: Server, wheel: Path) -> None:
    url = f"http://127.0.0.1:{server.server_port}/{wheel.name}"
    found = make_lock.Found("large", "1.0", "py3-none-any", "0" * 64, url)
    measured = make_lock.measure(found, "linux-x86_64", "3.12")
    assert (measured.size_bytes, measured.unpacked_bytes) == (wheel.stat().st_size, UNPACKED_BYTES)
    assert server.sent_bytes < UNPACKED_BYTES / 2


def test_a_server_without_range_requests(server: Server, wheel: Path) -> None:
    server.gives_parts = False
    with pytest.raises(OSError, match="does not serve parts"):
        RemoteFile(f"http://127.0.0.1:{server.server_port}/{wheel.name}")


BUNDLES = """
[engine-cpu]
lock = "engine.lock"
main = "engine"
distributions = ["engine>=2,<3", "engine-parts"]
"""


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_written_lock_can_be_installed(
    tmp_path: Path, index: IndexServer, store: NativeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundles.toml").write_text(BUNDLES)
    monkeypatch.setattr(make_lock, "PLATFORMS", dict(itertools.islice(PLATFORMS.items(), 1)))
    monkeypatch.setattr(make_lock, "PYTHONS", PYTHONS[:1])
    make_lock.main([str(tmp_path / "bundles.toml")])
    bundle = Bundle("engine-cpu", (tmp_path / "engine.lock").read_text())
    assert parse_lock(bundle.lock).ranges == {"engine": ">=2,<3", "engine-parts": ">=0"}
    installed = await store.install(bundle, lambda _: None)
    assert (installed.path / "engine" / "core.py").read_bytes() == b"ANSWER = 42\n"


@pytest.mark.parametrize(
    ("text", "bundles", "said"),
    [
        (BUNDLES, ["engine-gpu"], "it defines engine-cpu"),
        ('[engine-cpu]\nmain = "engine"\n', [], "no 'lock'"),
        ("[engine-cpu", [], "cannot be read"),
        (None, [], "cannot be read"),
    ],
)
def test_a_lock_that_cannot_be_made_is_explained(
    tmp_path: Path, text: str | None, bundles: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "bundles.toml").write_text(text)
    with pytest.raises(SystemExit) as ended:
        make_lock.main([str(tmp_path / "bundles.toml"), *bundles])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
