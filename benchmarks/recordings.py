"""Recordings with references: the English ones of a folder, converted to WAV, and joined into long files."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SAMPLE_RATE", "Recording", "as_wav", "english", "joined", "pcm_of"]

SAMPLE_RATE = 16_000
PAUSES_S = (0.4, 3.0)
"""The shortest and the longest pause between two joined recordings."""

DECODE = """
import json, sys, wave
sys.path.insert(0, sys.argv[1])
import av
for source, target in json.loads(sys.argv[2]):
    resampler = av.AudioResampler("s16", "mono", 16_000)
    with av.open(source) as media, wave.open(target, "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        for frame in (*media.decode(audio=0), None):
            for part in resampler.resample(frame):
                sound.writeframes(part.to_ndarray().tobytes())
"""


@dataclass(frozen=True)
class Recording:
    """A file and its reference text."""

    path: str
    text: str
    duration_s: float


def english(audio: Path) -> list[Recording]:
    """Return the English recordings with a reference from a folder with a `manifest.json`."""
    manifest = json.loads((audio / "manifest.json").read_text("utf-8"))
    return [
        Recording(str(audio / one["file"]), one["text"], one["duration_s"])
        for one in manifest
        if one["language"] == "en" and one["text"] and (audio / one["file"]).exists()
    ]


def as_wav(recordings: Sequence[Recording], folder: Path, media: str) -> list[Recording]:
    """Convert recordings to 16 kHz mono WAV with the `media` bundle: not every program reads all formats."""
    targets = [
        Recording(str(folder / f"{Path(one.path).stem}.wav"), one.text, one.duration_s) for one in recordings
    ]
    pairs = [[one.path, target.path] for one, target in zip(recordings, targets, strict=True)]
    subprocess.run([sys.executable, "-P", "-c", DECODE, media, json.dumps(pairs)], check=True)
    return targets


def joined(recordings: Sequence[Recording], duration_s: float, path: Path) -> Recording:
    """Join recordings from `as_wav` into one long file, in varying order, with pauses between them."""
    chance = random.Random(0)
    texts: list[str] = []
    samples = 0
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        for one in _shuffled(recordings, chance):
            pause = bytes(2 * round(chance.uniform(*PAUSES_S) * SAMPLE_RATE))
            piece = pcm_of(one.path) + pause
            samples += len(piece) // 2
            sound.writeframes(piece)
            texts.append(one.text)
            if samples >= duration_s * SAMPLE_RATE:
                break
    return Recording(str(path), " ".join(texts), samples / SAMPLE_RATE)


def pcm_of(path: str) -> bytes:
    """Return the samples of a WAV file."""
    with wave.open(path) as sound:
        return bytes(sound.readframes(sound.getnframes()))


def _shuffled(recordings: Sequence[Recording], chance: random.Random) -> Iterator[Recording]:
    while True:
        yield from chance.sample(recordings, len(recordings))
