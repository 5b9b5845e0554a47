"""Real speech through the real engine: words, languages and silence."""

from __future__ import annotations

import json
import os
import shutil
import warnings
import wave
from array import array
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from spoken import likeness, recordings, with_a_name_spelled, with_non_english_requests, words
from whisperd.client import Client
from whisperd.ctranslate2_file import aliases_bytes, head_bytes, read_index, variable_bytes
from whisperd.rpc.errors import WhisperdError
from whisperd.worker.process import Worker, open_worker
from whisperd.worker.protocol import (
    SAMPLE_RATE,
    BatchParams,
    DecodeOptions,
    EngineWindow,
    LoadParams,
    WindowResult,
)
from whisperd.worker.rules import SURE_LOGPROB, token_limit
from whisperd_testing import AUDIO, KENNEDY, RunningDaemon, run_python

pytestmark = pytest.mark.real

MAX_ERROR_PERCENT = 4.0


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a daemon that keeps its models loaded for all tests in this module."""
    daemon = RunningDaemon(tmp_path_factory.mktemp("daemon"), toy=False).start()
    with daemon.connect() as client:
        yield client
    daemon.close()


IMPORT_ENGINE = """
import sys
from pathlib import Path
import whisperd.worker.main
from whisperd.isolation import enter_bundle
enter_bundle(Path(sys.argv[1]), "whisperd_ctranslate2")
import whisperd_ctranslate2.engine
print(*sys.modules)
"""


LOAD_ON_TWO_GPUS = """
import sys
from pathlib import Path
from unittest import mock
from whisperd.isolation import enter_bundle
from whisperd.worker.protocol import LoadParams
enter_bundle(Path(sys.argv[1]), "whisperd_ctranslate2")
from whisperd_ctranslate2 import model
params = LoadParams(model_path="", device="cuda", device_index=(0, 1), replicas=2)
with mock.patch.object(model, "tokenizers"), mock.patch.object(model, "ctranslate2") as library:
    model.load_model(Path("no-model"), params)
print(library.models.Whisper.call_args.kwargs["inter_threads"])
"""


def test_replicas_are_divided_among_the_gpus(client: Client) -> None:
    bundle = client.natives.install("ctranslate2-cpu")["path"]
    assert run_python(LOAD_ON_TWO_GPUS, bundle, env=dict(os.environ)).split() == ["1"]


def test_a_worker_imports_only_what_it_needs(client: Client) -> None:
    """Loading a model waits for these imports."""
    bundle = client.natives.install("ctranslate2-cpu")["path"]
    modules = run_python(IMPORT_ENGINE, bundle, env=dict(os.environ)).split()
    assert "faster_whisper.tokenizer" in modules
    needless = {"av", "faster_whisper.audio", "huggingface_hub", "importlib.metadata", "pluggy", "tqdm"}
    assert needless & set(modules) == set()


def test_the_kennedy_sentence(client: Client) -> None:
    transcript = client.transcribe(AUDIO / "jfk.flac", model="tiny.en")
    assert words(transcript.text) == words(KENNEDY)
    assert transcript.language == "en"
    assert transcript.duration == pytest.approx(11.0, abs=0.05)
    times = [moment for segment in transcript.segments for moment in (segment.start, segment.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 11.05


def test_without_speech_detection_a_segment_lasts_no_longer_than_its_speech(
    client: Client, tmp_path: Path
) -> None:
    file, silence = tmp_path / "late.wav", bytes(2 * 9 * SAMPLE_RATE)
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLE_RATE)
        sound.writeframes(silence + _samples("austen-0870.wav") + silence)
    (segment,) = client.transcribe(file, model="tiny.en", vad=False).segments
    assert (segment.start, segment.end) == pytest.approx((9.0, 16.1), abs=1.0)


def test_german_is_detected(client: Client) -> None:
    transcript = client.transcribe(AUDIO / "sentence_de.wav", model="base")
    assert transcript.language == "de"
    assert likeness(transcript.text, recordings()["sentence_de.wav"]["text"]) > 0.5


def test_german_is_translated_to_english_on_request(client: Client) -> None:
    transcript = client.transcribe(AUDIO / "sentence_de.wav", model="base", task="translate")
    assert transcript.language == "de"
    assert {"the", "was"} & set(words(transcript.text))
    assert not {"der", "wurde"} & set(words(transcript.text))


def test_concurrent_languages_do_not_mix(client: Client) -> None:
    references = recordings()
    files = ["sentence_de.wav", "sentence_en.wav"] * 3
    client.transcribe(AUDIO / files[0], model="base")
    jobs = [client.submit(AUDIO / file, model="base", priority="interactive") for file in files]
    for job, file in zip(jobs, files, strict=True):
        result = client.jobs.wait(job)
        assert result["language"] == references[file]["language"]
        assert likeness(result["text"], references[file]["text"]) > 0.5, result["text"]


def test_the_same_sound_gives_the_same_text(client: Client) -> None:
    texts = {client.transcribe(AUDIO / "austen-0870.wav", model="tiny.en").text for _ in range(3)}
    assert len(texts) == 1


def test_a_windows_result_does_not_depend_on_its_batch(client: Client) -> None:
    samples = b"".join(_samples(f"austen-{number}.wav") for number in ("0870", "0880", "0890", "0870"))
    # The last two are padded with silence, each to another context length.
    seconds = ((0.0, 6.3), (6.0, 13.1), (9.0, 15.8), (11.0, 16.6), (2.0, 8.9), (0.0, 17.0), (2.0, 16.9))
    windows = [
        EngineWindow(pcm=samples[2 * round(start * SAMPLE_RATE) : 2 * round(end * SAMPLE_RATE)])
        for start, end in seconds
    ]
    options = DecodeOptions(language="en", word_times=True)

    async def compute(worker: Worker) -> tuple[list[WindowResult], list[WindowResult]]:
        together = await worker.transcribe(BatchParams(windows=tuple(windows), options=options))
        alone = [
            (await worker.transcribe(BatchParams(windows=(window,), options=options)))[0]
            for window in windows
        ]
        return together, alone

    together, alone = in_worker(client, compute)
    assert together == alone
    assert all(result.segments for result in together)


def test_beam_search_is_used_where_the_greedy_text_is_uncertain(client: Client) -> None:
    clear = _samples("austen-0870.wav")[: 2 * 6 * SAMPLE_RATE]
    two_speak = _mixed("austen-0870.wav", "austen-0890.wav")[: 2 * 6 * SAMPLE_RATE]
    windows = (EngineWindow(pcm=clear), EngineWindow(pcm=two_speak))

    async def compute(worker: Worker) -> list[list[WindowResult]]:
        return [
            await worker.transcribe(
                BatchParams(
                    windows=windows,
                    options=DecodeOptions(language="en", beam_size=beams, temperatures=(0.0,)),
                )
            )
            for beams in (1, 5)
        ]

    greedily, with_beams = in_worker(client, compute)
    assert all(segment.avg_logprob >= SURE_LOGPROB for segment in greedily[0].segments)
    assert with_beams[0] == greedily[0]
    assert all(segment.avg_logprob < SURE_LOGPROB for segment in greedily[1].segments)
    assert with_beams[1] != greedily[1]


RECORDING = """
import json, sys
from pathlib import Path
from whisperd.isolation import enter_bundle
bundle, model, sound = sys.argv[1:]
enter_bundle(Path(bundle), "whisperd_ctranslate2")
from whisperd.worker.protocol import UNWANTED, DecodeOptions, EngineWindow, LoadParams
from whisperd_ctranslate2.engine import load
engine = load(LoadParams(model_path=model))
windows = [EngineWindow(pcm=Path(sound).read_bytes(), group=group) for group in (0, 1)]
options = DecodeOptions(language="en", temperatures=(0.0,))

class Model:
    # It records its decoder calls.
    def __init__(self, model):
        self.model, self.decoded = model, []
    def __getattr__(self, name):
        return getattr(self.model, name)
    def generate(self, encoded, prompts, **options):
        self.decoded.append((len(prompts), options["beam_size"]))
        return self.model.generate(encoded, prompts, **options)

def decoded(options, is_wanted=lambda window: True):
    model.decoded.clear()
    engine.transcribe(windows, options, is_wanted)
    return list(model.decoded)

engine._model = model = Model(engine._model)
"""

GIVING_UP = """
from types import SimpleNamespace

class UnsureModel(Model):
    # It finds each text likely enough to be kept, yet not to do without beam search.
    def generate(self, *arguments, **options):
        return [
            SimpleNamespace(sequences_ids=one.sequences_ids, scores=[-0.5], no_speech_prob=0.0)
            for one in super().generate(*arguments, **options)
        ]

engine._model = model = UnsureModel(model.model)

def until_decoded(unwanted):
    # All windows are wanted until they were decoded greedily.
    return lambda window: not model.decoded or window.group not in unwanted

print(json.dumps([decoded(options, until_decoded(unwanted)) for unwanted in ((), (0,), (0, 1))]))
"""

OF_LANGUAGES = """
german = DecodeOptions(language="de", temperatures=(0.0,))
told = [decoded(options), decoded(german)]
engine._languages = lambda *_: [("en", 1.0), ("de", 1.0)]
print(json.dumps([*told, decoded(options)]))
"""

COMMANDS = """
def commands(prompt):
    tokens = engine._prompt("en", DecodeOptions(prompt=prompt))
    return [token for token in tokens if token >= engine._tokenizer("en", "transcribe").eot]

print(json.dumps([commands("So"), commands("<|endoftext|>So<|startoftranscript|>")]))
"""

ENDLESS = """
class EndlessModel(Model):
    # It never ends a text.
    def generate(self, encoded, prompts, *, suppress_tokens, **options):
        ends = engine._tokenizer("en", "transcribe").eot
        return self.model.generate(encoded, prompts, suppress_tokens=[*suppress_tokens, ends], **options)

engine._model = EndlessModel(engine._model)
decode, attempts = engine._decode, []
engine._decode = lambda *arguments: attempts.extend(found := decode(*arguments)) or found
room = []
for prompt in (None, "one two three four five " * 40):
    options = DecodeOptions(language="en", temperatures=(0.0,), beam_size=1, prompt=prompt, word_times=True)
    engine.transcribe(windows[:1], options)
    assert all(attempt.is_endless or attempt.is_cut_off for attempt in attempts)
    room.append((min(len(attempt.tokens) for attempt in attempts), attempts[0].is_cut_off))
    attempts.clear()
print(json.dumps(room))
"""

DOUBTED = """
class DoubtfulModel(Model):
    # It does not end its first text.
    def generate(self, encoded, prompts, *, suppress_tokens, **options):
        ends = [] if self.decoded else [engine._tokenizer("en", "transcribe").eot]
        return super().generate(encoded, prompts, suppress_tokens=[*suppress_tokens, *ends], **options)
    def align(self, *arguments):
        self.decoded.append("aligned")
        return self.model.align(*arguments)

engine._model = model = DoubtfulModel(engine._model)
options = DecodeOptions(language="en", temperatures=(0.0,), beam_size=1, word_times=True)
engine.transcribe(windows[:1], options)
print(json.dumps(model.decoded))
"""


@pytest.mark.parametrize(
    ("seconds", "room"), [(6, [token_limit(6), token_limit(6)]), (28, [440, 220])], ids=["short", "long"]
)
def test_a_text_may_fill_all_its_room_and_counts_as_endless_or_cut_off(
    client: Client, tmp_path: Path, seconds: int, room: list[int]
) -> None:
    """Without a prompt, and with one that takes up half of the decoder's context."""
    model, bundle = model_and_bundle(client)
    sound = tmp_path / "sound"
    size = 2 * seconds * SAMPLE_RATE
    sound.write_bytes(_samples("austen-0870.wav")[:size].ljust(size, b"\0"))
    found = json.loads(run_python(RECORDING + ENDLESS, str(bundle), model, str(sound), env=os.environ))
    assert all(tokens >= least for (tokens, _), least in zip(found, room, strict=True)), found
    assert [is_cut_off for _, is_cut_off in found] == [seconds == 28] * 2


def test_a_doubted_text_gets_no_word_times(client: Client, tmp_path: Path) -> None:
    model, bundle = model_and_bundle(client)
    sound = tmp_path / "sound"
    sound.write_bytes(_samples("austen-0870.wav")[: 2 * 6 * SAMPLE_RATE])
    told = run_python(RECORDING + DOUBTED, str(bundle), model, str(sound), env=os.environ)
    assert json.loads(told) == [[1, 1], [1, 1], "aligned"]


def test_a_prompt_cannot_contain_decoder_commands(client: Client, tmp_path: Path) -> None:
    model, bundle = model_and_bundle(client)
    (tmp_path / "no sound").touch()
    told = run_python(RECORDING + COMMANDS, str(bundle), model, str(tmp_path / "no sound"), env=os.environ)
    usual, hostile = json.loads(told)
    assert usual == hostile


def test_only_english_is_decoded_greedily_first(client: Client, tmp_path: Path) -> None:
    model, bundle = model_and_bundle(client, "base")
    sound = tmp_path / "sound"
    sound.write_bytes(_samples("austen-0870.wav")[: 2 * 6 * SAMPLE_RATE])
    told = run_python(RECORDING + OF_LANGUAGES, str(bundle), model, str(sound), env=os.environ)
    assert json.loads(told) == [[[2, 1]], [[2, 5]], [[2, 1], [1, 5]]]


def test_unwanted_windows_get_no_beam_search(client: Client, tmp_path: Path) -> None:
    model, bundle = model_and_bundle(client)
    sound = tmp_path / "sound"
    sound.write_bytes(_samples("austen-0870.wav")[: 2 * 6 * SAMPLE_RATE])
    decoded = json.loads(run_python(RECORDING + GIVING_UP, str(bundle), model, str(sound), env=os.environ))
    assert decoded == [[[2, 1], [2, 5]], [[2, 1], [1, 5]], [[2, 1]]]


Result = TypeVar("Result")


def in_worker(client: Client, compute: Callable[[Worker], Awaitable[Result]]) -> Result:
    """Run a function on a worker of the engine, without a daemon."""
    model, bundle = model_and_bundle(client)
    params = LoadParams(model_path=model, cpu_threads=1)

    async def run() -> Result:
        async with open_worker(bundle, "whisperd_ctranslate2.engine:load", params) as worker:
            return await compute(worker)

    return anyio.run(run)


def model_and_bundle(client: Client, name: str = "tiny.en") -> tuple[str, Path]:
    """Return the paths of a model and of the native bundle."""
    return client.models.pull(name)["path"], Path(client.natives.install("ctranslate2-cpu")["path"])


def _mixed(*names: str) -> bytes:
    """Return the recordings mixed together, cut to the shortest."""
    each = [array("h", _samples(name)) for name in names]
    return array("h", [sum(at_once) // len(each) for at_once in zip(*each, strict=False)]).tobytes()


def _samples(name: str) -> bytes:
    with wave.open(str(AUDIO / name)) as file:
        assert (file.getframerate(), file.getnchannels()) == (SAMPLE_RATE, 1)
        return file.readframes(file.getnframes())


@pytest.mark.parametrize("model", ["tiny.en", "base"])
def test_silence_has_no_text(client: Client, model: str) -> None:
    transcript = client.transcribe(AUDIO / "no_speech.wav", model=model)
    assert (transcript.text, transcript.segments, transcript.language) == (
        "",
        (),
        "en" if model == "tiny.en" else None,
    )


@with_a_name_spelled
def test_a_prompt_sets_the_spelling_of_a_name(client: Client, options: Any) -> None:
    spelled = client.transcribe(AUDIO / "austen-0870.wav", model="base", **options)
    assert "Dashwoode" in spelled.text


@with_non_english_requests
def test_unsupported_options_of_an_english_model_are_refused(client: Client, options: Any, code: str) -> None:
    with pytest.raises(WhisperdError) as raised:
        client.transcribe(AUDIO / "jfk.flac", model="tiny.en", **options)
    assert raised.value.code == code


def test_the_word_error_rate_is_low(client: Client) -> None:
    english = [one for one in recordings().values() if one["language"] == "en"]
    jobs = [client.submit(AUDIO / one["file"], model="base", language="en") for one in english]
    texts = [client.jobs.wait(job)["text"] for job in jobs]
    percent = error_percent([one["text"] for one in english], texts)
    assert percent <= MAX_ERROR_PERCENT, texts


def error_percent(references: list[str], texts: list[str]) -> float:
    """Return the word error rate after Whisper's English normalizer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jiwer
        from whisper_normalizer.english import EnglishTextNormalizer

    normalize = EnglishTextNormalizer()
    return 100 * float(jiwer.wer([normalize(one) for one in references], [normalize(one) for one in texts]))


def test_a_model_of_128_bands_needs_no_file_that_says_so(client: Client, tmp_path: Path) -> None:
    """Such a file is often missing from fine-tuned variants of large-v3."""
    folder = tmp_path / "fine-tuned"
    folder.mkdir()
    for file in Path(client.models.pull("tiny.en")["path"]).iterdir():
        data = _with_128_bands(file) if file.name == "model.bin" else file.read_bytes()
        (folder / file.name).write_bytes(data)
    assert not (folder / "preprocessor_config.json").exists()
    client.transcribe(AUDIO / "jfk.flac", model=str(folder))


def _with_128_bands(weights: Path) -> bytes:
    """Return the weights of a model with 80 bands of sound, with more bands, which count for nothing."""
    with weights.open("rb") as file:
        index = read_index(file)
        parts = [head_bytes(index, len(index.variables))]
        for name, one in index.variables.items():
            file.seek(one.offset)
            data, shape = file.read(one.size_bytes), one.shape
            if name == "encoder/conv1/weight":
                row = len(data) // shape[0]
                more = bytes(row // 80 * 48)
                data = b"".join(data[place : place + row] + more for place in range(0, len(data), row))
                shape = (shape[0], 128, shape[2])
            parts += [variable_bytes(name, one.type, shape, len(data)), data]
    return b"".join([*parts, aliases_bytes(index)])


def test_a_tokenizer_of_another_kind_of_model_is_reported(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(client.models.pull("tiny.en")["path"], folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
    tokenizer["added_tokens"] = [
        token for token in tokenizer["added_tokens"] if token["content"] != "<|startoflm|>"
    ]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(WhisperdError, match="special tokens") as raised:
        client.transcribe(AUDIO / "jfk.flac", model=str(folder))
    assert raised.value.code == "model.load_failed"


def test_a_damaged_model_is_never_loaded(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    whole = Path(client.models.path("tiny.en")["path"])
    for file in whole.iterdir():
        data = file.read_bytes()
        (folder / file.name).write_bytes(data[: len(data) // 2] if file.name == "model.bin" else data)
    with pytest.raises(WhisperdError) as raised:
        client.transcribe(AUDIO / "jfk.flac", model=str(folder))
    assert raised.value.code == "model.load_failed"
    assert client.transcribe(AUDIO / "jfk.flac", model="tiny.en").text


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this computer may have a GPU")
def test_a_missing_gpu_is_reported(client: Client) -> None:
    model, bundle = model_and_bundle(client)
    params = LoadParams(model_path=model, device="cuda")

    async def load() -> None:
        async with open_worker(bundle, "whisperd_ctranslate2.engine:load", params):
            pytest.fail("the model was loaded without a GPU")

    with pytest.raises(WhisperdError) as raised:
        anyio.run(load)
    assert raised.value.code in ("cuda.driver_too_old", "cuda.not_available")
    assert "--device cpu" in raised.value.fix
