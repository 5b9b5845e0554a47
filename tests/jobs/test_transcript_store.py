"""Stored transcripts answer repeated jobs, are found by their words, and are really erased when purged."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from whisperd.client import Client
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import RunningDaemon, batches, until, write_tone

pytestmark = pytest.mark.real

Toy = Callable[..., str]
SAID = "the xylophone is late"


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    return write_tone(tmp_path / "tone.wav", 3.0)


@pytest.fixture
def model(toy: Toy) -> str:
    return toy("speaker", says=f" {SAID}")


def files_hold(daemon: RunningDaemon, text: str) -> bool:
    """Whether the bytes of a text are in any file of the daemon, such as its database or log."""
    for path in (daemon.folder / "state").rglob("*"):
        with suppress(FileNotFoundError):  # deleted just now
            if path.is_file() and text.encode() in path.read_bytes():
                return True
    return False


def ended(client: Client, job: str) -> dict[str, Any]:
    """Return the last event of a job."""
    return [event for event in client.follow(job) if event is not None][-1]


def test_the_same_audio_is_answered_from_the_store(
    daemon: RunningDaemon, model: str, toy: Toy, tone: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.wav"
    copy.write_bytes(tone.read_bytes())
    with daemon.connect() as client:
        first = client.transcribe(tone, model=model, vad=False)

        def computed(input: Path | bytes, **options: Any) -> int:
            before = len(batches(model))
            job = client.submit(input, **{"model": model, "vad": False, **options})
            result = client.jobs.wait(job)
            count = len(batches(model)) - before
            assert result["text"] == first.text
            assert client.jobs.show(job)["cached"] == ended(client, job)["cached"] == (count == 0)
            return count

        assert computed(tone) == 0
        assert computed(copy) == 0, "the bytes count, not the name"
        assert computed(tone.read_bytes()) == 0
        assert computed(tone, priority="bulk") == 0, "the priority does not affect the text"
        assert computed(tone, cache=False) == 1
        others = (
            {"beam_size": 1},
            {"language": "de"},
            {"prompt": "Dear all,"},
            {"clip": "0-2"},
            {"track": 1},
        )
        for options in others:
            assert computed(tone, **options) == 1
            assert computed(tone, **options) == 0
        os.utime(tone)
        assert computed(tone) == 0
        other = toy("other")
        assert client.transcribe(tone, model=other, vad=False).text != first.text
        tone.write_bytes(tone.read_bytes()[:-2] + b"\1\1")  # of the same size
        assert computed(tone) == 1
        status = client.daemon.status()
    assert status["jobs"]["completed"] > 10
    daemon.signal(signal.SIGTERM)
    daemon.wait()
    with daemon.start().connect() as client:
        job = client.submit(copy, model=model, vad=False)
        client.jobs.wait(job)
        assert client.jobs.show(job)["cached"], "also after a restart"
        assert not daemon.workers(), "no model is loaded for it"
        (Path(model) / "model.bin").write_text("{ }")
        assert not ended(client, client.submit(copy, model=model, vad=False))["cached"], (
            "the model has changed"
        )


def test_the_command_line_says_when_it_did_not_transcribe(
    daemon: RunningDaemon, model: str, tone: Path
) -> None:
    command = ("transcribe", "--no-vad", "--model", model, str(tone))
    first, second, third = daemon.ctl(*command), daemon.ctl(*command), daemon.ctl(*command, "--no-cache")
    assert first.out == second.out == third.out
    assert "--no-cache" in second.err
    assert "--no-cache" not in first.err + third.err + daemon.ctl(*command, "-q").err
    events = [json.loads(line) for line in daemon.ctl(*command, "--stream").out.splitlines()]
    assert [event["type"] for event in events] == [
        "job.queued",
        "job.started",
        "transcription.segment",
        "transcription.completed",
    ]
    assert events[-1]["cached"]


def test_a_result_outlives_its_daemon(daemon: RunningDaemon, model: str, tone: Path) -> None:
    with daemon.connect() as client:
        jobs = [client.submit(tone, model=model, vad=False) for _ in range(40)]
        for job in jobs:
            assert client.jobs.wait(job)["text"] == SAID
        assert client.jobs.show(jobs[0])["text"] == SAID, "it has left memory, and is read from the database"
    daemon.signal(signal.SIGTERM)
    daemon.wait()
    daemon.start()
    with daemon.connect() as client:
        assert client.jobs.result(jobs[0], "srt")["content"].endswith(f"{SAID}\n")
        assert client.jobs.wait(jobs[1])["segments"][0]["end"] == 3.0
        assert client.jobs.show(jobs[2])["text"] == SAID
        assert "text" in client.jobs.list()[0] and client.jobs.list()[0]["text"] is None


def test_search(daemon: RunningDaemon, model: str, tone: Path, toy: Toy) -> None:
    other = toy("other", says=" nothing of that kind")
    with daemon.connect() as client:
        client.transcribe(tone, model=model, vad=False)
        client.transcribe(tone, model=other, vad=False)
        (found,) = client.transcripts.search("xylophone")
    assert (found["path"], found["hits"][0]["text"], found["hits"][0]["start"]) == (str(tone), SAID, 0.0)
    shown = daemon.ctl("search", "xylo*", "lang:en", "path:tone")
    assert shown.status == 0
    assert str(tone) in shown.out and f"0:00  {SAID}" in shown.out
    assert daemon.ctl("search", "xylophone is").out, "an argument with spaces is a phrase"
    assert daemon.ctl("search", "is xylophone").status == 4
    assert daemon.ctl("search", "xylophone", f"path:{tone}", "--json").json[0]["path"] == str(tone)
    assert daemon.ctl("search", "--open", "xylophone").out == f"mpv --start=0.00 {shlex.quote(str(tone))}\n"
    nothing = daemon.ctl("search", "xylophone", "before:2020")
    assert nothing.status == 4 and "No stored transcript matches" in nothing.err
    assert daemon.ctl("search", "before:2020").status == 2
    nothing = daemon.ctl("search", "nonsense", "--json")
    assert (nothing.status, nothing.json) == (4, [])
    piped = write_tone(tone.with_name("piped.wav"), 5.0).read_bytes()
    with daemon.connect() as client:
        client.transcribe(piped, model=toy("third", says=" something else"), vad=False)
    nothing = daemon.ctl("search", "--open", "something")
    assert (nothing.status, nothing.out) == (4, "") and "Omit --open" in nothing.err
    assert daemon.ctl("search", "--open", "--json", "something").status == 2


def test_clearing_forgets_jobs_and_purging_erases_transcripts(
    daemon: RunningDaemon, model: str, tone: Path, tmp_path: Path
) -> None:
    second = write_tone(tmp_path / "second.wav", 2.0)
    with daemon.connect() as client:
        job = client.submit(tone, model=model, vad=False)
        client.jobs.wait(job)
        client.transcribe(second, model=model, vad=False)
        assert client.jobs.clear() == {"cleared": 2, "purged": None}
        with pytest.raises(WhisperdError) as raised:
            client.jobs.show(job)
        assert raised.value.code == "job.unknown"
        assert len(client.transcripts.search("xylophone")) == 2, "clearing jobs keeps their transcripts"
        job = client.submit(tone, model=model, vad=False)
        client.jobs.wait(job)
        until(lambda: files_hold(daemon, "xylophone"))
        assert client.jobs.clear([job], purge=True) == {"cleared": 1, "purged": 1}
        assert [one["path"] for one in client.transcripts.search("xylophone")] == [str(second)]
    purged = daemon.ctl("jobs", "clear", "--purge")
    assert purged.status == 0 and "1 transcript erased" in purged.out
    assert not files_hold(daemon, "xylophone")
    with daemon.connect() as client:
        assert client.transcripts.search("xylophone") == []
        assert client.transcribe(tone, model=model, vad=False).text == SAID, "it is transcribed again"
    assert SAID not in daemon.log() and "xylophone" not in daemon.log()


def test_purging_a_cancelled_job_erases_its_windows(
    daemon: RunningDaemon, model: str, tmp_path: Path
) -> None:
    sound = write_tone(tmp_path / "long.wav", 60.0)
    permits = Path(model) / "permits"
    permits.mkdir()
    (permits / "1").touch()
    with daemon.connect() as client:
        job = client.submit(sound, model=model, vad=False, language="en")
        until(lambda: files_hold(daemon, "xylophone"))
        with pytest.raises(WhisperdError) as raised:
            client.jobs.clear([job], purge=True)
        assert raised.value.code == "job.not_over"
        client.jobs.cancel(job)
        client.jobs.clear([job], purge=True)
    assert not files_hold(daemon, "xylophone")


def test_with_keep_transcripts_off_no_text_is_stored(
    make_daemon: Callable[..., RunningDaemon], model: str, tone: Path
) -> None:
    daemon = make_daemon()
    with daemon.start().connect() as client:
        client.transcribe(tone, model=model, vad=False)
        until(lambda: files_hold(daemon, "xylophone"))
        daemon.settings("[jobs]\nkeep_transcripts = false\n")
    daemon.signal(signal.SIGTERM)
    daemon.wait()
    with daemon.start().connect() as client:
        until(lambda: not files_hold(daemon, "xylophone"), "stored transcripts to be erased")
        attached = client.submit(tone, model=model, vad=False)
        detached = client.submit(tone, detach=True, model=model, vad=False)
        for job in (attached, detached):
            assert client.jobs.wait(job)["text"] == SAID
            assert not client.jobs.show(job)["cached"]
        assert client.transcripts.search("xylophone") == []
        assert not files_hold(daemon, "xylophone")
    daemon.signal(signal.SIGTERM)
    daemon.wait()
    assert not files_hold(daemon, "xylophone")
    with daemon.start().connect() as client:
        assert client.jobs.show(detached)["status"] == "completed"
        with pytest.raises(WhisperdError) as raised:
            client.jobs.result(detached)
        assert raised.value.code == "job.text_gone"
