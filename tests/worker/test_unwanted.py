"""What a worker knows of windows that nobody wants any more."""

from __future__ import annotations

from whisperd.worker.unwanted import UnwantedGroups


def test_what_nobody_wants_is_known_of_running_batches_alone() -> None:
    unwanted = UnwantedGroups()
    first = unwanted.begin(0)
    unwanted.add(0, [1])
    unwanted.add(1, [2])  # told before the thread of its batch is so far
    assert (first, unwanted.begin(1)) == ({1}, {2})
    unwanted.end(1)
    unwanted.add(1, [3])  # told after its batch has ended
    assert unwanted._groups.keys() == {0, 1}
    assert unwanted.begin(2) == set()
    unwanted.add(0, [4])
    assert first == {1, 4}
    assert unwanted._groups.keys() == {0, 2}
    unwanted.end(0)
    unwanted.end(2)
    assert not unwanted._groups
