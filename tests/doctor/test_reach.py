"""The doctor's inspection of the socket."""

from __future__ import annotations

import socket
import sys
import tempfile
from contextlib import ExitStack, suppress

import pytest

from whisperd.doctor import look_at_socket


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="on other systems a full queue refuses connections, like a socket without a listener",
)
def test_a_daemon_that_accepts_no_client_does_not_block_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisperd.rpc.transport.PROBE_TIMEOUT_S", 0.01)
    with ExitStack() as stack:
        path = stack.enter_context(tempfile.TemporaryDirectory(prefix="wd-")) + "/d.sock"
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        with suppress(BlockingIOError):  # until the queue is full
            while True:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(path)
        assert look_at_socket(path).listening
