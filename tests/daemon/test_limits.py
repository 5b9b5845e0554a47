"""Each limit is a setting and affects only the client that exceeds it."""

from __future__ import annotations

import resource
from collections.abc import Callable

import msgpack
import psutil
import pytest
from raw_client import RawClient, until

from whisperd.rpc.errors import WhisperdError
from whisperd_testing import RunningDaemon

Limited = Callable[..., RunningDaemon]


def test_message_size_is_limited(limited: Limited) -> None:
    daemon = limited(max_frame_bytes=5000)
    with RawClient(daemon) as client, RawClient(daemon) as other:
        upload = client.request("uploads.create")["id"]
        overhead = len(msgpack.packb([0, 7, "uploads.append", [{"id": upload, "data": b"x" * 4000}]])) - 4000
        fits = [0, 7, "uploads.append", [{"id": upload, "data": b"x" * (5000 - overhead)}]]
        assert len(msgpack.packb(fits)) == 5000
        client.send(fits)
        assert client.answer(7)["size"] == 5000 - overhead
        client.send([0, 8, "uploads.append", [{"id": upload, "data": b"x" * (5001 - overhead)}]])
        assert client.error() == "rpc.frame_too_large"
        assert other.request("daemon.status")


def test_message_nesting_is_limited(limited: Limited) -> None:
    daemon = limited(max_frame_depth=4)
    with RawClient(daemon) as client:
        with pytest.raises(WhisperdError, match="input"):  # the message, its parameters, their map, a list
            client.request("jobs.submit", {"input": [1]})
        client.send([0, 1, "jobs.submit", [{"input": [[1]]}]])
        assert client.error() == "rpc.frame_too_deep"


def test_message_items_are_limited(limited: Limited) -> None:
    daemon = limited(max_frame_items=100)
    around = 7  # the message, kind, id, method, parameters, their map, its key; then the list of topics
    with RawClient(daemon) as client:
        with pytest.raises(WhisperdError, match="topic"):
            client.request("events.subscribe", {"topics": ["x"] * (100 - around - 1)})
        client.send([0, 1, "events.subscribe", [{"topics": ["x"] * (100 - around)}]])
        assert client.error() == "rpc.frame_too_large"


def test_concurrent_clients_are_limited(limited: Limited) -> None:
    daemon = limited(max_connections=3)
    with RawClient(daemon) as first, RawClient(daemon) as second:
        with RawClient(daemon) as third, RawClient(daemon) as one_too_many:
            assert third.request("daemon.status")["clients"] == 3
            assert one_too_many.error() == "daemon.too_many_connections"
            assert second.request("daemon.status")["clients"] == 3
        until(lambda: first.request("daemon.status")["clients"] == 2)
        with RawClient(daemon) as another:
            assert another.request("daemon.status")["clients"] == 3


def test_pending_requests_are_limited(limited: Limited, endless: str, some_file: str) -> None:
    daemon = limited(max_pending_requests=5)
    with RawClient(daemon) as client, RawClient(daemon) as other:
        job = client.request("jobs.submit", {"input": {"path": some_file}, "options": {"model": endless}})
        client.send(*([0, number, "jobs.wait", [job]] for number in range(6)))
        with pytest.raises(WhisperdError) as caught:
            client.answer(5)
        assert caught.value.code == "rpc.too_many_requests"
        assert "max_pending_requests" in caught.value.fix
        other.request("jobs.cancel", job)
        for number in range(5):
            with pytest.raises(WhisperdError) as caught:
                client.answer(number)
            assert caught.value.code == "job.cancelled"
        assert client.request("daemon.status")


def test_subscriptions_are_limited(limited: Limited) -> None:
    with RawClient(limited(max_subscriptions=2)) as client:
        for _ in range(2):
            client.request("events.subscribe", {"topics": ["jobs"]})
        with pytest.raises(WhisperdError) as caught:
            client.request("events.subscribe", {"topics": ["jobs"]})
        assert caught.value.code == "events.too_many" and "max_subscriptions" in caught.value.fix


def test_a_message_id_in_use_is_refused(limited: Limited, endless: str, some_file: str) -> None:
    daemon = limited()
    with RawClient(daemon) as client, RawClient(daemon) as other:
        job = client.request("jobs.submit", {"input": {"path": some_file}, "options": {"model": endless}})
        client.send([0, 7, "jobs.wait", [job]], [0, 7, "daemon.status", []])
        with pytest.raises(WhisperdError) as caught:
            client.answer(7)
        assert caught.value.code == "rpc.duplicate_id"
        other.request("jobs.cancel", job)
        with pytest.raises(WhisperdError) as caught:
            client.answer(7)
        assert caught.value.code == "job.cancelled"
        client.send([0, 7, "daemon.status", []])  # free again
        assert client.answer(7)["pid"] == daemon.pid


def test_quick_requests_may_exceed_the_pending_limit(limited: Limited) -> None:
    daemon = limited(max_pending_requests=2)
    with RawClient(daemon) as client:
        client.send(*([0, number, "daemon.config", []] for number in range(200)))
        for number in range(200):
            assert client.answer(number)["content"]


def test_upload_size_is_limited(limited: Limited) -> None:
    daemon = limited(max_upload_bytes=1000)
    with RawClient(daemon) as client:
        upload = client.request("uploads.create")["id"]
        assert client.request("uploads.append", {"id": upload, "data": b"x" * 1000})["size"] == 1000
        with pytest.raises(WhisperdError) as caught:
            client.request("uploads.append", {"id": upload, "data": b"x"})
        assert caught.value.code == "upload.too_large"
        with pytest.raises(WhisperdError) as caught:
            client.request("uploads.append", {"id": upload, "data": b"x"})
        assert caught.value.code == "upload.unknown"
    assert not list((daemon.folder / "state" / "uploads").iterdir())


def test_uploads_of_one_client_are_limited(limited: Limited) -> None:
    daemon = limited(max_uploads=2)
    with RawClient(daemon) as client, RawClient(daemon) as other:
        first, _ = client.request("uploads.create"), client.request("uploads.create")
        with pytest.raises(WhisperdError) as caught:
            client.request("uploads.create")
        assert caught.value.code == "upload.too_many"
        assert other.request("uploads.create")
        client.request("uploads.delete", first)
        assert client.request("uploads.create")


def test_concurrent_uploads_of_one_client_are_limited(limited: Limited) -> None:
    with RawClient(limited(max_uploads=2)) as client:
        client.send(*([0, number, "uploads.create", []] for number in range(20)))
        answers = [client.receive() for _ in range(20)]
        assert sum(error is None for _, _, error, _ in answers) == 2


def test_a_refused_upload_frees_its_slot(limited: Limited) -> None:
    with RawClient(limited(max_uploads=1, max_upload_bytes=10)) as client:
        for _ in range(2):
            upload = client.request("uploads.create")["id"]
            with pytest.raises(WhisperdError, match="larger than 10 bytes"):
                client.request("uploads.append", {"id": upload, "data": b"x" * 11})


def test_uploads_of_all_clients_are_limited(limited: Limited) -> None:
    daemon = limited(max_uploads_bytes=1000)
    with RawClient(daemon) as client, RawClient(daemon) as other:
        mine, theirs = client.request("uploads.create")["id"], other.request("uploads.create")["id"]
        client.request("uploads.append", {"id": mine, "data": b"x" * 900})
        with pytest.raises(WhisperdError) as caught:
            other.request("uploads.append", {"id": theirs, "data": b"x" * 101})
        assert caught.value.code == "upload.no_room"
        client.request("uploads.delete", {"id": mine})
        theirs = other.request("uploads.create")["id"]
        assert other.request("uploads.append", {"id": theirs, "data": b"x" * 1000})["size"] == 1000


def test_queued_jobs_are_limited(limited: Limited, endless: str, some_file: str) -> None:
    daemon = limited(max_jobs=2)
    ask = {"input": {"path": some_file}, "options": {"model": endless}}
    with RawClient(daemon) as client:
        first, _ = client.request("jobs.submit", ask), client.request("jobs.submit", ask)
        with pytest.raises(WhisperdError) as caught:
            client.request("jobs.submit", ask)
        assert caught.value.code == "job.queue_full"
        assert 1 <= caught.value.data["retry_after_s"] <= 600
        assert f"{caught.value.data['retry_after_s']} seconds" in caught.value.fix
        client.request("jobs.cancel", first)
        assert client.request("jobs.submit", ask)


def test_remembered_jobs_are_limited(make_daemon: Limited, endless: str, some_file: str) -> None:
    daemon = make_daemon()
    daemon.settings("[jobs]\nkeep_count = 3\n")
    daemon.start()
    with RawClient(daemon) as client:
        ids = []
        for _ in range(5):
            job = client.request("jobs.submit", {"input": {"path": some_file}, "options": {"model": endless}})
            client.request("jobs.cancel", job)
            ids.append(job["id"])
        assert [job["id"] for job in client.request("jobs.list")] == ids[2:]


@pytest.mark.skipif(
    not hasattr(psutil.Process, "rlimit"), reason="this system cannot set the limits of another process"
)
def test_running_out_of_file_descriptors(limited: Limited) -> None:
    """New clients wait, connected clients do not notice, and no client is lost."""
    daemon = limited()
    process = psutil.Process(daemon.pid)
    with RawClient(daemon) as client:
        soft, hard = process.rlimit(resource.RLIMIT_NOFILE)
        process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds() + 3, hard))
        crowd = [RawClient(daemon) for _ in range(10)]
        until(lambda: "cannot accept a client" in daemon.log())
        assert client.request("daemon.config")
        process.rlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in crowd:
            with one:
                assert one.request("daemon.config")
