"""What tests share that hammer whatever reads what it cannot trust: `make fuzz` runs them for long.

`spoil` does to bytes what bad disks, bad connections and bad people do.
"""

from __future__ import annotations

import struct

from hypothesis import settings
from hypothesis import strategies as st

__all__ = ["CHANGES", "Change", "examples", "spoil"]

USUAL_EXAMPLES = 100
"""How many hypothesis tries of a test that says nothing of it."""

Change = tuple[str, int, bytes | int]
"""What is done, where (counted from the end where it is negative), and with what."""


def examples(usual: int) -> int:
    """How many examples a test tries that usually tries so many: in a campaign more, as all others do."""
    return max(1, usual * settings().max_examples // USUAL_EXAMPLES)


def _lies() -> st.SearchStrategy[bytes]:
    """Sizes and counts that are not true, in the ways in which files write them."""
    formats = st.sampled_from(["B", "<H", ">H", "<I", ">I", "<Q", ">Q"])
    numbers = st.sampled_from([0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1])
    return st.builds(
        lambda format, number: struct.pack(format, number & 256 ** struct.calcsize(format) - 1),
        formats,
        numbers,
    )


_PLACES = st.integers(-300, 300) | st.integers(0, 2**20)
"""Most is said at the beginning and at the end."""
_NEW = st.binary(min_size=1, max_size=16) | _lies()
_LENGTHS = st.integers(1, 5000)

CHANGES: st.SearchStrategy[list[Change]] = st.lists(
    st.tuples(st.sampled_from(["overwrite", "insert"]), _PLACES, _NEW)
    | st.tuples(st.sampled_from(["overwrite", "insert"]), _PLACES, _NEW)
    | st.tuples(st.sampled_from(["remove", "repeat"]), _PLACES, _LENGTHS)
    | st.tuples(st.just("cut"), _PLACES, st.just(0)),
    min_size=1,
    max_size=6,
)
"""What `spoil` is to do."""


def spoil(data: bytes, changes: list[Change]) -> bytes:
    """The bytes after these changes."""
    for how, place, what in changes:
        at = place % (len(data) + 1)
        match how, what:
            case "overwrite", bytes():
                data = data[:at] + what + data[at + len(what) :]
            case "insert", bytes():
                data = data[:at] + what + data[at:]
            case "remove", int():
                data = data[:at] + data[at + what :]
            case "repeat", int():
                data = data[: at + what] + data[at:]
            case "cut", _:
                data = data[:at]
            case _:
                raise AssertionError(how)
    return data
