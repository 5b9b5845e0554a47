"""The speech that engines are tried with: what is shipped, and a sentence in another language.

`sentence_de.au` is what the public repository Picovoice/leopard publishes (resources/audio_samples), in
µ-law, under the licence Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0).
"""

from __future__ import annotations

from importlib import resources

from whisperd.speech import Sample, read_au, samples

__all__ = ["all_samples"]

GERMAN = "Der hinter diesem Portal liegenden Raum wurde als Leichenhalle genutzt."


def all_samples() -> tuple[Sample, ...]:
    """The shipped samples, and one in German. Blocks."""
    pcm = read_au(resources.files(__package__).joinpath("sentence_de.au").read_bytes())
    return (*samples(), Sample("sentence_de", pcm, GERMAN, "de"))
