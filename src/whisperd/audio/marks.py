"""Places in a recording from which it can be decoded again, with a proof of the sound that follows. Pure.

What a codec makes of a file after a seek may differ from what it makes on the way from the beginning: the
place is another one, its memory is, or it draws noise at random. So a mark has a digest of the sound behind
it. Who begins there compares, and where it is another sound reads the file from its beginning. What comes
before the end of that sound is never used: a codec and a resampler are in full swing only then.

Equal sound proves little where the codec draws noise, which it need not do just there, where a time may come
twice, or where nothing is heard. Nothing of that is marked.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from whisperd.audio.messages import SAMPLE_RATE, Found

__all__ = ["Mark", "Marker", "Proof", "can_be_marked", "last_mark", "unpack_marks"]

EXACT_CODECS: Final = frozenset({"alac", "flac", "mp3", "mp3float", "opus", "vorbis"})
"""Decoders, by ffmpeg's names, that draw nothing at random, as those of PCM; AAC, AC-3 and AMR may."""
REPEATING_CONTAINERS: Final = frozenset({"mpeg", "mpegts", "ogg"})
"""What may be several recordings, one behind the other, each with a clock of its own: a time is no place."""
MARK_EVERY: Final = 20 * SAMPLE_RATE
WARM_UP: Final = SAMPLE_RATE // 2
"""Samples behind a mark that are not compared: a codec that has just begun may lack what it remembers."""
PROVEN: Final = WARM_UP + 2 * SAMPLE_RATE
"""Samples behind a mark after which its proof ends."""

_DIGEST_BYTES: Final = 16
_MARK: Final = struct.Struct(f"<3q2d{_DIGEST_BYTES}s")


class Mark(NamedTuple):
    """A place in a file."""

    timestamp: int
    """Of the frame in which it lies, by the clock of the file's stream."""
    left_out: int
    """Samples at the file's own rate, from the beginning of that frame, that lie before the place."""
    position: int
    """The sample of the decoded sound."""
    shift_s: float
    silence_s: float
    """What `whisperd.audio.timeline.Timeline` had seen by then."""
    digest: bytes = b""
    """As `Proof` makes it."""


class Proof:
    """The digest of the sound behind a place."""

    def __init__(self, position: int) -> None:
        self._first, self._end = position + WARM_UP, position + PROVEN
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._is_heard = False

    def hear(self, block: Any, position: int) -> bytes | None:
        """Take the next samples `(channels, samples)`, from a position on; the digest, once all have come.

        It is empty, and fits none, where all of them are zero.
        """
        piece = block[:, max(0, self._first - position) : max(0, self._end - position)]
        sound = piece.T.tobytes()  # channels interleaved, however large blocks are
        self._is_heard = self._is_heard or any(sound)
        self._digest.update(sound)
        if position + block.shape[1] < self._end:
            return None
        return self._digest.digest() if self._is_heard else b""


def can_be_marked(container: str, codec: str) -> bool:
    """Whether the sound at a time is the same after a seek as on the way from the beginning."""
    is_exact = codec in EXACT_CODECS or codec.startswith("pcm_")
    return is_exact and container not in REPEATING_CONTAINERS


class Marker:
    """Chooses the places, one at a time, while a file is decoded from a position on."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The file is decoded from its beginning, whatever was heard so far."""
        self._next = MARK_EVERY
        self._begun: tuple[Mark, Proof] | None = None
        self._proven: list[Mark] = []

    def wants(self, position: int) -> bool:
        """Whether a mark at a position would be of use."""
        return self._begun is None and position >= self._next

    def begin(self, mark: Mark) -> None:
        """A place; its sound has not come yet."""
        self._begun = mark, Proof(mark.position)
        self._next = mark.position + MARK_EVERY

    def hear(self, block: Any, position: int) -> None:
        """The next block that was decoded begins here."""
        if self._begun is not None:
            mark, proof = self._begun
            if (digest := proof.hear(block, position)) is not None:
                if digest:
                    self._proven.append(mark._replace(digest=digest))
                self._begun = None

    def take(self) -> bytes:
        """The marks that were made since this was asked last, packed."""
        marks, self._proven = self._proven, []
        return b"".join(_MARK.pack(*mark) for mark in marks)


def unpack_marks(data: bytes) -> Iterator[Mark]:
    """Read what `Marker.take` gave."""
    return (Mark(*values) for values in _MARK.iter_unpack(data))


def last_mark(found: Iterable[Found], needed: int) -> Mark | None:
    """The last one that lies well before the sound that is needed.

    That is all from the sample `needed` on, and all that nobody has listened to: `found` is of all channels.
    """
    told = list(found)
    reach = min([needed, *(one.position - SAMPLE_RATE for one in told)])
    marks = (mark for one in told for mark in unpack_marks(one.marks))
    usable = (mark for mark in marks if mark.position + PROVEN <= reach)
    return max(usable, key=lambda mark: mark.position, default=None)
