"""Places from which a recording can be decoded again, each with a digest of the sound behind it. Pure.

After a seek, a codec may produce other sound than on the way from the beginning: the place differs, its state
differs, or it generates random noise. So a mark contains a digest of the sound behind it. A decoder that
begins at a mark compares it, and if the sound differs, reads the file from its beginning. Audio before the
end of that sound is never used, because codec and resampler have warmed up only then.

Equal sound proves little if the codec generates noise, which it need not do at just that place, if times may
repeat, or in silence. Such places are not marked.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from whisperd.audio.messages import SAMPLE_RATE, Found

__all__ = ["REPEATING_CONTAINERS", "Mark", "Marker", "Proof", "can_be_marked", "last_mark", "unpack_marks"]

EXACT_CODECS: Final = frozenset({"alac", "flac", "mp3", "mp3float", "opus", "vorbis"})
"""Decoders, by ffmpeg's names, that generate no random noise; nor do those of PCM. AAC, AC-3 and AMR may."""
REPEATING_CONTAINERS: Final = frozenset({"mpeg", "mpegts", "ogg"})
"""Containers that may hold several recordings in sequence, each with its own clock: times are ambiguous."""
MARK_EVERY: Final = 20 * SAMPLE_RATE
WARM_UP: Final = SAMPLE_RATE // 2
"""Samples behind a mark that are not compared: a codec that has just started may lack state."""
PROVEN: Final = WARM_UP + 2 * SAMPLE_RATE
"""Samples behind a mark at which its proof ends."""

_DIGEST_BYTES: Final = 16
_MARK: Final = struct.Struct(f"<3q2d{_DIGEST_BYTES}s")


class Mark(NamedTuple):
    """A place in a file."""

    timestamp: int
    """Timestamp of its frame, by the clock of the stream."""
    left_out: int
    """Samples, at the file's own rate, between the beginning of that frame and the place."""
    position: int
    """Position in the decoded audio, in samples."""
    shift_s: float
    silence_s: float
    """State of `whisperd.audio.timeline.Timeline` at that place."""
    digest: bytes = b""
    """See `Proof`."""


class Proof:
    """Computes the digest of the sound behind a place."""

    def __init__(self, position: int) -> None:
        self._first, self._end = position + WARM_UP, position + PROVEN
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._is_heard = False

    def feed(self, block: Any, position: int) -> bytes | None:
        """Take the next samples `(channels, samples)`, which begin at `position`.

        Returns the digest once it is complete. It is empty, and matches none, if all samples are zero.
        """
        piece = block[:, max(0, self._first - position) : max(0, self._end - position)]
        sound = piece.T.tobytes()  # channels interleaved, however large blocks are
        self._is_heard = self._is_heard or any(sound)
        self._digest.update(sound)
        if position + block.shape[1] < self._end:
            return None
        return self._digest.digest() if self._is_heard else b""


def can_be_marked(container: str, codec: str) -> bool:
    """Whether seeking to a time yields the same sound as decoding from the beginning."""
    is_exact = codec in EXACT_CODECS or codec.startswith("pcm_")
    return is_exact and container not in REPEATING_CONTAINERS


class Marker:
    """Chooses places, one at a time, while a file is decoded."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start over, because the file is decoded from its beginning."""
        self._next = MARK_EVERY
        self._begun: tuple[Mark, Proof] | None = None
        self._proven: list[Mark] = []

    def wants(self, position: int) -> bool:
        """Whether a mark at this position is useful."""
        return self._begun is None and position >= self._next

    def begin(self, mark: Mark) -> None:
        """Begin a mark; its sound comes next."""
        self._begun = mark, Proof(mark.position)
        self._next = mark.position + MARK_EVERY

    def feed(self, block: Any, position: int) -> None:
        """Take the next decoded block, which begins at `position`."""
        if self._begun is not None:
            mark, proof = self._begun
            if (digest := proof.feed(block, position)) is not None:
                if digest:
                    self._proven.append(mark._replace(digest=digest))
                self._begun = None

    def take(self) -> bytes:
        """Return the marks completed since the last call, packed."""
        marks, self._proven = self._proven, []
        return b"".join(_MARK.pack(*mark) for mark in marks)


def unpack_marks(data: bytes) -> Iterator[Mark]:
    """Unpack what `Marker.take` returned."""
    return (Mark(*values) for values in _MARK.iter_unpack(data))


def last_mark(found: Iterable[Found], needed: int) -> Mark | None:
    """Return the last mark that lies well before the audio that is needed.

    Needed are the samples from `needed` on, and those not yet searched for speech. `found` has all channels.
    """
    reports = list(found)
    reach = min([needed, *(one.position - SAMPLE_RATE for one in reports)])
    marks = (mark for one in reports for mark in unpack_marks(one.marks))
    usable = (mark for mark in marks if mark.position + PROVEN <= reach)
    return max(usable, key=lambda mark: mark.position, default=None)
