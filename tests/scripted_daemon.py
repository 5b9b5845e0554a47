"""A daemon with scripted answers, for those that a real one gives only on other computers."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack

from whisperd._version import __version__
from whisperd.rpc.errors import WhisperdError

Map = dict[str, Any]


class ScriptedDaemon:
    """Answer each method with the return value or the error of its function, or with a fixed value.

    Clients are served one after the other.
    """

    def __init__(self, path: Path, **answers: Any) -> None:
        self.path = str(path)
        self.requests: list[tuple[str, Map]] = []
        """All requests, except the greetings."""
        self.greetings: list[Map] = []
        self.answers: dict[str, Any] = {
            "session.hello": {"server": "whisperd", "version": __version__, "protocol": 1},
            "session.ping": {},
            "events.subscribe": {"subscription": 1},
            "events.unsubscribe": {},
        }
        self.set(**answers)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._client: socket.socket | None = None
        self._calls: list[Map | None] = []
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def set(self, **answers: Any) -> None:
        """Set answers; `runtimes_list` is the method `runtimes.list`."""
        self.answers.update({name.replace("_", ".", 1): answer for name, answer in answers.items()})

    def asked(self, noun: str) -> list[tuple[str, Map]]:
        """Return the requests of a noun."""
        return [request for request in self.requests if request[0].startswith(f"{noun}.")]

    def publish(self, **event: Any) -> None:
        """Send an event to the connected client, once for each of its subscriptions."""
        for call in self._calls:
            self._send([2, "event", [*call["args"], [event]] if call else [event]])

    def hang_up(self) -> None:
        """Close the connection."""
        assert self._client is not None
        self._client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop, once its client has disconnected."""
        self._is_closed = True
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.path)
        self._thread.join(30)
        self._listener.close()

    def _serve(self) -> None:
        while not self._is_closed:
            self._client, _ = self._listener.accept()
            with self._client, suppress(OSError):
                self._answer_all(self._client)

    def _answer_all(self, client: socket.socket) -> None:
        unpacker = msgpack.Unpacker()
        while data := client.recv(65536):
            unpacker.feed(data)
            for _, message_id, method, params in unpacker:
                self._answer(message_id, method, params[0] if params else {})

    def _answer(self, message_id: int, method: str, params: Map) -> None:
        if method == "session.hello":
            self.greetings.append(params)
            self._calls.clear()
        else:
            self.requests.append((method, params))
        if method == "events.subscribe":
            self._calls.append(params.get("call"))
        try:
            answer = self.answers.get(method, _unscripted)
            result = answer(params) if callable(answer) else answer
        except WhisperdError as error:
            self._send([1, message_id, error.to_wire(), None])
        else:
            self._send([1, message_id, None, result])

    def _send(self, message: list[Any]) -> None:
        assert self._client is not None
        self._client.sendall(msgpack.packb(message))


def _unscripted(_params: Map) -> None:
    raise WhisperdError("rpc.unknown_method", "The test has no answer for this.", "Give it one.")


def a_runtime(name: str = "fast", **changes: Any) -> Map:
    """Return a runtime as the daemon describes it."""
    return {
        "id": "0a1b2c3d", "name": name, "model": "tiny.en", "backend": "auto", "device": "auto",
        "device_index": [], "compute_type": "auto", "cpu_threads": 0, "workers": 0, "batched": True,
        "batch_size": 4, "keep_alive": 900.0, "enabled": True, "default": False, "protected": False,
        "created": "2026-01-02T03:04:05.000Z", "changed": "2026-01-02T03:04:05.000Z", "version": 1,
        "saved": True, "status": "unloaded", "progress": None, "detail": None, "error": None,
        "variant": None, "loaded": None, "memory": None, "pid": None, "leases": 0, "waiting": 0,
        "last_used": None, **changes,
    }  # fmt: skip


SHOWN: Map = {"warnings": [], "to_download": None}
"""The fields that only `show`, `create` and `edit` return."""
LOADED: Map = {
    "status": "loaded",
    "variant": "ctranslate2-cpu",
    "memory": 145_000_000,
    "pid": 4711,
    "loaded": {
        "device": "cpu",
        "device_index": [],
        "compute_type": "int8",
        "workers": 2,
        "cpu_threads": 1,
        "batch_size": 4,
        "library": "ctranslate2 4.8.5",
    },
}
"""The fields that differ in a loaded runtime."""
