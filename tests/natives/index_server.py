"""A local package index that can be slow, cut connections, or serve other bytes than it promises."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

Behaviour = Literal["serve", "wrong", "cut", "forbid", "break"]


class IndexServer(ThreadingHTTPServer):
    """Serve the wheels and source distributions of a folder.

    Downloads of files whose names start with `holds` pause half-way until `gate` is set. With `may_cache`,
    pip caches its downloads.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.behaviour: Behaviour = "serve"
        self.holds = ""
        self.may_cache = False
        self.gate = threading.Event()
        self.gate.set()
        self.half_way = threading.Event()
        self.downloads: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    server: IndexServer

    def do_GET(self) -> None:
        kind, _, name = self.path.strip("/").partition("/")
        if kind == "simple":
            self._send("text/html", self._page(name).encode())
        elif self.server.behaviour in ("forbid", "break"):
            self.send_error(403 if self.server.behaviour == "forbid" else 500)
        else:
            self._send_wheel(self.server.folder / name)

    def _page(self, project: str) -> str:
        paths = self.server.folder.glob(f"{project.strip('/').replace('-', '_')}-*")
        links = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]
        return "".join(f'<a href="/files/{name}#sha256={digest}">{name}</a>' for name, digest in links)

    def _send_wheel(self, path: Path) -> None:
        self.server.downloads.append(path.name)
        data = path.read_bytes()
        if self.server.behaviour == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        half = len(data) // 2
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        if self.server.may_cache:
            self.send_header("Cache-Control", "max-age=86400")
        self.end_headers()
        self.wfile.write(data[:half])
        self.wfile.flush()
        self.server.half_way.set()
        if self.server.behaviour == "cut":
            return
        if path.name.startswith(self.server.holds):
            self.server.gate.wait()
        self.wfile.write(data[half:])

    def _send(self, kind: str, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def serve_index(folder: Path) -> Iterator[IndexServer]:
    with IndexServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.gate.set()
            server.shutdown()
            thread.join()
