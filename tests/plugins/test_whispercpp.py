"""Real speech through whisper.cpp: words, languages, and weights converted from CTranslate2's."""

from __future__ import annotations

import json
import os
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from spoken import likeness, recordings, with_a_name_spelled, with_non_english_requests, words
from whisperd.client import Client
from whisperd.rpc.errors import WhisperdError
from whisperd.worker.process import open_worker
from whisperd.worker.protocol import BatchParams, DecodeOptions, EngineWindow, LoadParams, WindowResult
from whisperd_testing import AUDIO, KENNEDY, RunningDaemon, converted, run_python

pytestmark = pytest.mark.real

BASE_FLOAT16_BYTES = 147_951_465
"""The size of whisper.cpp's own conversion of OpenAI's checkpoint."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a daemon that keeps its whisper.cpp models loaded for all tests in this module."""
    daemon = RunningDaemon(tmp_path_factory.mktemp("daemon"), toy=False).start()
    with daemon.connect() as client:
        for model, compute_type in (("tiny.en", "int8"), ("base", "int8"), ("base", "float16")):
            client.runtimes.create(
                f"{model}-{compute_type}", model, backend="whispercpp", compute_type=compute_type
            )
        yield client
    daemon.close()


def test_the_kennedy_sentence(client: Client) -> None:
    transcript = client.transcribe(AUDIO / "jfk.flac", runtime="tiny.en-int8")
    assert words(transcript.text) == words(KENNEDY)
    assert transcript.language == "en"
    times = [moment for segment in transcript.segments for moment in (segment.start, segment.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 11.05


def test_converted_weights_have_the_size_of_the_original_conversion(client: Client) -> None:
    transcript = client.transcribe(AUDIO / "jfk.flac", runtime="base-float16")
    assert words(transcript.text) == words(KENNEDY)
    assert converted("base", "whispercpp", "float16").stat().st_size == BASE_FLOAT16_BYTES


def test_a_damaged_model_is_not_converted(client: Client, tmp_path: Path) -> None:
    whole, damaged = Path(client.models.path("tiny.en")["path"]), tmp_path / "damaged"
    damaged.mkdir()
    for path in whole.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes()[: 1 << 20])
    client.runtimes.create("damaged", str(damaged), backend="whispercpp")
    with pytest.raises(WhisperdError) as raised:
        client.transcribe(AUDIO / "jfk.flac", runtime="damaged")
    assert raised.value.code == "model.conversion_failed"
    assert "damaged" in raised.value.message and raised.value.fix


def test_concurrent_languages_do_not_mix(client: Client) -> None:
    references = recordings()
    files = ["sentence_de.wav", "sentence_en.wav"] * 2
    jobs = [client.submit(AUDIO / file, runtime="base-int8", priority="interactive") for file in files]
    for job, file in zip(jobs, files, strict=True):
        result = client.jobs.wait(job)
        assert result["language"] == references[file]["language"]
        assert likeness(result["text"], references[file]["text"]) > 0.5, result["text"]


def test_chinese_is_detected(client: Client) -> None:
    transcript = client.transcribe(AUDIO / "aishell-0121.wav", runtime="base-int8")
    assert transcript.language == "zh"
    assert "\u5dde\u5e02" in transcript.text  # a city, written the same in both Chinese scripts


def test_german_is_translated_to_english_on_request(client: Client) -> None:
    transcript = client.transcribe(AUDIO / "sentence_de.wav", runtime="base-int8", task="translate")
    assert transcript.language == "de"
    assert {"the", "was"} & set(words(transcript.text))
    assert not {"der", "wurde"} & set(words(transcript.text))


@with_a_name_spelled
def test_a_prompt_sets_the_spelling_of_a_name(client: Client, options: Any) -> None:
    spelled = client.transcribe(AUDIO / "austen-0870.wav", runtime="base-int8", language="en", **options)
    assert "Dashwoode" in spelled.text


@pytest.fixture(scope="module")
def loaded(client: Client) -> tuple[Path, LoadParams]:
    """The bundle and load parameters for a worker of `tiny.en`."""
    client.transcribe(AUDIO / "jfk.flac", runtime="tiny.en-int8")
    variant = client.runtimes.show("tiny.en-int8")["variant"]
    bundle, file = Path(client.natives.path(variant)["path"]), converted("tiny.en", "whispercpp", "int8")
    return bundle, LoadParams(model_path=str(file), compute_type="int8", context_margin_s=30.0)


def samples(*files: str) -> bytes:
    """Return the samples of files, one after the other."""
    parts = []
    for file in files:
        with wave.open(str(AUDIO / file)) as sound:
            assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16_000, 1, 2)
            parts.append(sound.readframes(sound.getnframes()))
    return b"".join(parts)


def compute(loaded: tuple[Path, LoadParams], pcm: bytes, **options: Any) -> WindowResult:
    """Return a worker's result for one window."""

    async def run() -> WindowResult:
        bundle, params = loaded
        batch = BatchParams(windows=(EngineWindow(pcm=pcm),), options=DecodeOptions(**options))
        async with open_worker(bundle, "whisperd_whispercpp.engine:load", params) as worker:
            return (await worker.transcribe(batch))[0]

    return anyio.run(run)


def test_sentences_have_times(loaded: tuple[Path, LoadParams]) -> None:
    result = compute(loaded, samples("austen-0870.wav", "austen-0880.wav"))
    first, *others = result.segments
    assert words(first.text)[-2:] == ["for", "them"]
    assert first.start == 0.0 and 6.0 < first.end <= 7.3
    assert others and 6.5 < others[0].start < 8.0 and others[-1].end == pytest.approx(10.09, abs=0.01)


SPECTROGRAM = """
import json, sys
from pathlib import Path
from whisperd.isolation import enter_bundle
enter_bundle(Path(sys.argv[1]), "whisperd_whispercpp")
import numpy as np
from whisperd_whispercpp.mel import mel_filters, mel_spectrogram
sound = np.frombuffer(Path(sys.argv[2]).read_bytes(), "<i2").astype(np.float32) / 32768
found = []
for bands in (80, 128):
    for samples in (sound, sound[:16_000], np.zeros(16_000, np.float32)):
        padded = np.concatenate([samples[200:0:-1], samples, np.zeros(480_000 + 400)]).astype(float)
        times, waves = np.arange(400), np.exp(-2j * np.pi * np.outer(np.arange(201), np.arange(400)) / 400)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * times / 400)
        frames = np.array([padded[160 * index:160 * index + 400] * hann for index in range(3000)])
        energy = mel_filters(bands).astype(float) @ np.abs(waves @ frames.T) ** 2
        told = np.log10(np.maximum(energy, 1e-10))
        expected = (np.maximum(told, told.max() - 8) + 4) / 4
        got = mel_spectrogram(samples, mel_filters(bands), 3000)
        found.append([got.shape == expected.shape, str(got.dtype), float(np.abs(got - expected).max())])
print(json.dumps(found))
"""


def test_the_spectrogram_matches_its_definition(tmp_path: Path, loaded: tuple[Path, LoadParams]) -> None:
    sound = tmp_path / "sound"
    sound.write_bytes(samples("austen-0880.wav"))
    found = json.loads(run_python(SPECTROGRAM, str(loaded[0]), str(sound), env=os.environ))
    assert [one[:2] for one in found] == [[True, "float32"]] * 6
    assert max(one[2] for one in found) < 1e-4


LONG_WORD = """
import json, sys
from pathlib import Path
from whisperd.isolation import enter_bundle
bundle, model = sys.argv[1:]
enter_bundle(Path(bundle), "whisperd_whispercpp")
from whisperd.worker.protocol import LoadParams
from whisperd_whispercpp import library
from whisperd_whispercpp.engine import load

class Library:
    # It records the texts that it tokenizes.
    asked = []
    def __getattr__(self, name):
        return getattr(original, name)
    def whisper_tokenize(self, context, text, *others):
        self.asked.append(text.decode())
        return original.whisper_tokenize(context, text, *others)

original, library.LIBRARY = library.LIBRARY, Library()
model = load(LoadParams(model_path=model, compute_type="int8"))._model
text = " It is called " + "\\N{LATIN SMALL LETTER E WITH ACUTE}" * 500
tokens = model.tokenize(text)
print(json.dumps([b"".join(map(model.token_bytes, tokens)).decode() == text, max(map(len, Library.asked))]))
"""


def test_a_very_long_word_does_not_block_the_library(loaded: tuple[Path, LoadParams]) -> None:
    """The library's time grows with the cube of the word's length."""
    is_whole, longest = json.loads(
        run_python(LONG_WORD, str(loaded[0]), loaded[1].model_path, env=os.environ)
    )
    assert is_whole and longest < 100


CUT_OFF = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from whisperd.isolation import enter_bundle
bundle, model = sys.argv[1:]
enter_bundle(Path(bundle), "whisperd_whispercpp")
from whisperd.worker.protocol import EngineWindow, LoadParams
from whisperd_whispercpp.engine import load
engine = load(LoadParams(model_path=model, compute_type="int8"))
decoded = SimpleNamespace(
    tokens=(440,) * 220, times=[0.0] * 221, probabilities=[1.0] * 220, avg_logprob=0.0, no_speech_prob=0.0,
    is_ended=False,
)
attempts = [engine._attempt(decoded, 0.0, EngineWindow(pcm=bytes(32_000 * seconds))) for seconds in (5, 26)]
print(json.dumps([[attempt.is_endless, attempt.is_cut_off] for attempt in attempts]))
"""


def test_a_text_that_fills_the_decoder_is_endless_only_if_nobody_speaks_so_fast(
    loaded: tuple[Path, LoadParams],
) -> None:
    """The library writes no more than 220 tokens."""
    told = run_python(CUT_OFF, str(loaded[0]), loaded[1].model_path, env=os.environ)
    assert json.loads(told) == [[True, False], [False, True]]


GIVING_UP = """
import json, sys
from pathlib import Path
from whisperd.isolation import enter_bundle
bundle, model, sound = sys.argv[1:]
enter_bundle(Path(bundle), "whisperd_whispercpp")
from whisperd.worker.protocol import UNWANTED, DecodeOptions, EngineWindow, LoadParams
from whisperd_whispercpp.engine import load
engine = load(LoadParams(model_path=model, compute_type="int8"))
pcm = Path(sound).read_bytes()
windows, options = [EngineWindow(pcm=pcm, group=group) for group in (0, 1)], DecodeOptions(language="en")
expected = engine.transcribe(windows, options)
told = []
for patience in (0, 1, 2, 5):
    asked = 0
    def is_wanted(window):
        global asked
        asked += window.group == 0
        return window.group == 1 or asked <= patience
    first, second = engine.transcribe(windows, options, is_wanted)
    told.append([asked, first is UNWANTED, second == expected[1]])
print(json.dumps(told))
"""


def test_an_unwanted_window_is_aborted_and_the_next_is_unaffected(
    tmp_path: Path, loaded: tuple[Path, LoadParams]
) -> None:
    bundle, params = loaded
    sound = tmp_path / "sound"
    sound.write_bytes(samples("austen-0870.wav"))
    told = run_python(GIVING_UP, str(bundle), params.model_path, str(sound), env=os.environ)
    # Asked before the window, after the encoder, after the first tokens; and once more for why it ended.
    assert json.loads(told) == [[1, True, True], *([asked, True, True] for asked in (3, 4, 7))]


@pytest.mark.parametrize(("name", "value"), [("device", "cuda"), ("compute_type", "bfloat16")])
def test_an_unsupported_device_or_compute_type_is_refused(
    loaded: tuple[Path, LoadParams], name: str, value: str
) -> None:
    bundle, params = loaded[0], msgspec.structs.replace(loaded[1], **{name: value})

    async def load() -> None:
        async with open_worker(bundle, "whisperd_whispercpp.engine:load", params):
            pytest.fail("the model was loaded")

    with pytest.raises(WhisperdError) as raised:
        anyio.run(load)
    assert raised.value.code == "engine.unsupported"
    assert value in raised.value.message and raised.value.fix


@with_non_english_requests
def test_unsupported_options_of_an_english_model_are_refused(client: Client, options: Any, code: str) -> None:
    with pytest.raises(WhisperdError) as raised:
        client.transcribe(AUDIO / "jfk.flac", runtime="tiny.en-int8", **options)
    assert raised.value.code == code


def test_concurrent_jobs_have_the_same_texts_as_single_ones(client: Client) -> None:
    files = [f"austen-08{number}0.wav" for number in (7, 8, 9)]
    alone = [client.transcribe(AUDIO / file, runtime="tiny.en-int8", temperature=0.0).text for file in files]
    jobs = [client.submit(AUDIO / file, runtime="tiny.en-int8", temperature=0.0) for file in files * 2]
    assert [client.jobs.wait(job)["text"] for job in jobs] == alone * 2
