"""Which windows of a batch an engine computes together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["alike"]


def alike(frames: Sequence[int], spread_frames: int) -> list[list[int]]:
    """The places of those that are computed together, given how much context each wants.

    All that are computed together get as much context as the longest of them. Nobody gets more than
    `spread_frames` in vain.
    """
    groups: list[list[int]] = []
    for place in sorted(range(len(frames)), key=lambda place: -frames[place]):
        if not groups or frames[groups[-1][0]] - frames[place] > spread_frames:
            groups.append([])
        groups[-1].append(place)
    return groups
