"""Word times in real speech: compared with the pauses, and between the backends."""

from __future__ import annotations

import json
import shutil
import struct
import wave
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from whisperd.client import Client, Transcript, Word
from whisperd.rpc.errors import WhisperdError
from whisperd.speech import samples
from whisperd_testing import AUDIO, RunningDaemon

pytestmark = pytest.mark.real

BACKENDS = ("ctranslate2", "whispercpp")
KENNEDY_PAUSES = ((2.2, 3.2), (4.4, 5.3), (7.7, 8.1))
"""Silent intervals of the recording, judged by its loudness."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One daemon for all tests in this module."""
    daemon = RunningDaemon(tmp_path_factory.mktemp("daemon"), toy=False).start()
    yield daemon
    daemon.close()


@pytest.fixture(scope="module")
def client(daemon: RunningDaemon) -> Iterator[Client]:
    """A client of a daemon with a runtime of each backend."""
    with daemon.connect() as client:
        for backend in BACKENDS:
            client.runtimes.create(backend, "tiny.en", backend=backend)
        yield client


def write_wav(path: Path, pcm: bytes, *, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(pcm)
    return path


def words(transcript: Transcript) -> list[Word]:
    return [word for segment in transcript.segments for word in segment.words]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_word_lies_in_a_pause(client: Client, backend: str) -> None:
    transcript = client.transcribe(AUDIO / "jfk.flac", runtime=backend, timestamps="word")
    found = words(transcript)
    assert " ".join(word.text for word in found) == transcript.text
    assert all(one.end <= other.start for one, other in pairwise(found))
    for begin_s, end_s in KENNEDY_PAUSES:
        for word in found:
            assert word.end <= begin_s + 0.2 or word.start >= end_s - 0.2, (word, begin_s)


def test_the_backends_agree_on_word_times(client: Client) -> None:
    ours, theirs = (
        words(client.transcribe(AUDIO / "jfk.flac", runtime=backend, timestamps="word"))
        for backend in BACKENDS
    )
    assert [word.text.strip(",.") for word in ours] == [word.text.strip(",.") for word in theirs]
    apart = sorted(abs(one.start - other.start) for one, other in zip(ours, theirs, strict=True))
    assert apart[len(apart) // 2] <= 0.05 and apart[-1] <= 0.5, apart


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_option_at_once(client: Client, backend: str, tmp_path: Path) -> None:
    """Parts, channels, no voice detection and words: the times refer to the whole file."""
    speech = samples()[1]
    path = tmp_path / "stereo.wav"
    lead_s = 3.0
    mono = struct.unpack(f"<{len(speech.pcm) // 2}h", speech.pcm)
    left = [*[0] * round(lead_s * 16_000), *mono]
    write_wav(path, b"".join(struct.pack("<2h", sample, 0) for sample in left), channels=2)
    transcript = client.transcribe(
        path,
        runtime=backend,
        language="en",
        task="transcribe",
        timestamps="word",
        channels="split",
        clip="2-",
        vad=False,
        beam_size=2,
        temperature=[0.0, 0.4],
        prompt="A novel.",
        hotwords="selfish",
    )
    found = [word for one in transcript.segments if one.channel == 0 for word in one.words]
    assert found[0].start >= lead_s - 0.2
    assert found[-1].end <= lead_s + speech.duration_s + 0.2
    assert "selfish" in " ".join(word.text for word in found)


@pytest.mark.parametrize("heads", [None, [[0, 0], [9, 0]]])
def test_a_model_without_valid_alignment_heads(
    daemon: RunningDaemon, client: Client, tmp_path: Path, heads: list[list[int]] | None
) -> None:
    whole, mute = Path(client.models.path("tiny.en")["path"]), tmp_path / "mute"
    shutil.copytree(whole, mute)
    config = json.loads((whole / "config.json").read_text())
    del config["alignment_heads"]
    if heads is not None:
        config["alignment_heads"] = heads
    (mute / "config.json").unlink()
    (mute / "config.json").write_text(json.dumps(config))
    name = "mute" if heads is None else "wrong"
    client.runtimes.create(name, str(mute), backend="ctranslate2")
    with pytest.raises(WhisperdError) as raised:
        client.transcribe(AUDIO / "jfk.flac", runtime=name, timestamps="word")
    assert raised.value.code == "timestamps.not_in_model"
    said = (
        f"runtime {name}: word times are not available, because the alignment heads in config.json are wrong"
    )
    assert (said in daemon.log()) == (heads is not None)
    # Two sentences in one window: without alignment heads, they cannot be timed separately.
    first, second = samples()[:2]
    two = write_wav(tmp_path / "two.wav", first.pcm + bytes(16_000) + second.pcm)
    (segment,) = client.transcribe(two, runtime=name, vad=False).segments
    assert "himself. Unless" in segment.text
