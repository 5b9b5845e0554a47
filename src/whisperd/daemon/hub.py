"""Events: who wants which, and what they missed.

A subscriber takes what it can. One that does not read is skipped, told how much it missed once it
reads again, and never slows anybody else down. A job's events are kept while the job is
remembered, so that whoever follows it late still gets all of them, as far as there is room.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import chain

import msgspec

from whisperd.clock import now_rfc3339
from whisperd.rpc.events import (
    Event,
    TranscriptionCancelled,
    TranscriptionCompleted,
    TranscriptionFailed,
    TranscriptionPartial,
    TranscriptionProgress,
)
from whisperd.rpc.messages import encode_notification, encode_value

__all__ = ["TOPICS", "EventHub", "Subscription", "job_topic"]

_NIL = encode_value(None)

TOPICS = ("jobs", "runtimes", "natives", "models", "calibration")

MAX_KEPT_BYTES = 64 * 2**20
"""Events of jobs, for late followers. Who comes later still is told how many there were; the result stays."""


Offer = Callable[[bytes, bytes], bool]
"""Takes an encoded notification, in two parts, or says no because too much is unread."""


class Subscription:
    """Topics that a connection listens to, and how it wants to be called."""

    def __init__(
        self, offer: Offer, topics: frozenset[str], notification: bytes = encode_notification("event", None)
    ) -> None:
        """`notification` is how it is called, with a nil at its end in place of the event."""
        self.topics = topics
        self._head = notification.removesuffix(_NIL)
        self._offer = offer
        self._missed = 0

    def send(self, event: bytes) -> None:
        """Hand on an encoded event, or count it as missed."""
        self.catch_up()
        if self._missed or not self._offer(self._head, event):
            self._missed += 1

    def miss(self, count: int) -> None:
        """Count events that are not there to be sent any more."""
        self._missed += count

    def catch_up(self) -> None:
        """Say how many events were missed, if that is taken by now."""
        if self._missed:
            event = {"type": "events.missed", "time": now_rfc3339(), "count": self._missed}
            if self._offer(self._head, encode_value(event)):
                self._missed = 0


class EventHub:
    """Passes events on to those who subscribed."""

    def __init__(self, clock: Callable[[], str] = now_rfc3339, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._clock = clock
        self._subscriptions: list[Subscription] = []
        self._sequence: Counter[str] = Counter()
        self._kept: defaultdict[str, list[bytes]] = defaultdict(list)
        self._over: dict[str, None] = {}
        """The topics of jobs that have ended, in that order."""
        self._kept_bytes = 0
        self._max_kept_bytes = max_kept_bytes
        self._dropped: Counter[str] = Counter()

    def publish(self, topic: str, event: Event) -> None:
        """Send an event to the subscribers of a topic."""
        self._send(topic, event, keep=False)

    def publish_job(self, event: Event) -> None:
        """Send an event of a job: to those who follow all jobs, and to those who follow this one."""
        self._send("jobs", event, keep=False)
        topic = job_topic(event.id)  # type: ignore[attr-defined]
        self._over.pop(topic, None)  # one that is done again
        if isinstance(event, TranscriptionCompleted | TranscriptionFailed | TranscriptionCancelled):
            self._over[topic] = None
        is_passing = isinstance(event, TranscriptionPartial | TranscriptionProgress)
        self._send(topic, event, keep=not is_passing)

    def subscribe(self, subscription: Subscription) -> None:
        """Begin; what a followed job has said so far comes first."""
        self._subscriptions.append(subscription)
        for topic in subscription.topics:
            subscription.miss(self._dropped[topic])
            for event in self._kept.get(topic, ()):
                subscription.send(event)
            subscription.catch_up()

    def note_gone(self, job: str) -> None:
        """What a job that is over has said was said by an earlier daemon: who follows it is told of a gap."""
        if not self._kept.get(job_topic(job)):
            self._dropped[job_topic(job)] = max(self._dropped[job_topic(job)], 1)

    def unsubscribe(self, subscription: Subscription) -> None:
        """End. Harmless when it has ended."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def forget_job(self, job: str) -> None:
        """The job is not remembered any more."""
        self._drop(job_topic(job))
        self._dropped.pop(job_topic(job), None)
        self._sequence.pop(job_topic(job), None)

    def _send(self, topic: str, event: Event, *, keep: bool) -> None:
        self._sequence[topic] += 1
        listeners = [each for each in self._subscriptions if topic in each.topics]
        if not listeners and not keep:
            return
        message = {**msgspec.to_builtins(event), "time": self._clock(), "seq": self._sequence[topic]}
        data = encode_value(message)
        if keep:
            self._keep(topic, data)
        for subscription in listeners:
            subscription.send(data)

    def _keep(self, topic: str, data: bytes) -> None:
        """Keep an event for late followers. When there are too many, those of a job are dropped: of the first
        that has ended, whose result stays, and only then of the first that has begun.
        """
        self._kept[topic].append(data)
        self._kept_bytes += len(data)
        while self._kept_bytes > self._max_kept_bytes:
            oldest = next(one for one in chain(self._over, self._kept) if self._kept.get(one))
            self._dropped[oldest] += self._drop(oldest)

    def _drop(self, topic: str) -> int:
        """Forget the kept events of a job; returns how many."""
        self._over.pop(topic, None)
        events = self._kept.pop(topic, [])
        self._kept_bytes -= sum(map(len, events))
        return len(events)


def job_topic(job: str) -> str:
    """The topic of one job."""
    return f"job:{job}"
