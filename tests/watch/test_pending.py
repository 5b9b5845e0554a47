"""The pending files of a folder."""

from __future__ import annotations

import math

from whisperd.watch.ledger import Identity, Seen
from whisperd.watch.pending import Pending

SETTLE_S = 3.0
NOW_NS = 1_800_000_000 * 10**9


def seen(path: str = "a.wav", size: int = 1000, age_s: float = 0.0) -> Seen:
    return Seen(path, Identity("1:2", size, NOW_NS - int(age_s * 1e9)))


def observe(pending: Pending, one: Seen, now_s: float) -> None:
    pending.observe(one, now_s, NOW_NS, moved_in=False)


def test_a_file_settles_and_waits_for_its_turn() -> None:
    pending = Pending(SETTLE_S)
    observe(pending, seen(), 0)
    assert not pending.queue and pending.waiting == 1
    assert pending.next_look_s() == SETTLE_S and pending.due(SETTLE_S) == ["a.wav"]
    observe(pending, seen(), SETTLE_S)
    assert pending.queue == {"a.wav": seen()} and pending.waiting == 1
    assert pending.next_look_s() == math.inf
    assert pending.settled_for_s("a.wav", 10) == 10 - SETTLE_S
    assert pending.settled_for_s("a.wav", 10) is None


def test_a_queued_file_that_changes_settles_again() -> None:
    pending = Pending(SETTLE_S)
    observe(pending, seen(age_s=60), 0)
    assert pending.queue
    observe(pending, seen(size=2000), 1)
    assert not pending.queue and pending.waiting == 1
    assert pending.settled_for_s("a.wav", 2) is None


def test_a_postponed_file_settles_again() -> None:
    pending = Pending(SETTLE_S)
    observe(pending, seen(age_s=60), 0)
    pending.postpone(pending.queue.pop("a.wav"), 1)
    assert pending.next_look_s() == 1 + SETTLE_S
    assert pending.settled_for_s("a.wav", 2) is None


def test_a_file_seen_while_in_progress_is_checked_afterwards() -> None:
    pending = Pending(SETTLE_S)
    pending.in_progress = dict.fromkeys(("a.wav", "b.wav", "c.wav"), False)
    observe(pending, seen("a.wav"), 0)
    pending.enqueue(seen("b.wav"), 0)
    assert not pending.waiting
    assert [pending.release(path) for path in ("a.wav", "b.wav", "c.wav")] == [True, True, False]
    assert not pending.in_progress
    pending.in_progress["a.wav"] = False
    assert not pending.release("a.wav"), "it was not seen again"


def test_a_failed_file_is_due_again() -> None:
    pending = Pending(SETTLE_S)
    pending.retry("a.wav", 5)
    observe(pending, seen("b.wav"), 3)
    assert pending.next_look_s() == 5
    assert pending.due(4.9) == []
    assert pending.due(6) == ["b.wav", "a.wav"]
    assert pending.waiting == 1, "b.wav"


def test_a_queued_file_no_longer_waits_for_its_retry() -> None:
    pending = Pending(SETTLE_S)
    pending.retry("a.wav", 5)
    assert pending.waiting == 1
    pending.enqueue(seen(), 1)
    assert pending.waiting == 1 and pending.next_look_s() == math.inf


def test_a_dropped_file_leaves_no_work() -> None:
    pending = Pending(SETTLE_S)
    for path, age_s in (("a.wav", 0), ("b.wav", 60)):
        observe(pending, seen(path, age_s=age_s), 0)
    pending.retry("c.wav", 5)
    for path in ("a.wav", "b.wav", "c.wav"):
        pending.drop(path)
    assert not pending.waiting and not pending.settled_s
    assert pending.next_look_s() == math.inf


def test_clear_forgets_waiting_files_but_not_retries() -> None:
    pending = Pending(SETTLE_S)
    for path, age_s in (("a.wav", 0), ("b.wav", 60)):
        observe(pending, seen(path, age_s=age_s), 0)
    pending.retry("c.wav", 5)
    pending.in_progress["d.wav"] = False
    pending.clear()
    assert pending.waiting == 1 and not pending.settled_s, "only the retry"
    assert "d.wav" in pending.in_progress and pending.due(5) == ["c.wav"]
