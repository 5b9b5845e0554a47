"""Subscribing to events, through the real daemon."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raw_client import RawClient

from whisperd.rpc.errors import WhisperdError
from whisperd.settings import LimitSettings
from whisperd_testing import RunningDaemon, write_tone


@pytest.fixture
def ask(endless: str, some_file: str) -> dict[str, Any]:
    """A job that stays queued until it is cancelled."""
    return {"input": {"path": some_file}, "options": {"model": endless}}


def event(client: RawClient) -> dict[str, Any]:
    """Return the next event."""
    while True:
        match client.receive():
            case [2, "event", [dict() as received]]:
                return received


def test_each_topic_gets_its_own_events(daemon: RunningDaemon, ask: dict[str, Any]) -> None:
    with RawClient(daemon) as jobs, RawClient(daemon) as runtimes, RawClient(daemon) as other:
        jobs.request("events.subscribe", {"topics": ["jobs"]})
        runtimes.request("events.subscribe", {"topics": ["runtimes"]})
        job = other.request("jobs.submit", ask)
        statuses = [event(runtimes)]  # a load cancelled before it begins publishes nothing
        other.request("jobs.cancel", job)
        queued, cancelled = event(jobs), event(jobs)
        assert queued["type"] == "job.queued" and queued["id"] == job["id"]
        assert cancelled["type"] == "transcription.cancelled"
        assert cancelled["error"]["code"] == "job.cancelled"
        assert (queued["seq"], cancelled["seq"]) == (1, 2)
        assert datetime.datetime.fromisoformat(queued["time"]).tzinfo is not None
        while statuses[-1]["status"] != "cancelled":
            statuses.append(event(runtimes))
        assert statuses[0]["status"] == "downloading"
        assert [each["seq"] for each in statuses] == list(range(1, len(statuses) + 1))


def test_following_one_job(daemon: RunningDaemon, ask: dict[str, Any]) -> None:
    with RawClient(daemon) as client, RawClient(daemon) as other:
        followed, unfollowed = other.request("jobs.submit", ask), other.request("jobs.submit", ask)
        client.request("events.subscribe", {"job": followed["id"]})
        other.request("jobs.cancel", unfollowed)
        other.request("jobs.cancel", followed)
    with RawClient(daemon) as client:  # also after its end
        client.send([0, 1, "events.subscribe", [{"job": followed["id"]}]])
        events = [event(client), event(client)]
        assert [each["type"] for each in events] == ["job.queued", "transcription.cancelled"]
        assert {each["id"] for each in events} == {followed["id"]}
        assert [each["seq"] for each in events] == [1, 2]


def test_two_followers_get_the_same_events(daemon: RunningDaemon, ask: dict[str, Any]) -> None:
    with RawClient(daemon) as early, RawClient(daemon) as late, RawClient(daemon) as other:
        job = other.request("jobs.submit", ask)
        early.send([0, 1, "events.subscribe", [{"job": job["id"]}]])
        other.request("jobs.cancel", job)
        late.send([0, 1, "events.subscribe", [{"job": job["id"]}]])
        assert [event(early), event(early)] == [event(late), event(late)]


def test_unsubscribing_ends_the_events(daemon: RunningDaemon, ask: dict[str, Any]) -> None:
    with RawClient(daemon) as client, RawClient(daemon) as other:
        first = client.request("events.subscribe", {"topics": ["jobs"]})
        second = client.request("events.subscribe", {"topics": ["jobs"]})
        with pytest.raises(WhisperdError) as caught:
            other.request("events.unsubscribe", first)  # it belongs to another client
        assert caught.value.code == "events.unknown_subscription"
        assert client.request("events.unsubscribe", first) == {}
        with pytest.raises(WhisperdError):
            client.request("events.unsubscribe", first)
        job = other.request("jobs.submit", ask)
        assert event(client)["type"] == "job.queued"
        client.request("events.unsubscribe", second)
        other.request("jobs.cancel", job)
        client.send([0, 7, "daemon.config", []])
        assert client.receive()[:2] == [1, 7]  # and no event before it


def test_events_call_the_method_that_the_client_names(daemon: RunningDaemon, ask: dict[str, Any]) -> None:
    with RawClient(daemon) as client:
        call = {"method": "nvim_exec_lua", "args": ["require('whisperd').on_event(...)"]}
        client.request("events.subscribe", {"topics": ["jobs"], "call": call})
        client.send([0, 1, "jobs.submit", [ask]])
        kind, method, [code, [received]] = client.receive()
        assert (kind, method, code) == (2, call["method"], call["args"][0])
        assert received["type"] == "job.queued"


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({}, "topics"),
        ({"topics": []}, "topics"),
        ({"topics": ["jobs"], "job": "one"}, "topics"),
        ({"topics": ["job"]}, "jobs"),
        ({"topics": ["job:one"]}, "job:one"),
        ({"topics": "jobs"}, "array"),
    ],
)
def test_invalid_subscriptions_are_refused(daemon: RunningDaemon, params: dict[str, Any], named: str) -> None:
    with RawClient(daemon) as client, pytest.raises(WhisperdError, match=named) as caught:
        client.request("events.subscribe", params)
    assert caught.value.code == "rpc.invalid_params"


def test_the_size_of_a_call_is_limited(daemon: RunningDaemon) -> None:
    """The call is sent with every event, so its size is limited."""
    with RawClient(daemon) as client:
        for size, fits in ((16_000, True), (17_000, False)):
            params = {"topics": ["jobs"], "call": {"method": "m", "args": ["x" * size]}}
            if fits:
                client.request("events.subscribe", params)
            else:
                with pytest.raises(WhisperdError, match="16,384 bytes"):
                    client.request("events.subscribe", params)


def test_subscribing_to_an_unknown_job_is_refused(daemon: RunningDaemon) -> None:
    with RawClient(daemon) as client, pytest.raises(WhisperdError) as caught:
        client.request("events.subscribe", {"job": "0123456789"})
    assert caught.value.code == "job.unknown"


def test_the_number_of_subscriptions_is_limited(daemon: RunningDaemon) -> None:
    with RawClient(daemon) as client:
        most = LimitSettings().max_subscriptions
        subscriptions = [client.request("events.subscribe", {"topics": ["jobs"]}) for _ in range(most)]
        with pytest.raises(WhisperdError) as caught:
            client.request("events.subscribe", {"topics": ["jobs"]})
        assert caught.value.code == "events.too_many"
        client.request("events.unsubscribe", subscriptions[0])
        client.request("events.subscribe", {"topics": ["jobs"]})


@pytest.mark.real
def test_all_events_of_a_job(daemon: RunningDaemon, toy: Callable[..., str], tmp_path: Path) -> None:
    sound = write_tone(tmp_path / "tone.wav", 3.0)
    with RawClient(daemon) as client, RawClient(daemon) as other:
        client.request("events.subscribe", {"topics": ["jobs"]})
        options = {"model": toy(), "vad": False}
        job = other.request("jobs.submit", {"input": {"path": str(sound)}, "options": options})
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] != "transcription.completed":
            events.append(event(client))
        assert [each["type"] for each in events] == [
            "job.queued",
            "job.started",
            "transcription.segment",
            "transcription.progress",
            "transcription.completed",
        ]
        assert {each["id"] for each in events} == {job["id"]}
        assert [each["seq"] for each in events] == [1, 2, 3, 4, 5]
        _, started, segment, progress, completed = events
        assert started["duration"] == pytest.approx(3.0)
        assert (segment["index"], segment["start"], segment["end"]) == (0, 0.0, pytest.approx(3.0))
        assert progress["done"] == pytest.approx(3.0)
        assert completed["text"] == segment["text"] == "transcribe 3.00 s"
        assert completed["segments"] == 1
