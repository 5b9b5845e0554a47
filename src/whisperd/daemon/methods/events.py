"""`events.*`: being told what happens."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec

from whisperd.daemon.hub import TOPICS, Subscription, job_topic
from whisperd.daemon.service import Call
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Params, encode_notification, invalid_params

MAX_CALL_BYTES = 16 * 1024
"""How the client wants to be called, as it is sent with every event."""

_numbers = count(1)


class ClientMethod(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the client wants to be called, where it accepts only methods of its own (Neovim)."""

    method: str
    args: tuple[Any, ...] = ()


class SubscribeParams(Params, frozen=True):
    """Topics, or one job."""

    topics: tuple[str, ...] = ()
    job: str | None = None
    call: ClientMethod | None = None


class UnsubscribeParams(Params, frozen=True):
    """Which subscription ends."""

    subscription: int


async def subscribe(call: Call, params: SubscribeParams) -> dict[str, Any]:
    """Send events as notifications from now on; those of a job from its beginning."""
    if unknown := sorted(set(params.topics) - set(TOPICS)):
        raise invalid_params(f"there is no topic {unknown[0]!r}, only {', '.join(TOPICS)}")
    if bool(params.topics) == (params.job is not None):
        raise invalid_params("name either topics or a job")
    topics = set(params.topics)
    if params.job is not None:
        job = call.service.jobs.get(params.job)
        if job.over.is_set():
            call.service.hub.note_gone(job.id)
        topics.add(job_topic(job.id))
    subscriptions = call.connection.subscriptions
    if len(subscriptions) >= (limit := call.service.settings.limits.max_subscriptions):
        raise WhisperdError(
            "events.too_many",
            f"This connection has {limit} subscriptions.",
            "End some of them first, or raise limits.max_subscriptions in the settings.",
        )
    subscription = Subscription(call.connection.offer, frozenset(topics), _notification(params.call))
    number = next(_numbers)
    subscriptions[number] = subscription
    call.service.hub.subscribe(subscription)
    return {"subscription": number}


def _notification(called: ClientMethod | None) -> bytes:
    """How a client is called. Raises `rpc.invalid_params`."""
    if called is None:
        return encode_notification("event", None)
    # As Neovim's nvim_exec_lua takes them: a piece of code, then the list of its arguments.
    notification = encode_notification(called.method, *called.args, [None])
    if len(notification) > MAX_CALL_BYTES:
        raise invalid_params(f"call takes more than {MAX_CALL_BYTES:,} bytes, and is sent with every event")
    return notification


async def unsubscribe(call: Call, params: UnsubscribeParams) -> dict[str, Any]:
    """End a subscription of this connection."""
    subscription = call.connection.subscriptions.pop(params.subscription, None)
    if subscription is None:
        raise WhisperdError(
            "events.unknown_subscription",
            f"This connection has no subscription {params.subscription}.",
            "Use the number that events.subscribe answered.",
        )
    call.service.hub.unsubscribe(subscription)
    return {}
