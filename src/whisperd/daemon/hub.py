"""Distributes events to subscribers, and counts those that they missed.

A subscriber that does not read misses events, is sent their number once it reads again, and never slows down
others. The events of a job are kept while the job is remembered, so that a late follower still gets all of
them, within a limit on memory.
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

MAX_KEPT_BYTES = 16 * 2**20
"""Limit on the events of jobs that are kept for late followers. Those of an hour of speech have 0.2 MiB, with
word times 2, and take nearly twice as much memory. If they were dropped, a follower gets only their number;
results are stored separately."""


Offer = Callable[[bytes, bytes], bool]
"""Accepts an encoded notification, in two parts, or returns False because too much is unread."""


class Subscription:
    """The topics that a connection subscribes to, and the notification that it wants for each event."""

    def __init__(
        self, offer: Offer, topics: frozenset[str], notification: bytes = encode_notification("event", None)
    ) -> None:
        """`notification` is the encoded notification, with a nil at its end in place of the event."""
        self.topics = topics
        self._head = notification.removesuffix(_NIL)
        self._offer = offer
        self._missed = 0

    def send(self, *events: bytes) -> None:
        """Send encoded events, and count those as missed for which there is no room."""
        self.catch_up()
        for place, event in enumerate(events):
            if self._missed or not self._offer(self._head, event):
                self._missed += len(events) - place
                return

    def miss(self, count: int) -> None:
        """Count events that are no longer available."""
        self._missed += count

    def catch_up(self) -> None:
        """Send the number of missed events, if the connection accepts it by now."""
        if self._missed:
            event = {"type": "events.missed", "time": now_rfc3339(), "count": self._missed}
            if self._offer(self._head, encode_value(event)):
                self._missed = 0


class EventHub:
    """Distributes events to subscriptions."""

    def __init__(self, clock: Callable[[], str] = now_rfc3339, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._clock = clock
        self._subscriptions: list[Subscription] = []
        self._sequence: Counter[str] = Counter()
        self._kept: defaultdict[str, list[bytes]] = defaultdict(list)
        self._over: dict[str, None] = {}
        """The topics of finished jobs, in the order in which they finished."""
        self._kept_bytes = 0
        self._max_kept_bytes = max_kept_bytes
        self._dropped: Counter[str] = Counter()

    def publish(self, topic: str, event: Event) -> None:
        """Send an event to the subscribers of a topic."""
        self._send(topic, event, keep=False)

    def publish_job(self, event: Event) -> None:
        """Send an event of a job to the followers of all jobs and to those of this job."""
        self._send("jobs", event, keep=False)
        topic = job_topic(event.id)  # type: ignore[attr-defined]
        self._over.pop(topic, None)  # the job was retried
        if isinstance(event, TranscriptionCompleted | TranscriptionFailed | TranscriptionCancelled):
            self._over[topic] = None
        is_passing = isinstance(event, TranscriptionPartial | TranscriptionProgress)
        self._send(topic, event, keep=not is_passing)

    def subscribe(self, subscription: Subscription) -> None:
        """Add a subscription; first send the events so far of each job that it follows."""
        self._subscriptions.append(subscription)
        for topic in subscription.topics:
            subscription.miss(self._dropped[topic])
            subscription.send(*self._kept.get(topic, ()))
            subscription.catch_up()

    def note_earlier_events(self, job: str) -> None:
        """Count the events of a finished job as missed if none is kept: an earlier daemon sent them."""
        if not self._kept.get(job_topic(job)):
            self._dropped[job_topic(job)] = max(self._dropped[job_topic(job)], 1)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a subscription. Does nothing if it was removed."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def forget_job(self, job: str) -> None:
        """Drop everything about a job that is no longer remembered."""
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
        """Keep an event for late followers. Over the limit, drop the events of whole jobs: of the earliest
        finished first, whose results are stored, and only then of the earliest begun.
        """
        self._kept[topic].append(data)
        self._kept_bytes += len(data)
        while self._kept_bytes > self._max_kept_bytes:
            oldest = next(one for one in chain(self._over, self._kept) if self._kept.get(one))
            self._dropped[oldest] += self._drop(oldest)

    def _drop(self, topic: str) -> int:
        """Drop the kept events of a job; return how many."""
        self._over.pop(topic, None)
        events = self._kept.pop(topic, [])
        self._kept_bytes -= sum(map(len, events))
        return len(events)


def job_topic(job: str) -> str:
    """Return the topic of one job."""
    return f"job:{job}"
