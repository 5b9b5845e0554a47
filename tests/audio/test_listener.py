"""What the decoder process does with live speech, without the detector: audio is cut, and forgotten."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from whisperd.audio.listener import Listener
from whisperd.audio.messages import SAMPLE_RATE, Utterance
from whisperd.audio.speech import FRAME_SAMPLES

SPOKEN, SILENT = b"\x10\x20", b"\x00\x00"


class Samples(bytes):
    """16-bit samples. Stands for an array of numpy."""

    def __len__(self) -> int:
        return super().__len__() // 2

    def astype(self, *_: object, **__: object) -> Samples:
        return self

    def tobytes(self) -> bytes:
        return bytes(self)


class Activity:
    """Somebody speaks in a frame that has no silent sample. Stands for a `VoiceActivity`."""

    def __init__(self) -> None:
        self._waiting = b""

    def feed(self, samples: Samples) -> Iterator[tuple[float, float]]:
        self._waiting += samples.tobytes()
        while len(self._waiting) >= 2 * FRAME_SAMPLES:
            frame, self._waiting = self._waiting[: 2 * FRAME_SAMPLES], self._waiting[2 * FRAME_SAMPLES :]
            yield (0.1, 0.0) if SILENT in frame else (0.9, 1.0)

    def finish(self) -> Iterator[tuple[float, float]]:
        if self._waiting:
            yield from self.feed(Samples(bytes(2 * FRAME_SAMPLES - len(self._waiting))))


def sound(*parts: tuple[bytes, float]) -> bytes:
    return b"".join(sample * round(seconds * SAMPLE_RATE) for sample, seconds in parts)


def listen(pcm: bytes, piece_samples: int, *, partials: bool = True) -> list[Utterance]:
    listener, found = Listener(Activity()), []
    for first in range(0, len(pcm), 2 * piece_samples):
        heard = listener.feed(Samples(pcm[first : first + 2 * piece_samples]), partials=partials)
        found += heard.utterances
    heard = listener.finish()
    assert heard.position == len(pcm) / 2 / SAMPLE_RATE
    assert not listener._pcm
    return [*found, *heard.utterances]


def of(pcm: bytes, utterance: Utterance) -> bytes:
    return pcm[2 * round(utterance.start * SAMPLE_RATE) : 2 * round(utterance.end * SAMPLE_RATE)]


TWO = sound((SILENT, 1.0), (SPOKEN, 2.0), (SILENT, 1.5), (SPOKEN, 1.0))


@given(st.integers(100, 40_000))
def test_utterances_are_the_same_however_the_audio_comes(piece_samples: int) -> None:
    finals = [one for one in listen(TWO, piece_samples) if one.is_final]
    assert finals == [one for one in listen(TWO, len(TWO)) if one.is_final]
    assert all(one.pcm == of(TWO, one) for one in finals)
    assert len(finals) == 2


def test_an_utterance_is_shown_while_it_is_spoken() -> None:
    found = listen(TWO, FRAME_SAMPLES)
    assert [one.is_final for one in found] == [False, False, False, True, False, True]
    assert [one.is_likely_final for one in found] == [False, False, True, False, False, False]
    assert found[2].pcm == found[3].pcm
    without = listen(TWO, FRAME_SAMPLES, partials=False)
    assert without == [one for one in found if one.is_final or one.is_likely_final]
    assert all(one.pcm == of(TWO, one) for one in found)


def test_of_what_comes_at_once_only_the_latest_is_shown() -> None:
    heard = Listener(Activity()).feed(Samples(TWO))
    assert [one.is_final for one in heard.utterances] == [True, False]
    heard = Listener(Activity()).feed(Samples(TWO), partials=False)
    assert [one.is_final for one in heard.utterances] == [True]


def test_audio_that_is_over_is_forgotten() -> None:
    listener, most_bytes, count = Listener(Activity()), 0, 0
    minute = sound((SPOKEN, 3.0), (SILENT, 7.0), (SPOKEN, 30.0), (SILENT, 20.0))
    for _ in range(60):
        for first in range(0, len(minute), 32_000):
            count += len(listener.feed(Samples(minute[first : first + 32_000])).utterances)
            most_bytes = max(most_bytes, len(listener._pcm))
    assert count > 200
    assert most_bytes <= 2 * SAMPLE_RATE * 22
