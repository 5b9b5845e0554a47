"""Follows live speech in the decoder process: samples in, utterances to transcribe out.

It holds only the audio of the current utterance and a moment before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from whisperd.audio.messages import SAMPLE_RATE, Heard, Utterance
from whisperd.audio.utterances import Piece, UtteranceCutter

if TYPE_CHECKING:
    from typing import Any

    from whisperd.audio.vad import VoiceActivity

__all__ = ["Listener"]


class Listener:
    """One live session."""

    def __init__(self, activity: VoiceActivity) -> None:
        self._activity = activity
        self._cutter = UtteranceCutter()
        self._pcm = bytearray()
        self._pcm_start = 0  # where `_pcm` begins, in samples
        self._taken = 0

    def feed(self, samples: Any, *, partials: bool = True) -> Heard:
        """Take 16-bit samples. Without `partials`, omits unfinished utterances that are not likely final."""
        self._pcm += samples.astype("<i2", copy=False).tobytes()
        self._taken += len(samples)
        pieces: list[Utterance] = []
        for probability, level in self._activity.feed(samples):
            self._add(pieces, self._cutter.feed(probability, level), partials=partials)
        self._forget()
        return self._heard(pieces)

    def finish(self) -> Heard:
        """End the session; an open utterance becomes final."""
        pieces: list[Utterance] = []
        for probability, level in self._activity.finish():
            self._add(pieces, self._cutter.feed(probability, level), partials=False)
        self._add(pieces, self._cutter.finish(self._taken), partials=False)
        self._pcm.clear()
        return self._heard(pieces)

    def _add(self, pieces: list[Utterance], found: Iterable[Piece], *, partials: bool) -> None:
        for piece in found:
            if pieces and not pieces[-1].is_final:
                pieces.pop()  # superseded by a longer one
            if piece.is_final or piece.is_likely_final or partials:
                pieces.append(self._cut(piece))

    def _cut(self, piece: Piece) -> Utterance:
        # The last frame is padded with silence, which is not part of the audio.
        end = min(piece.end, self._taken)
        pcm = bytes(self._pcm[2 * (piece.start - self._pcm_start) : 2 * (end - self._pcm_start)])
        return Utterance(
            start=piece.start / SAMPLE_RATE,
            end=end / SAMPLE_RATE,
            is_final=piece.is_final,
            is_likely_final=piece.is_likely_final,
            pcm=pcm,
        )

    def _heard(self, pieces: list[Utterance]) -> Heard:
        return Heard(position=self._taken / SAMPLE_RATE, utterances=tuple(pieces))

    def _forget(self) -> None:
        spare = self._cutter.keep_from - self._pcm_start
        if spare > SAMPLE_RATE:
            del self._pcm[: 2 * spare]
            self._pcm_start += spare
