"""The distribution of events to subscribers, including those that do not keep up."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.daemon.hub import EventHub, Subscription
from whisperd.rpc.events import (
    Event,
    JobQueued,
    RuntimeStatus,
    TranscriptionCancelled,
    TranscriptionProgress,
    TranscriptionSegment,
)
from whisperd.rpc.messages import encode_notification

NOW = "2026-01-02T03:04:05.678Z"


class Sink:
    """A client that accepts as many events as it has room for."""

    def __init__(self, room: float = float("inf")) -> None:
        self.room = room
        self.taken: list[list[Any]] = []

    def offer(self, *parts: bytes) -> bool:
        if self.room <= 0:
            return False
        self.room -= 1
        self.taken.append(msgpack.unpackb(b"".join(parts)))
        return True

    @property
    def events(self) -> list[dict[str, Any]]:
        return [message[2][-1] for message in self.taken]


def hub() -> EventHub:
    return EventHub(clock=lambda: NOW)


def subscribed(to: EventHub, *topics: str, room: float = float("inf"), called: tuple[Any, ...] = ()) -> Sink:
    sink = Sink(room)
    how = [encode_notification(*called)] if called else []
    to.subscribe(Subscription(sink.offer, frozenset(topics), *how))
    return sink


def segment(job: str, index: int) -> Event:
    return TranscriptionSegment(id=job, index=index, start=0, end=1, text="words")


def progress(job: str) -> Event:
    return TranscriptionProgress(id=job, done=1, total=2, speed=3, eta=4)


def test_an_event_has_its_type_time_and_number() -> None:
    events = hub()
    sink = subscribed(events, "jobs")
    events.publish_job(JobQueued(id="one", position=4))
    assert sink.taken == [
        [2, "event", [{"type": "job.queued", "time": NOW, "seq": 1, "id": "one", "position": 4}]]
    ]


def test_each_topic_has_its_own_numbering() -> None:
    events = hub()
    all_jobs, one_job, runtimes = (subscribed(events, topic) for topic in ("jobs", "job:one", "runtimes"))
    for number in range(3):
        events.publish_job(segment("one", number))
        events.publish_job(segment("two", number))
        events.publish("runtimes", RuntimeStatus(id="base", name="base", status="loading"))
    assert [event["seq"] for event in all_jobs.events] == [1, 2, 3, 4, 5, 6]
    assert [(event["id"], event["seq"]) for event in one_job.events] == [("one", 1), ("one", 2), ("one", 3)]
    assert [event["seq"] for event in runtimes.events] == [1, 2, 3]


def test_a_late_follower_gets_all_events_except_progress() -> None:
    events = hub()
    early = subscribed(events, "job:one")
    events.publish_job(JobQueued(id="one", position=0))
    events.publish_job(segment("one", 0))
    events.publish_job(progress("one"))
    late = subscribed(events, "job:one")
    events.publish_job(segment("one", 1))
    events.publish_job(progress("one"))
    assert [event["seq"] for event in early.events] == [1, 2, 3, 4, 5]
    assert late.events == [event for event in early.events if event["seq"] != 3]


def test_a_late_follower_without_room_is_offered_no_more() -> None:
    """There may be a hundred thousand events, and each offer takes time."""
    events, offers = hub(), list[tuple[bytes, ...]]()
    for number in range(100):
        events.publish_job(segment("one", number))

    def offer(*parts: bytes) -> bool:
        offers.append(parts)
        return len(offers) <= 10

    events.subscribe(Subscription(offer, frozenset(["job:one"])))
    assert len(offers) == 12, "ten events, one for which there is no room, and the number of those missed"


def test_events_of_a_forgotten_job_are_not_replayed() -> None:
    events = hub()
    events.publish_job(TranscriptionCancelled(id="one", error={}))
    events.forget_job("one")
    assert subscribed(events, "job:one").events == []


def test_events_beyond_the_limit_are_dropped_and_counted() -> None:
    events = EventHub(clock=lambda: NOW, max_kept_bytes=1000)
    for job in ("one", "two"):
        for number in range(6):
            events.publish_job(segment(job, number))
    [missed] = subscribed(events, "job:one").events
    assert (missed["type"], missed["count"]) == ("events.missed", 6)
    assert [event["seq"] for event in subscribed(events, "job:two").events] == [1, 2, 3, 4, 5, 6]
    for job in ("one", "two"):
        events.forget_job(job)
        assert subscribed(events, f"job:{job}").events == []
    events.publish_job(segment("three", 0))
    assert len(subscribed(events, "job:three").events) == 1


def test_events_of_unfinished_jobs_are_kept_longest() -> None:
    events = EventHub(clock=lambda: NOW, max_kept_bytes=1000)
    events.publish_job(segment("long", 0))
    for job in ("one", "two", "three"):
        events.publish_job(segment(job, 0))
        events.publish_job(TranscriptionCancelled(id=job, error={}))
    events.publish_job(JobQueued(id="one", position=0))  # it is retried
    for index in range(2):
        events.publish_job(segment("one", index))
    first_events = {
        job: subscribed(events, f"job:{job}").events[0] for job in ("long", "one", "two", "three")
    }
    assert [job for job, first in first_events.items() if first["type"] == "events.missed"] == ["two"]


def test_an_event_is_encoded_once_for_all_subscribers(monkeypatch: pytest.MonkeyPatch) -> None:
    events = hub()
    for number in range(10):
        subscribed(events, "jobs", room=number, called=("m", number, None))
    encoded: list[object] = []

    def encode(value: object) -> bytes:
        encoded.append(value)
        return msgpack.packb(value)

    monkeypatch.setattr("whisperd.daemon.hub.encode_value", encode)
    events.publish("jobs", JobQueued(id="one", position=0))
    assert len(encoded) == 1


def test_events_call_the_method_of_the_subscription() -> None:
    events = hub()
    sink = subscribed(events, "jobs", called=("nvim_exec_lua", "code", {"any": [1]}, [None]))
    events.publish_job(JobQueued(id="one", position=0))
    [[_, method, [code, anything, [event]]]] = sink.taken
    assert (method, code, anything, event["type"]) == ("nvim_exec_lua", "code", {"any": [1]}, "job.queued")


def test_no_events_after_unsubscribing() -> None:
    events, sink = hub(), Sink()
    subscription = Subscription(sink.offer, frozenset({"jobs"}))
    events.subscribe(subscription)
    events.unsubscribe(subscription)
    events.unsubscribe(subscription)
    events.publish_job(JobQueued(id="one", position=0))
    assert sink.taken == []


@given(st.lists(st.sampled_from(["event", "room", "idle"]), max_size=60), st.integers(0, 5))
def test_missed_events_are_counted_exactly(happenings: list[str], room: int) -> None:
    """Whatever the timing: every event arrives once and in order, or is counted where it is missing."""
    events, sink = hub(), Sink(room)
    subscription = Subscription(sink.offer, frozenset({"jobs"}))
    events.subscribe(subscription)
    published = 0
    for happening in [*happenings, "room", "room", "idle"]:
        match happening:
            case "event":
                published += 1
                events.publish_job(segment("one", published))
            case "room":
                sink.room += 1
            case "idle":  # the connection reports that it has sent everything
                subscription.catch_up()
    accounted = 0
    for event in sink.events:
        if event["type"] == "events.missed":
            assert event["count"] > 0
            accounted += event["count"]
        else:
            accounted += 1
            assert event["seq"] == accounted
    assert accounted == published


@given(st.integers(0, 12), st.integers(0, 12))
def test_a_slow_client_does_not_delay_others(room: int, count: int) -> None:
    events = hub()
    slow, quick = subscribed(events, "jobs", room=room), subscribed(events, "jobs")
    for number in range(count):
        events.publish_job(segment("one", number))
    assert [event["seq"] for event in quick.events] == list(range(1, count + 1))
    assert [event["seq"] for event in slow.events] == list(range(1, min(room, count) + 1))
