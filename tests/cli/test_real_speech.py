"""Real speech with a real model, as a user would transcribe it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spoken import words
from whisperd_testing import AUDIO, KENNEDY, RunningDaemon

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon with the real backend, which downloads what the test cache lacks."""
    daemon = RunningDaemon(tmp_path_factory.mktemp("daemon"), toy=False, env={"HF_HUB_OFFLINE": "0"})
    daemon.settings("[jobs]\nkeep_transcripts = false\n")  # each test transcribes, whichever comes first
    daemon.start()
    assert daemon.ctl("natives", "install", "media", "ctranslate2-cpu", timeout=600).status == 0
    assert daemon.ctl("models", "pull", "tiny.en", timeout=600).status == 0
    yield daemon
    daemon.close()


def test_the_kennedy_sentence(daemon: RunningDaemon) -> None:
    done = daemon.ctl("transcribe", "--model", "tiny.en", str(AUDIO / "jfk.flac"))
    assert (done.status, done.err) == (0, "")
    assert words(done.out) == words(KENNEDY)


def test_the_kennedy_sentence_through_a_pipe(daemon: RunningDaemon) -> None:
    speech = (AUDIO / "jfk.flac").read_bytes()
    document = daemon.ctl("transcribe", "--model", "tiny.en", "--json", "-", input=speech).json
    assert words(document["text"]) == words(KENNEDY)
    assert document["language"] == "en"
    assert document["duration"] == pytest.approx(11.0, abs=0.1)
    assert document["segments"][0]["start"] < 1.0 < 10.0 < document["segments"][-1]["end"] <= 11.1


def test_silence_gives_no_text(daemon: RunningDaemon) -> None:
    silent = str(AUDIO / "no_speech.wav")
    done = daemon.ctl("transcribe", "--model", "tiny.en", silent)
    hint = "no speech was found; --no-vad transcribes whispering, too"
    assert (done.status, done.out, done.err) == (0, "", f"{silent}: {hint}\n")
    quiet = daemon.ctl("transcribe", "--model", "tiny.en", silent, "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")


def test_translating_with_an_english_model_is_refused(daemon: RunningDaemon) -> None:
    done = daemon.ctl(
        "transcribe", "--model", "tiny.en", "--task", "translate", str(AUDIO / "sentence_de.wav")
    )
    assert (done.status, done.out) == (2, "")
    assert "tiny.en does not support translation" in done.err
    assert "such as tiny" in done.err
