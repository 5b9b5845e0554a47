"""When a file has settled."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from whisperd.watch.ledger import Identity, Seen
from whisperd.watch.settling import MOVED_IN_S, Settling

NOW_NS = 1_800_000_000 * 10**9


def seen(size: int = 1000, age_s: float = 0.0, path: str = "a.wav") -> Seen:
    return Seen(path, Identity("1:2", size, NOW_NS - int(age_s * 1e9)))


def test_an_old_file_has_settled_at_once() -> None:
    assert Settling(3).observe(seen(age_s=60), 0, NOW_NS) == "settled"


def test_a_file_written_just_now_has_to_settle() -> None:
    assert Settling(3).observe(seen(age_s=2), 0, NOW_NS) == "wait"


def test_on_a_network_an_old_file_has_to_settle() -> None:
    settling = Settling(3)
    assert settling.observe(seen(age_s=60), 0, None) == "wait"
    assert settling.observe(seen(age_s=60), 3, None) == "settled"


def test_a_file_settles_once_it_stays_unchanged() -> None:
    settling = Settling(3)
    assert settling.observe(seen(1), 0, NOW_NS) == "wait"
    assert settling.observe(seen(2), 1, NOW_NS) == "wait"
    assert settling.due(3.9) == []
    assert settling.due(4) == ["a.wav"]
    assert settling.observe(seen(2), 4, NOW_NS) == "settled"
    assert settling.next_look_s() == math.inf
    assert len(settling) == 0


def test_a_file_moved_in_settles_almost_at_once() -> None:
    settling = Settling(3)
    assert settling.observe(seen(), 0, NOW_NS, moved_in=True) == "wait"
    assert settling.next_look_s() == MOVED_IN_S
    assert settling.observe(seen(), MOVED_IN_S, NOW_NS) == "settled"


def test_a_file_moved_in_and_then_written_settles_normally() -> None:
    settling = Settling(3)
    settling.observe(seen(1), 0, NOW_NS, moved_in=True)
    assert settling.observe(seen(2), 0.2, NOW_NS) == "wait"
    assert settling.next_look_s() == 3.2


def test_a_file_written_with_pauses_settles_later() -> None:
    settling = Settling(3)
    settling.observe(seen(1), 0, NOW_NS)
    settling.observe(seen(2), 20, NOW_NS)
    assert settling.observe(seen(2), 50, NOW_NS) == "wait"
    assert settling.observe(seen(2), 60, NOW_NS) == "settled"


def test_an_empty_file_never_settles() -> None:
    settling = Settling(3)
    assert settling.observe(seen(0, age_s=1000), 0, NOW_NS) == "empty"
    assert settling.next_look_s() == math.inf


def test_a_due_file_that_is_not_checked_is_due_again_later() -> None:
    settling = Settling(3)
    settling.observe(seen(), 0, NOW_NS)
    assert settling.due(4) == ["a.wav"]
    assert settling.due(4) == []
    assert settling.next_look_s() == 7


def test_a_deleted_file_is_not_checked_again() -> None:
    settling = Settling(3)
    settling.observe(seen(), 0, NOW_NS)
    settling.forget("a.wav")
    assert settling.due(100) == []


@given(
    st.lists(st.tuples(st.floats(0.01, 50), st.integers(1, 3)), min_size=1, max_size=40), st.floats(0.1, 10)
)
def test_no_file_settles_early(looks: list[tuple[float, int]], settle_s: float) -> None:
    settling = Settling(settle_s)
    now_s, last, since_s = 0.0, None, 0.0
    for wait_s, size in looks:
        now_s += wait_s
        if size != last:
            last, since_s = size, now_s
        verdict = settling.observe(seen(size), now_s, NOW_NS)
        if verdict == "settled":
            assert now_s - since_s >= settle_s
            return
        assert now_s <= settling.next_look_s() < math.inf, "another check is due"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 20), st.integers(0, 2)), max_size=60))
def test_due_files_are_the_tracked_ones(looks: list[tuple[str, float, int]]) -> None:
    settling = Settling(3)
    now_s, waiting = 0.0, set[str]()
    for path, wait_s, size in looks:
        now_s += wait_s
        verdict = settling.observe(seen(size, path=path), now_s, NOW_NS)
        (waiting.add if verdict == "wait" else waiting.discard)(path)
    assert len(settling) == len(waiting)
    assert sorted(settling.due(now_s + 10_000)) == sorted(waiting)
