"""Real speech through users' own whisper.cpp model files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoken import words
from whisperd.client import Client
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import AUDIO, KENNEDY, RunningDaemon, converted

pytestmark = pytest.mark.real

TINY_FLOAT16_BYTES = 77_704_698
"""The size of a converted `tiny.en`."""
SPEECH = AUDIO / "jfk.flac"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny.en` in whisper.cpp's format, in a user's folder."""
    daemon = RunningDaemon(tmp_path_factory.mktemp("store"), toy=False).start()
    try:
        with daemon.connect() as client:
            client.runtimes.create("whole", "tiny.en", backend="whispercpp", compute_type="float16")
            client.runtimes.prepare("whole")
    finally:
        daemon.close()
    made = converted("tiny.en", "whispercpp", "float16")
    return shutil.copy(made, tmp_path_factory.mktemp("mine") / "ggml-tiny.en.bin")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon with an empty store, whose settings request another compute type than the file's."""
    folder = tmp_path_factory.mktemp("daemon")
    offline = {"WHISPERD_MODELS_DIR": str(folder / "models"), "WHISPERD_OFFLINE": "1"}
    daemon = RunningDaemon(folder, toy=False, env=offline)
    daemon.settings('[runtime]\ncompute_type = "int8"\n[jobs]\nkeep_transcripts = false\n')
    daemon.start()
    yield daemon
    daemon.close()


@pytest.fixture(scope="module")
def client(running: RunningDaemon) -> Iterator[Client]:
    with running.connect() as client:
        yield client


def test_a_file_can_be_given_as_the_model(running: RunningDaemon, client: Client, file: Path) -> None:
    done = running.ctl("transcribe", "--model", str(file), str(SPEECH), "--timestamps", "word", "--json")
    assert done.status == 0, done
    assert words(done.json["text"]) == words(KENNEDY)
    times = [time for word in done.json["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 11.05
    (runtime,) = (one for one in client.runtimes.list() if one["model"] == str(file))
    assert runtime["variant"].startswith("whispercpp-") and not runtime["saved"]
    assert runtime["loaded"]["compute_type"] == "float16"


def test_a_runtime_of_a_file_knows_its_languages_and_precision(client: Client, file: Path) -> None:
    client.runtimes.create("mine", file)
    with pytest.raises(WhisperdError) as raised:
        client.transcribe(SPEECH, runtime="mine", language="de")
    assert raised.value.code == "language.not_in_model"
    with pytest.raises(WhisperdError) as raised:
        client.runtimes.edit("mine", compute_type="int8")
    assert (raised.value.code, raised.value.data["field"]) == ("runtime.invalid", "compute_type")


def test_an_imported_file_is_an_ordinary_model(client: Client, file: Path) -> None:
    client.models.import_(file, "own")
    copy = Path(client.models.path("own")["path"])
    assert copy.stat().st_size == TINY_FLOAT16_BYTES
    assert words(client.transcribe(SPEECH, model="own").text) == words(KENNEDY)
    with pytest.raises(WhisperdError) as raised:
        client.models.remove("own")
    assert raised.value.code == "model.in_use"
    client.runtimes.unload("own")
    assert client.models.remove("own")["freed"] == TINY_FLOAT16_BYTES
    assert not copy.exists()


def test_a_truncated_file_is_refused_before_loading(client: Client, file: Path) -> None:
    short = file.with_name("short.bin")
    short.write_bytes(file.read_bytes()[:1_000_000])
    with pytest.raises(WhisperdError) as raised:
        client.transcribe(SPEECH, model=short)
    assert raised.value.code == "model.invalid_file" and "cut off" in raised.value.message
