"""A backend that recognises the recordings of the conformance suite byte for byte.

It needs no library and no time, and does everything that the suite asks for. The parrots in `faulty_parrots`
each do one thing wrong. The environment variable `PARROT` names the parrot that a worker loads.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

import whisperd.testing
from whisperd.plugins import Backend, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.speech import Sample, read_au, samples
from whisperd.worker.protocol import (
    DecodeOptions,
    EngineInfo,
    EngineSegment,
    EngineWindow,
    EngineWord,
    LoadParams,
    WindowResult,
)

COMPUTE_TYPES = ("int8", "float32")
MODEL_BYTES = b"polly" * 1000
GERMAN = Path(whisperd.testing.__file__).parent / "conformance" / "sentence_de.au"
TRANSLATION = "The room behind this portal was used as a mortuary."

BACKEND = Backend(
    name="parrot",
    engine="parrot:load",
    variants=(Variant(name="parrot-cpu", lock=None, device="cpu", priority=1, compute_types=COMPUTE_TYPES),),
)


def variant(**changes: object) -> Variant:
    """Return the parrot's variant with some fields changed."""
    return replace(BACKEND.variants[0], **changes)  # type: ignore[arg-type]


def backend(**changes: object) -> Backend:
    """Return the backend with some fields of its variant changed."""
    return replace(BACKEND, variants=(variant(**changes),))


def parrot_model(folder: Path, *, multilingual: bool) -> Path:
    """Make a folder that looks like a model."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"multilingual": multilingual}))
    (folder / "model.bin").write_bytes(MODEL_BYTES)
    for name in ("tokenizer.json", "vocabulary.txt"):
        (folder / name).write_text("{}")
    return folder


def load(params: LoadParams) -> Parrot:
    """Load the parrot named in the environment."""
    import faulty_parrots

    kind: type[Parrot] = getattr(faulty_parrots, os.environ.get("PARROT", "Parrot"))
    kind.refuse(params)
    return kind(params)


class Parrot:
    """An engine that repeats the recordings it knows."""

    languages = ("en", "de", "fr")
    library = "parrot 1.0"

    @classmethod
    def refuse(cls, params: LoadParams) -> None:
        """Raise the error, if any, for these parameters."""
        if params.compute_type not in COMPUTE_TYPES:
            raise refusal("compute_type")
        if params.device != "cpu":
            raise refusal("device")
        cls.refuse_model(Path(params.model_path))

    @classmethod
    def refuse_model(cls, folder: Path) -> None:
        """Raise the error, if any, for this model."""
        if not folder.exists():
            raise refusal("missing")
        if (folder / "model.bin").read_bytes() != MODEL_BYTES:
            raise refusal("damaged")

    def __init__(self, params: LoadParams) -> None:
        self.params = params
        config = Path(params.model_path, "config.json")
        self.multilingual = config.exists() and json.loads(config.read_text())["multilingual"]
        self.info = EngineInfo(
            multilingual=self.multilingual,
            languages=self.languages if self.multilingual else ("en",),
            compute_type=params.compute_type,
            library=self.library,
            word_times=True,
        )

    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        languages = self.find_languages(windows, options)
        return [
            self.result(window, language, options)
            for window, language in zip(windows, languages, strict=True)
        ]

    def find_languages(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[str]:
        if not self.multilingual:
            return ["en"] * len(windows)
        if options.language is not None:
            return [options.language] * len(windows)
        votes = {window.group: Counter(dict.fromkeys(options.languages, 0)) for window in windows}
        for window in windows:
            for _, sample in heard(window.pcm):
                if not options.languages or sample.language in options.languages:
                    votes[window.group][sample.language] += len(sample.pcm)
        return [max(votes[window.group], key=votes[window.group].__getitem__) for window in windows]

    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        segments = tuple(
            EngineSegment(
                start=start,
                end=start + sample.duration_s,
                text=f" {self.text(sample, options)}",
                tokens=(1, 2, 3),
                temperature=options.temperatures[0],
                avg_logprob=-0.1,
                compression_ratio=1.0,
                no_speech_prob=0.0,
            )
            for start, sample in heard(window.pcm)
        )
        if options.word_times:
            segments = tuple(map(with_words, segments))
        return WindowResult(language=language, language_probability=1.0, segments=segments)

    def text(self, sample: Sample, options: DecodeOptions) -> str:
        text = TRANSLATION if options.task == "translate" and sample.language == "de" else sample.text
        return text.lower().replace("-", " ") if options.prompt or options.hotwords else text


def die(number: signal.Signals) -> None:
    """End this process abruptly, as a fault in native code does."""
    os.kill(os.getpid(), number)
    time.sleep(3600)  # another thread may receive the signal, a little later


def refusal(what: str) -> WhisperdError:
    return WhisperdError(f"parrot.{what}", "The parrot does not like that.", "Ask for something else.")


@functools.cache
def known() -> tuple[Sample, ...]:
    """Return the suite's samples; its own function would import half of whisperd into the worker."""
    pcm = read_au(GERMAN.read_bytes())
    return (*samples(), Sample("sentence_de", pcm, "Der Raum wurde als Leichenhalle genutzt.", "de"))


def heard(pcm: bytes) -> list[tuple[float, Sample]]:
    """Return the samples in a window, with their start times."""
    places = [(pcm.find(sample.pcm), sample) for sample in known()]
    return sorted(
        ((place / 32_000, sample) for place, sample in places if place >= 0), key=lambda one: one[0]
    )


def with_words(segment: EngineSegment) -> EngineSegment:
    """Return the segment with its words, all of the same length."""
    words = segment.text.split()
    each_s = (segment.end - segment.start) / len(words)
    timed = tuple(
        EngineWord(
            text=f" {word}",
            start=segment.start + each_s * place,
            end=segment.start + each_s * (place + 1),
            probability=0.9,
        )
        for place, word in enumerate(words)
    )
    return msgspec.structs.replace(segment, words=timed)


def altered(result: WindowResult, **changes: object) -> WindowResult:
    """Return the result with a change in each segment."""
    segments = tuple(msgspec.structs.replace(segment, **changes) for segment in result.segments)
    return msgspec.structs.replace(result, segments=segments)
