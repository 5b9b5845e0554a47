"""Jobs from start to end through the real daemon, with the toy engine."""

from __future__ import annotations

import os
import random
import signal
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from whisperd.rpc.errors import WhisperdError
from whisperd_testing import LIMIT_S, RunningDaemon, batches, loads, runtime_with, until, write_tone

pytestmark = pytest.mark.real

ENDS = {"transcription.completed", "transcription.failed", "transcription.cancelled"}


def test_a_job_yields_its_text(daemon: RunningDaemon, toy: Callable[..., str], tmp_path: Path) -> None:
    sound = write_tone(tmp_path / "tone.wav", 3.0)
    model = toy()
    with daemon.connect() as client:
        transcript = client.transcribe(sound, model=model, vad=False)
    assert transcript.text == "transcribe 3.00 s"
    assert transcript.duration == pytest.approx(3.0)
    assert batches(Path(model)) == [{"durations": [3.0], "language": None}]


def test_hotwords_and_prompts_are_not_hallucinated_in_silence(
    daemon: RunningDaemon, toy: Callable[..., str], tmp_path: Path
) -> None:
    sound, model = write_tone(tmp_path / "tone.wav", 3.0), toy(says="Kubernetes", avg_logprob=-0.8)
    with daemon.connect() as client:
        for options, text in (
            ({}, "Kubernetes"),
            ({"hotwords": "Kubernetes"}, ""),
            ({"prompt": "Kubernetes"}, ""),
        ):
            assert client.transcribe(sound, model=model, vad=False, **options).text == text


def test_a_short_clip_does_not_wait_for_a_long_file(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], tmp_path: Path
) -> None:
    long, short = write_tone(tmp_path / "long.wav", 90.0), write_tone(tmp_path / "short.wav", 2.0)
    daemon = make_daemon()
    daemon.settings("[runtime]\nworkers = 1\nbatch_size = 1\n[decoder]\nmax_window_s = 5\n")
    daemon.start()
    model = toy()
    (Path(model) / "hold").touch()
    with daemon.connect() as client:
        file = client.submit(long, model=model, vad=False, language="en", priority="bulk")
        until(lambda: batches(model))
        clip = client.submit(short, model=model, vad=False, language="en", priority="interactive")
        # All windows of the file wait, except the one being computed, and so does the window of the clip.
        until(lambda: runtime_with(client, model)["waiting"] == 23)
        (Path(model) / "hold").unlink()
        client.jobs.wait(clip)
        client.jobs.wait(file)
    order = [one["durations"] for one in batches(model)]
    assert order.index([2.0]) < len(order) / 2


def test_a_cancelled_job_releases_the_engine_within_one_window(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], tmp_path: Path
) -> None:
    long, short = write_tone(tmp_path / "long.wav", 30.0), write_tone(tmp_path / "short.wav", 2.0)
    daemon = make_daemon()
    daemon.settings("[runtime]\nworkers = 1\n[decoder]\nmax_window_s = 5\n")
    daemon.start()
    model = toy(cancels=True)
    hold = Path(model) / "hold"
    hold.touch()
    with daemon.connect() as client:
        job = client.submit(long, model=model, vad=False, language="en")
        until(lambda: batches(model))
        waiting = client.submit(short, model=model, vad=False, language="en")
        client.jobs.cancel(job)
        until(lambda: batches(model)[-1]["durations"] == [2.0])
        assert hold.exists(), "the batch of the cancelled job was never allowed to finish"
        hold.unlink()
        assert client.jobs.wait(waiting)["text"] == "transcribe 2.00 s"
    assert len(loads(model)) == 1, "the worker was restarted"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_every_job_ends_once_under_random_kills_and_cancels(
    daemon: RunningDaemon, toy: Callable[..., str], tmp_path: Path
) -> None:
    """Workers are killed and jobs cancelled at random moments; nothing may be left behind."""
    chance = random.Random(7)
    sounds = [write_tone(tmp_path / f"{seconds}.wav", seconds) for seconds in (2.0, 25.0)]
    model = toy(window_s=0.02)
    with daemon.connect() as client, daemon.connect() as listener:
        listener.request("events.subscribe", topics=["jobs"])
        jobs = [
            client.submit(
                chance.choice(sounds),
                model=model,
                vad=False,
                language=chance.choice(["en", "auto"]),
                priority=chance.choice(["interactive", "normal", "bulk"]),
            )
            for _ in range(24)
        ]
        heard: defaultdict[str, list[str]] = defaultdict(list)
        while sum(bool(ENDS & set(types)) for types in heard.values()) < len(jobs):
            event = listener._wire.next_event()
            assert event is not None
            heard[event["id"]].append(event["type"])
            if chance.random() < 0.05:
                for worker in daemon.workers():
                    with suppress(psutil.NoSuchProcess):
                        worker.kill()
            if chance.random() < 0.05:
                client.jobs.cancel(chance.choice(jobs))
        shown = {job["id"]: job for job in client.jobs.list()}
        state = runtime_with(client, model)
    for job in jobs:
        assert heard[job][0] == "job.queued"
        assert [one in ENDS for one in heard[job]] == [False] * (len(heard[job]) - 1) + [True]
        assert shown[job]["status"] == heard[job][-1].removeprefix("transcription.")
        assert shown[job]["error"] is None or shown[job]["error"]["code"] in ("worker.died", "job.cancelled")
    assert state["leases"] == 0
    children = daemon.children()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    _, alive = psutil.wait_procs(children, timeout=LIMIT_S)
    assert not alive


def test_an_unknown_model_is_refused_at_once(daemon: RunningDaemon, tmp_path: Path) -> None:
    sound = write_tone(tmp_path / "tone.wav", 1.0)
    refused = daemon.ctl("transcribe", "--model", "tinyy", str(sound))
    assert refused.status == 4
    assert "Did you mean tiny" in refused.err
    with daemon.connect() as client:
        status = client.daemon.status()
    assert [runtime["saved"] for runtime in status["runtimes"]] == [True], "a runtime was created for it"
    assert set(status["jobs"].values()) == {0}, "a job was created for it"


def test_the_catalogue_refuses_a_language_without_downloading_the_model(
    daemon: RunningDaemon, tmp_path: Path
) -> None:
    sound = write_tone(tmp_path / "tone.wav", 1.0)
    refused = daemon.ctl("transcribe", "--model", "medium.en", "--language", "German", str(sound))
    assert refused.status == 2
    assert "medium.en does not support German" in refused.err


def test_all_spellings_of_a_model_path_share_one_worker(
    daemon: RunningDaemon, toy: Callable[..., str], tmp_path: Path
) -> None:
    sound = write_tone(tmp_path / "tone.wav", 3.0)
    model = toy()
    with daemon.connect() as client:
        for name in (model, f"{model}/", model.replace("/models/", "//models/./")):
            client.transcribe(sound, model=name, vad=False)
        assert runtime_with(client, model)["name"] == model
        assert {job["runtime"] for job in client.jobs.list()} == {model}
        with pytest.raises(WhisperdError) as raised:
            client.models.remove(f"{model}/")
    assert raised.value.code == "model.in_use"
    assert len(loads(model)) == 1
