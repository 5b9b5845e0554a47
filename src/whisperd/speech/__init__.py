"""Speech recordings that ship with whisperd, with their transcripts.

New native libraries are tried on them, and calibration measures with them. `recordings/README.md` gives their
sources and licences.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

import msgspec

from whisperd.decodable import decodable
from whisperd.speech.sound import SAMPLE_RATE, read_au

__all__ = ["Sample", "read_au", "samples", "word_errors", "words"]

_SAMPLE_BYTES = 2


@dataclass(frozen=True)
class Sample:
    """A recording and its transcript."""

    name: str
    pcm: bytes = field(repr=False)
    """16 kHz mono, signed 16-bit little-endian."""
    text: str
    """What is said, word for word."""
    language: str
    """An ISO 639-1 code."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.pcm) / _SAMPLE_BYTES / SAMPLE_RATE


class _Entry(msgspec.Struct, frozen=True):
    file: str
    language: str
    text: str


@functools.cache
def samples() -> tuple[Sample, ...]:
    """Return all recordings, the shortest first: half a minute of English. Blocks on the first call."""
    folder = resources.files(__package__).joinpath("recordings")
    entries = msgspec.json.decode(folder.joinpath("manifest.json").read_bytes(), type=decodable(list[_Entry]))
    made = []
    for entry in entries:
        pcm = read_au(folder.joinpath(entry.file).read_bytes())
        made.append(Sample(entry.file.removesuffix(".au"), pcm, entry.text, entry.language))
    return tuple(sorted(made, key=lambda sample: sample.duration_s))


def words(text: str) -> list[str]:
    """Return the words of a text for comparison: lower case, no punctuation, split at hyphens."""
    return re.findall(r"[^\W_]+", text.lower().replace("'", "").replace("’", ""))  # noqa: RUF001


def word_errors(reference: str, text: str) -> int:
    """Return the number of words inserted, deleted or replaced between two texts."""
    return _distance(words(reference), words(text))


def _distance(wanted: Sequence[str], found: Sequence[str]) -> int:
    """Return the edit distance, computed one row of its table at a time."""
    row = list(range(len(found) + 1))
    for number, word in enumerate(wanted, 1):
        previous, row[0] = row[0], number
        for place, other in enumerate(found, 1):
            previous, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, previous + (word != other)),
            )
    return row[-1]
