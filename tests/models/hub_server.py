"""A local model hub that speaks the hub's protocol, and misbehaves on request.

As on the hub, large files are redirected to another origin, which serves ranges.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 1000


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@dataclass
class Answer:
    """A canned answer to the next `times` requests whose path contains `path`."""

    path: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    times: int = 1_000_000


@dataclass
class Hub:
    """The content of a hub, how it misbehaves, and the requests it received."""

    url: str = ""
    storage_url: str = ""
    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Files by repository and commit; the last commit is `main`."""
    refs: dict[str, str] = field(default_factory=dict)
    """Commits by branch or tag."""
    moved: dict[str, str] = field(default_factory=dict)
    """New names of repositories, by old name."""
    gated: set[str] = field(default_factory=set)
    token: str = "hf_test"
    answers: list[Answer] = field(default_factory=list)
    plain_listing: bool = False
    """Whether listings lack sizes and hashes, as those of simple mirrors do."""
    sizeless: bool = False
    """Whether the size of a small file is withheld until it is sent."""
    cut_after: int | None = None
    """Close the connection after this many bytes in each of the next downloads."""
    cuts: int = 0
    """How many downloads are still to be cut off."""
    stall_after: int | None = None
    """Stall after this many bytes of each download until `gate` is set; then close."""
    gate: threading.Event = field(default_factory=threading.Event)
    flip: str | None = None
    """The file that is always sent with one wrong byte."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and `Authorization` of each request."""
    served: dict[str, int] = field(default_factory=dict)
    """Bytes sent, by file."""
    begun: dict[str, list[int]] = field(default_factory=dict)
    """The first byte of each download, by file."""

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """Commit files and return the commit."""
        commit = commit_of(files)
        self.repos.setdefault(repo, {})[commit] = files
        return commit

    def asked(self, part: str) -> int:
        """Return how many requests had this in their path."""
        return sum(part in path for _, path, _ in self.requests)


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    servers = [_Server(("127.0.0.1", 0), _Handler, hub) for _ in range(2)]
    hub.url, hub.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.gate.set()
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], hub: Hub) -> None:
        super().__init__(address, handler)
        self.hub = hub

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def _handle(self) -> None:
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Authorization")))
        for answer in hub.answers:
            if answer.path in path and answer.times:
                answer.times -= 1
                return self._send(answer.status, answer.headers, answer.body)
        for old, new in hub.moved.items():
            if old in path:
                return self._send(307, {"Location": self.path.replace(old, new)})
        if path.startswith("/api/models/"):
            return self._list(path.removeprefix("/api/models/"))
        if path.startswith("/storage/"):
            _, _, sha256, name = path.split("/")
            data = next(
                data for _, _, data in self._all_files() if hashlib.sha256(data).hexdigest() == sha256
            )
            return self._send_file(name, data, {})
        repo, _, rest = path.strip("/").partition("/resolve/")
        commit, _, name = rest.partition("/")
        return self._resolve(repo, commit, name)

    def _all_files(self) -> Iterator[tuple[str, str, bytes]]:
        for repo, commits in self.server.hub.repos.items():
            for files in commits.values():
                for name, data in files.items():
                    yield repo, name, data

    def _files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.server.hub.repos.get(repo)
        if commits is None:
            self._send(401, {"X-Error-Code": "RepoNotFound"}, b'{"error": "Repository not found"}')
            return None
        commit = list(commits)[-1] if revision == "main" else self.server.hub.refs.get(revision, revision)
        if commit not in commits:
            self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
            return None
        return commit, commits[commit]

    def _list(self, path: str) -> None:
        repo, _, revision = path.partition("/revision/")
        if (found := self._files(repo, revision or "main")) is None:
            return
        commit, files = found
        siblings = [self._sibling(name, data) for name, data in files.items()]
        body = {"id": repo, "modelId": repo, "sha": commit, "private": False, "siblings": siblings}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _sibling(self, name: str, data: bytes) -> dict[str, object]:
        if self.server.hub.plain_listing:
            return {"rfilename": name}
        sibling = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
        if len(data) > LARGE_BYTES:
            sha256 = hashlib.sha256(data).hexdigest()
            sibling |= {"blobId": "0" * 40, "lfs": {"sha256": sha256, "size": len(data), "pointerSize": 134}}
        return sibling

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        hub = self.server.hub
        if repo in hub.gated and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._send(401, {"X-Error-Code": "GatedRepo"}, b"Access to model is restricted.")
        if (found := self._files(repo, revision)) is None:
            return None
        commit, files = found
        if name not in files:
            return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data = files[name]
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if len(data) <= LARGE_BYTES:
            return self._send_file(name, data, headers | {"ETag": f'"{git_sha1(data)}"'})
        sha256 = hashlib.sha256(data).hexdigest()
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
        return self._send(302, headers | {"Location": f"{hub.storage_url}/storage/{sha256}/{name}"})

    def _send_file(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        hub = self.server.hub
        start, status = 0, 200
        if wanted := self.headers.get("Range"):
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(data):
                return self._send(416, {"Content-Range": f"bytes */{len(data)}"})
            headers = headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        if hub.flip == name:
            data = bytes([data[0] ^ 1]) + data[1:]
        body = data[start:]
        self._begin(status, headers, None if hub.sizeless and self.command == "HEAD" else len(body))
        if self.command == "HEAD":
            return None
        hub.begun.setdefault(name, []).append(start)
        if hub.cuts and hub.cut_after is not None and len(body) > hub.cut_after:
            hub.cuts -= 1
            self._write(name, body[: hub.cut_after])
            self.close_connection = True
        elif hub.stall_after is not None and len(body) > hub.stall_after and not hub.gate.is_set():
            self._write(name, body[: hub.stall_after])
            hub.gate.wait()
            self.close_connection = True
        else:
            self._write(name, body)
        return None

    def _write(self, name: str, body: bytes) -> None:
        # Count before sending: a client that has received the bytes may read the count at once.
        served = self.server.hub.served
        served[name] = served.get(name, 0) + len(body)
        self.wfile.write(body)
        self.wfile.flush()

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self._begin(status, headers, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: int, headers: dict[str, str], length: int | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
