"""A client that does not read its answers, or floods the daemon, does not affect others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgpack
import pytest
from raw_client import RawClient, memory_bytes, until

from whisperd_testing import RunningDaemon

pytestmark = pytest.mark.slow

Limited = Callable[..., RunningDaemon]

MEGABYTE = 2**20
ECHO = msgpack.packb([0, 1, "jobs.show", [{"id": "x" * 4000}]])
"""A quick request whose answer is as large as itself: the job does not exist."""


@contextmanager
def attacking(attack: Callable[[], None]) -> Iterator[None]:
    """Run an attack repeatedly while the block runs."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.is_set():
            attack()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def check_others_are_served(daemon: RunningDaemon) -> None:
    """Check that another client is answered repeatedly. Benchmarks measure how quickly."""
    with RawClient(daemon) as other:
        for _ in range(30):
            assert other.request("daemon.status")["pid"] == daemon.pid


def test_a_client_that_never_reads_its_answers(limited: Limited) -> None:
    daemon = limited(max_unread_bytes=MEGABYTE, unread_timeout_s=600)
    with RawClient(daemon) as deaf:
        assert deaf.request("daemon.config")
        before_bytes = memory_bytes(daemon)
        asked, begun_bytes = divmod(deaf.send_until_refused(ECHO, least_bytes=MEGABYTE), len(ECHO))
        assert memory_bytes(daemon) - before_bytes < 8 * MEGABYTE
        check_others_are_served(daemon)
        # It was throttled, not dropped: every answer arrives once it reads.
        for _ in range(asked):
            assert deaf.receive()[2]["code"] == "job.unknown"
        deaf.send(ECHO[begun_bytes:])
        assert deaf.receive()[2]["code"] == "job.unknown"


def test_a_client_that_keeps_not_reading_is_disconnected(limited: Limited) -> None:
    daemon = limited(max_unread_bytes=100_000, unread_timeout_s=0.3)
    with RawClient(daemon) as deaf:
        deaf.send_until_refused(ECHO, least_bytes=8 * MEGABYTE)
        with RawClient(daemon) as other:
            until(lambda: other.request("daemon.status")["clients"] == 1)
        assert deaf.is_closed()
    assert "rpc.unread" in daemon.log()


def test_a_client_that_reads_late_is_answered_in_full(limited: Limited) -> None:
    """A client may request more than the unread limit if it reads the answers in the end."""
    daemon = limited(max_unread_bytes=50_000)
    with RawClient(daemon) as client:
        thread = threading.Thread(
            target=client.send, args=[[0, number, "daemon.config", []] for number in range(1000)]
        )
        thread.start()
        answered = [client.receive()[1] for _ in range(1000)]
        thread.join()
    assert sorted(answered) == list(range(1000))


def test_unread_events_are_dropped_and_counted(limited: Limited, endless: str, some_file: str) -> None:
    daemon = limited(max_unread_bytes=MEGABYTE, unread_timeout_s=600)
    ask = {"input": {"path": some_file}, "options": {"model": endless}}
    with RawClient(daemon) as deaf, RawClient(daemon) as other:
        # Each event is as large as allowed, and each job publishes two.
        deaf.request(
            "events.subscribe", {"topics": ["jobs"], "call": {"method": "m", "args": ["x" * 15_000]}}
        )
        before_bytes = memory_bytes(daemon)
        for _ in range(500):
            other.request("jobs.cancel", other.request("jobs.submit", ask))
        # The jobs are remembered, in about 11 MB; the events would take another 15 MB.
        assert memory_bytes(daemon) - before_bytes < 19 * MEGABYTE
        check_others_are_served(daemon)

        events = []
        while not events or events[-1]["type"] != "events.missed":
            events.append(deaf.receive()[2][-1][0])
        assert 10 < len(events) < 500
        assert len(events) - 1 + events[-1]["count"] == 1000
        # From here on it gets every event again.
        job = other.request("jobs.submit", ask)
        event = deaf.receive()[2][-1][0]
        assert (event["type"], event["id"], event["seq"]) == ("job.queued", job["id"], 1001)


def test_a_flood_of_small_requests(limited: Limited) -> None:
    daemon = limited(max_unread_bytes=10 * MEGABYTE)
    unknown = msgpack.packb([0, 1, "no.such", []])
    with RawClient(daemon) as flooder:

        def flood() -> None:
            flooder.send(unknown * 5000)
            for _ in range(5000):
                flooder.receive()

        with attacking(flood):
            check_others_are_served(daemon)


def test_a_flood_of_the_largest_shapes(limited: Limited) -> None:
    daemon = limited()
    frame = msgpack.packb([0, 1, "events.subscribe", [{"topics": ["x" * 200] * 19_000}]])
    with RawClient(daemon) as flooder:

        def flood() -> None:
            flooder.send(frame)
            flooder.receive()

        with attacking(flood):
            check_others_are_served(daemon)


def test_a_flood_of_connections(limited: Limited) -> None:
    """Clients that send a request and disconnect, as many as possible."""
    daemon = limited(max_connections=10_000)

    def flood() -> None:
        for _ in range(50):
            with RawClient(daemon) as client:
                client.send(ECHO)

    with attacking(flood):
        check_others_are_served(daemon)
