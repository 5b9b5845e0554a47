"""The speech that engines are tried with: what is shipped, and a sentence in another language.

`sentence_de.wav` is as the public repository Picovoice/leopard publishes it (resources/audio_samples), under
the licence Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0).
"""

from __future__ import annotations

import wave
from importlib import resources

from whisperd.speech import Sample, samples

__all__ = ["all_samples"]

GERMAN = "Der hinter diesem Portal liegenden Raum wurde als Leichenhalle genutzt."


def all_samples() -> tuple[Sample, ...]:
    """The shipped samples, and one in German. Blocks."""
    file = resources.files(__package__).joinpath("sentence_de.wav")
    with file.open("rb") as opened, wave.open(opened) as recording:
        pcm = recording.readframes(recording.getnframes())
    return (*samples(), Sample("sentence_de", pcm, GERMAN, "de"))
