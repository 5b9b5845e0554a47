"""Helpers for tests that fuzz parsers of untrusted data: `make fuzz` runs them at length.

`spoil` corrupts bytes as failing disks, bad connections and attackers do.
"""

from __future__ import annotations

import struct

from hypothesis import settings
from hypothesis import strategies as st

__all__ = ["CHANGES", "Change", "examples", "spoil"]

USUAL_EXAMPLES = 100
"""How many examples Hypothesis tries of a test that sets no number."""

Change = tuple[str, int, bytes | int]
"""The operation, its place (counted from the end if negative), and its operand."""


def examples(usual: int) -> int:
    """Scale a test's usual number of examples to the current profile, as Hypothesis does for other tests."""
    return max(1, usual * settings().max_examples // USUAL_EXAMPLES)


def _lies() -> st.SearchStrategy[bytes]:
    """Generate false sizes and counts in the encodings that file formats use."""
    formats = st.sampled_from(["B", "<H", ">H", "<I", ">I", "<Q", ">Q"])
    numbers = st.sampled_from([0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1])
    return st.builds(
        lambda format, number: struct.pack(format, number & 256 ** struct.calcsize(format) - 1),
        formats,
        numbers,
    )


_PLACES = st.integers(-300, 300) | st.integers(0, 2**20)
"""Most structure is at the beginning and the end of a file."""
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
"""Changes for `spoil` to apply."""


def spoil(data: bytes, changes: list[Change]) -> bytes:
    """Return the bytes with these changes applied."""
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
