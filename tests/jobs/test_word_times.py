"""Word times in events, results, formats, live jobs and stored transcripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whisperd.client import Word
from whisperd.rpc.errors import WhisperdError
from whisperd.speech import samples
from whisperd_testing import RunningDaemon, batches, write_tone

pytestmark = pytest.mark.real

SAYS = " One two three."
NAMES = ["One", "two", "three."]


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    return write_tone(tmp_path / "tone.wav", 3.0)


def test_each_word_has_its_time(shared: RunningDaemon, toy: Callable[..., str], tone: Path) -> None:
    with shared.connect() as client:
        transcript = client.transcribe(tone, model=toy(says=SAYS), vad=False, timestamps="word")
        plain = client.transcribe(tone, model=toy(says=SAYS), vad=False)
    (segment,) = transcript.segments
    assert segment.words == tuple(Word(name, place, place + 1.0, 0.5) for place, name in enumerate(NAMES))
    assert transcript.verbose["words"][1] == {
        "word": "two",
        "start": 1.0,
        "end": 2.0,
        "probability": 0.5,
        "segment": 0,
    }
    assert plain.segments[0].words == () and "words" not in plain.verbose


def test_word_times_are_relative_to_the_file_for_clips_and_channels(
    shared: RunningDaemon, toy: Callable[..., str], tmp_path: Path
) -> None:
    stereo = write_tone(tmp_path / "stereo.wav", 20.0, channels=2)
    with shared.connect() as client:
        transcript = client.transcribe(
            stereo,
            model=toy(says=SAYS),
            vad=False,
            clip="2-5; 10-13",
            channels="split",
            timestamps="word",
        )
    for channel in (0, 1):
        words = [word for one in transcript.segments if one.channel == channel for word in one.words]
        assert [word.text for word in words] == NAMES * 2
        assert [word.start for word in words] == pytest.approx([2, 3, 4, 10, 11, 12], abs=0.05)
    assert {word["channel"] for word in transcript.verbose["words"]} == {0, 1}


def test_word_events_precede_their_segment_event(
    shared: RunningDaemon, toy: Callable[..., str], tone: Path
) -> None:
    with shared.connect() as client:
        job = client.submit(tone, model=toy(says=SAYS), vad=False, timestamps="word")
        events = [event for event in client.follow(job) if event is not None]
    told = [event for event in events if event["type"] in ("transcription.word", "transcription.segment")]
    assert [event["text"] for event in told] == [*NAMES, SAYS.strip()]
    assert [event["index"] for event in told] == [0, 1, 2, 0]
    assert [word["word"] for word in told[-1]["words"]] == NAMES
    with shared.connect() as client:
        (segment,) = client.transcribe(tone, model=toy(says=SAYS), vad=False, timestamps="word", stream=True)
    assert [word.text for word in segment.words] == NAMES


def test_a_stored_transcript_answers_only_jobs_with_the_same_timestamps(
    daemon: RunningDaemon, toy: Callable[..., str], tone: Path
) -> None:
    model = toy(says=SAYS)
    given: dict[str, Any] = {"model": model, "vad": False}
    with daemon.connect() as client:
        client.transcribe(tone, **given)
        with_words = client.transcribe(tone, timestamps="word", **given)
        job = client.submit(tone, timestamps="word", **given)
        kept = client.jobs.wait(job)
        assert client.jobs.show(job)["cached"]
    assert len(batches(model)) == 2
    assert kept["words"] == with_words.verbose["words"]


def test_a_model_without_word_times_refuses_them(
    shared: RunningDaemon, toy: Callable[..., str], tone: Path
) -> None:
    model = toy(says=SAYS, word_times=False)
    with shared.connect() as client:
        with pytest.raises(WhisperdError) as raised:
            client.transcribe(tone, model=model, vad=False, timestamps="word")
        assert client.transcribe(tone, model=model, vad=False).text == SAYS.strip()
    assert raised.value.code == "timestamps.not_in_model"
    assert "--timestamps" in raised.value.fix
    assert len(batches(model)) == 1, "the engine was not asked for word times"


def test_word_times_on_the_command_line(shared: RunningDaemon, toy: Callable[..., str], tone: Path) -> None:
    asked = ("transcribe", "--model", toy(says=SAYS), "--no-vad", "--timestamps", "word", str(tone))
    assert shared.ctl(*asked).out == f"{SAYS.strip()}\n"
    assert [word["word"] for word in shared.ctl(*asked, "--json").json["words"]] == NAMES
    cue = shared.ctl(*asked, "--format", "vtt").out.splitlines()[-1]
    assert cue == "<c>One</c> <00:00:01.000><c>two</c> <00:00:02.000><c>three.</c>"
    lines = [json.loads(line) for line in shared.ctl(*asked, "--stream").out.splitlines()]
    assert [one["text"] for one in lines if one["type"] == "transcription.word"] == NAMES


def test_word_times_of_a_live_job(shared: RunningDaemon, toy: Callable[..., str]) -> None:
    sample = samples()[0]
    with (
        shared.connect() as client,
        client.dictate(model=toy(says=SAYS), timestamps="word") as dictation,
    ):
        dictation.push(sample.pcm)
        dictation.finish()
        events = [event for event in dictation if event["type"] == "transcription.segment"]
        result = dictation.result()
    assert [word["word"] for word in events[0]["words"]] == NAMES
    assert [word.text for word in result.segments[0].words] == NAMES
    assert [word["word"] for word in result.verbose["words"][:3]] == NAMES
