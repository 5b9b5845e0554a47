"""The worker's record of unwanted windows."""

from __future__ import annotations

from whisperd.worker.unwanted import UnwantedGroups


def test_unwanted_groups_are_recorded_only_for_running_batches() -> None:
    unwanted = UnwantedGroups()
    first = unwanted.begin(0)
    unwanted.add(0, [1])
    unwanted.add(1, [2])  # reported before the batch's thread has started
    assert (first, unwanted.begin(1)) == ({1}, {2})
    unwanted.end(1)
    unwanted.add(1, [3])  # reported after the batch has ended
    assert unwanted._groups.keys() == {0, 1}
    assert unwanted.begin(2) == set()
    unwanted.add(0, [4])
    assert first == {1, 4}
    assert unwanted._groups.keys() == {0, 2}
    unwanted.end(0)
    unwanted.end(2)
    assert not unwanted._groups
