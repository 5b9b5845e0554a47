"""`events.*`: subscriptions to events."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec

from whisperd.daemon.hub import TOPICS, Subscription, job_topic
from whisperd.daemon.service import Call
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Params, encode_notification, invalid_params

MAX_CALL_BYTES = 16 * 1024
"""Limit on the client's own notification, since it is sent with every event."""

_numbers = count(1)


class ClientMethod(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The method to call for each event, for a client that accepts only its own methods (Neovim)."""

    method: str
    args: tuple[Any, ...] = ()


class SubscribeParams(Params, frozen=True):
    """Topics or one job."""

    topics: tuple[str, ...] = ()
    job: str | None = None
    call: ClientMethod | None = None


class UnsubscribeParams(Params, frozen=True):
    """Which subscription to end."""

    subscription: int


async def subscribe(call: Call, params: SubscribeParams) -> dict[str, Any]:
    """Send events as notifications from now on; those of a job are sent from its beginning."""
    if unknown := sorted(set(params.topics) - set(TOPICS)):
        raise invalid_params(f"there is no topic {unknown[0]!r}, only {', '.join(TOPICS)}")
    if bool(params.topics) == (params.job is not None):
        raise invalid_params("name either topics or a job")
    topics = set(params.topics)
    if params.job is not None:
        job = call.service.jobs.get(params.job)
        if job.over.is_set():
            call.service.hub.note_earlier_events(job.id)
        topics.add(job_topic(job.id))
    subscriptions = call.connection.subscriptions
    if len(subscriptions) >= (limit := call.service.settings.limits.max_subscriptions):
        raise WhisperdError(
            "events.too_many",
            f"This connection already has {limit} subscriptions.",
            "End some of them, or raise `limits.max_subscriptions` in the settings.",
        )
    subscription = Subscription(call.connection.offer, frozenset(topics), _notification(params.call))
    number = next(_numbers)
    subscriptions[number] = subscription
    call.service.hub.subscribe(subscription)
    return {"subscription": number}


def _notification(called: ClientMethod | None) -> bytes:
    """Return the notification for a client, without the event. Raises `rpc.invalid_params`."""
    if called is None:
        return encode_notification("event", None)
    # In the form that Neovim's nvim_exec_lua takes: code, then the list of its arguments.
    notification = encode_notification(called.method, *called.args, [None])
    if len(notification) > MAX_CALL_BYTES:
        raise invalid_params(f"call, which is sent with every event, is larger than {MAX_CALL_BYTES:,} bytes")
    return notification


async def unsubscribe(call: Call, params: UnsubscribeParams) -> dict[str, Any]:
    """End a subscription of this connection."""
    subscription = call.connection.subscriptions.pop(params.subscription, None)
    if subscription is None:
        raise WhisperdError(
            "events.unknown_subscription",
            f"This connection has no subscription {params.subscription}.",
            "Use the number that `events.subscribe` returned.",
        )
    call.service.hub.unsubscribe(subscription)
    return {}
