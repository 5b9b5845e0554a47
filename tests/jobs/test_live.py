"""Live jobs through the real daemon. Audio is pushed as fast as the daemon accepts it, not in real time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from whisperd.client import Client, Dictation
from whisperd.jobs.audio_buffer import MAX_PUSH_BYTES
from whisperd.rpc.errors import WhisperdError
from whisperd.speech import samples, word_errors, words
from whisperd_testing import RunningDaemon, batches, runtime_with, until

pytestmark = pytest.mark.real

PAUSE = bytes(32_000)
ENDS = ("transcription.completed", "transcription.failed", "transcription.cancelled")


def speak(dictation: Dictation, *pieces: bytes) -> Thread:
    """Push all pieces from a separate thread, as a microphone would, but as fast as they are accepted."""

    def push() -> None:
        with suppress(WhisperdError):
            for piece in pieces:
                dictation.push(piece)
            dictation.finish()

    thread = Thread(target=push)
    thread.start()
    return thread


def submit(client: Client, **options: Any) -> str:
    return str(client.jobs.submit({"stream": True}, options)["id"])


def refused(client: Client, method: str, **params: Any) -> WhisperdError:
    with pytest.raises(WhisperdError) as caught:
        client.request(method, **params)
    return caught.value


def test_shipped_speech_is_transcribed_live(make_daemon: Callable[..., RunningDaemon]) -> None:
    daemon = make_daemon(toy=False).start()
    said = " ".join(sample.text for sample in samples())
    with daemon.connect() as client, client.dictate(model="tiny.en") as dictation:
        thread = speak(dictation, *(sample.pcm + PAUSE for sample in samples()))
        events = list(dictation)
        thread.join()
        transcript = dictation.result()
        followed_late = list(client.follow(dictation.id))
    assert followed_late == [event for event in events if event["type"] != "transcription.partial"]
    assert word_errors(said, transcript.text) <= 0.15 * len(words(said))
    assert transcript.language == "en"
    assert [event["type"] in ENDS for event in events] == [False] * (len(events) - 1) + [True]
    finals = [event for event in events if event["type"] == "transcription.segment"]
    assert tuple(event["text"] for event in finals) == tuple(one.text for one in transcript.segments)
    assert all(before["end"] <= after["start"] for before, after in pairwise(finals))
    for event in events:
        if event["type"] == "transcription.partial":
            assert event["agreed"] or event["tentative"]


def test_silence_and_noise_yield_no_text(shared: RunningDaemon, toy: Callable[..., str]) -> None:
    model = toy()
    hiss = bytes(index * 7919 % 16 for index in range(320_000))
    with shared.connect() as client, client.dictate(model=model) as dictation:
        speak(dictation, bytes(640_000), hiss).join()
        assert [event["type"] for event in dictation] == [
            "job.queued",
            "job.started",
            "transcription.completed",
        ]
        assert dictation.result().text == ""
    assert batches(model) == []


def test_jobs_show_a_live_job(shared: RunningDaemon, toy: Callable[..., str]) -> None:
    with shared.connect() as client:
        with client.dictate(model=toy(), language="de", beam_size=2) as dictation:
            job = client.jobs.show(dictation.id)
            dictation.push(samples()[0].pcm)
            dictation.finish()
            dictation.finish()
            text = dictation.result().text
        assert (job["input"], job["priority"]) == ({"stream": True}, "interactive")
        assert (job["options"]["language"], job["options"]["beam_size"]) == ("de", 2)
        shown = client.jobs.show(dictation.id)
    assert (shown["status"], shown["text"], shown["progress"]) == ("completed", text, 100.0)
    assert text.startswith("transcribe ")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_dictation_survives_killed_workers_and_decoders(
    daemon: RunningDaemon, toy: Callable[..., str]
) -> None:
    model, speech = toy(), samples()[0].pcm + PAUSE
    with daemon.connect() as client, client.dictate(model=model, language="en") as dictation:
        until(lambda: client.jobs.show(dictation.id)["status"] == "running")
        told = iter(dictation)
        for number in range(4):
            dictation.push(speech[: len(speech) // 2])
            for child in [*daemon.decoders(), *(daemon.workers() if number == 2 else ())]:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            dictation.push(speech[len(speech) // 2 :])
            next(event for event in told if event["type"] == "transcription.segment")
        dictation.finish()
        transcript = dictation.result()
    whole, length_s = transcript.segments, len(speech) / 32_000
    assert {int(one.start / length_s) for one in whole} == {0, 1, 2, 3}
    assert transcript.duration == pytest.approx(4 * length_s, abs=0.01)
    assert daemon.log().count("Another one continues.") >= 4


def test_a_slow_engine_blocks_the_sender(daemon: RunningDaemon, held: Path) -> None:
    speech = b"".join(sample.pcm + PAUSE for sample in samples()) * 3
    with daemon.connect() as client, client.dictate(model=str(held)) as dictation:
        pieces = [speech[first : first + 32_000] for first in range(0, len(speech), 32_000)]
        pushed: list[int] = []

        def push() -> None:
            for piece in pieces:
                dictation.push(piece)
                pushed.append(len(piece))
            dictation.finish()

        thread = Thread(target=push)
        thread.start()
        until(lambda: runtime_with(client, str(held))["waiting"] >= 4)
        until(lambda: len(pushed) >= 40)
        assert thread.is_alive() and len(pushed) < len(pieces)
        (held / "hold").unlink()
        thread.join()
        assert dictation.result().duration == pytest.approx(len(speech) / 32_000, abs=0.01)


def test_only_the_connection_that_owns_a_job_may_push(shared: RunningDaemon, toy: Callable[..., str]) -> None:
    with shared.connect() as client, shared.connect() as other:
        job = submit(client, model=toy())
        for method, params in (("jobs.push", {"pcm": b"\0\0"}), ("jobs.finish", {})):
            assert refused(other, method, id=job, **params).code == "live.not_yours"
            assert refused(other, method, id="nobody", **params).code == "job.unknown"
        client.jobs.push(job, b"\0\0")
        client.jobs.finish(job)
        client.jobs.wait(job)
        assert refused(client, "jobs.push", id=job, pcm=b"\0\0").code == "live.finished"


def test_invalid_pushes_are_refused(shared: RunningDaemon, held: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with shared.connect() as client:
        file = client.submit(tmp_path / "a.wav", model=held)
        assert refused(client, "jobs.push", id=file, pcm=b"").code == "live.not_live"
        job = submit(client, model=str(held))
        too_much = refused(client, "jobs.push", id=job, pcm=bytes(MAX_PUSH_BYTES + 1))
        assert too_much.code == "rpc.invalid_params" and "320000" in too_much.message
        client.jobs.push(job, bytes(MAX_PUSH_BYTES))
        client.jobs.push(job, b"\0")  # half a sample
        client.jobs.cancel(job)
        cancelled = refused(client, "jobs.push", id=job, pcm=b"\0")
        assert (cancelled.code, "retry" in cancelled.fix) == ("job.cancelled", False)
        assert refused(client, "jobs.retry", id=job).code == "job.input_gone"


@pytest.mark.parametrize("option", [{"clip": "0:30-"}, {"channels": "split"}, {"vad": False}])
def test_options_for_recordings_are_refused(
    daemon: RunningDaemon, toy: Callable[..., str], option: dict[str, Any]
) -> None:
    with daemon.connect() as client:
        stream = {"input": {"stream": True}, "options": {"model": toy(), **option}}
        assert refused(client, "jobs.submit", **stream).code == "live.invalid_option"
        assert client.jobs.list() == []
        assert [one["saved"] for one in client.runtimes.list()] == [True], (
            "the temporary runtime was not deleted"
        )


@pytest.mark.parametrize(
    "params",
    [
        {"input": {"stream": True}, "detach": True},
        {"input": {"stream": True, "path": "/a.wav"}},
        {"input": {"stream": False}},
    ],
)
def test_invalid_stream_inputs_are_refused(shared: RunningDaemon, params: dict[str, Any]) -> None:
    with shared.connect() as client:
        assert refused(client, "jobs.submit", **params).code == "rpc.invalid_params"


def test_the_number_of_live_jobs_is_limited(daemon: RunningDaemon, held: Path) -> None:
    (held / "hold_load").touch()
    with daemon.connect() as client:
        jobs = [submit(client, model=str(held)) for _ in range(8)]
        error = refused(client, "jobs.submit", input={"stream": True}, options={"model": str(held)})
        assert error.code == "live.too_many"
        client.jobs.cancel(jobs[0])
        submit(client, model=str(held))
    (held / "hold_load").unlink()


def test_closing_the_connection_cancels_its_live_jobs(daemon: RunningDaemon, toy: Callable[..., str]) -> None:
    model = toy()
    with daemon.connect() as client:
        with daemon.connect() as speaker:
            job = submit(speaker, model=model)
            speaker.jobs.push(job, samples()[0].pcm)
        until(lambda: client.jobs.show(job)["status"] == "cancelled")
        assert client.jobs.show(job)["error"]["code"] == "job.client_gone"
        until(lambda: model not in [one["model"] for one in client.runtimes.list() if one["leases"]])


def test_a_stopping_daemon_completes_live_jobs(daemon: RunningDaemon, toy: Callable[..., str]) -> None:
    with daemon.connect() as client, client.dictate(model=toy()) as dictation:
        dictation.push(samples()[0].pcm)
        events = iter(dictation)
        while next(events)["type"] != "transcription.partial":
            pass
        daemon.signal(signal.SIGTERM)
        *_, last = events
    assert last["type"] == "transcription.completed"
    assert last["text"].startswith("transcribe")
