"""Jobs outlive the daemon: it is killed at chosen moments, and finished windows are not computed again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from whisperd.client import Client
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import RunningDaemon, batches, runtime_with, until

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.name != "posix", reason="signals")]

SETTINGS = "[runtime]\nworkers = 1\nbatch_size = 1\n[decoder]\nmax_window_s = 5\n"
SECONDS = 27.0
"""Length of the recording: more than five windows."""

MakeDaemon = Callable[..., RunningDaemon]
Toy = Callable[..., str]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write_silence(tmp_path / "silence.wav", SECONDS)


def write_silence(path: Path, seconds: float, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * channels * int(16_000 * seconds)))
    return path


@pytest.fixture
def small(make_daemon: MakeDaemon) -> RunningDaemon:
    """Return a daemon that cuts short windows and computes one at a time."""
    daemon = make_daemon()
    daemon.settings(SETTINGS)
    return daemon.start()


def received_events(client: Client) -> list[dict[str, Any]]:
    """Return the events received so far from the client's subscription."""
    return list(iter(lambda: client.next_event(0), None))


def without_runtime(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "runtime"}


def windows_saved(daemon: RunningDaemon, job: str) -> int:
    """Return how many finished windows of a job are in the journal."""
    with closing(sqlite3.connect(daemon.folder / "state" / "whisperd.sqlite3")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM job_windows WHERE job = ?", (job,)).fetchone()
    return int(count)


def interruptions(daemon: RunningDaemon, job: str) -> int:
    """Return how often a daemon died while it ran a job, according to the journal."""
    return int(saved_record(daemon, job)["interruptions"])


def saved_record(daemon: RunningDaemon, job: str) -> dict[str, Any]:
    """Return the journal's record of a job."""
    with closing(sqlite3.connect(daemon.folder / "state" / "whisperd.sqlite3")) as connection:
        (record,) = connection.execute("SELECT record FROM jobs WHERE id = ?", (job,)).fetchone()
    return dict(json.loads(record))


def are_over(daemon: RunningDaemon, *jobs: str) -> bool:
    """Whether the journal holds exactly these jobs, all of them ended.

    The end of a job is published when it is passed to the journal, a moment before it is on disk.
    """
    with closing(sqlite3.connect(daemon.folder / "state" / "whisperd.sqlite3")) as connection:
        kept = dict(connection.execute("SELECT id, ended FROM jobs"))
    return kept.keys() == set(jobs) and None not in kept.values()


def windows_computed(model: str) -> int:
    return sum(len(batch["durations"]) for batch in batches(model))


class Steps:
    """A toy model whose engine computes one window per permit."""

    def __init__(self, toy: Toy) -> None:
        self.model = toy("steps", window_s=0.0)
        self._permits = Path(self.model) / "permits"
        self._permits.mkdir()
        self._made = 0

    def allow(self, count: int) -> None:
        for _ in range(count):
            (self._permits / str(self._made)).touch()
            self._made += 1

    def allow_all(self) -> None:
        (Path(self.model) / "permits" / "all").touch()


@pytest.fixture
def steps(toy: Toy) -> Steps:
    return Steps(toy)


def uninterrupted(make_daemon: MakeDaemon, toy: Toy, sound: Path, **options: Any) -> dict[str, Any]:
    """Return the result of the same job without interruptions."""
    daemon = make_daemon()
    daemon.settings(SETTINGS)
    with daemon.start().connect() as client:
        return dict(client.transcribe(sound, model=toy("plain"), vad=False, **options).verbose)


LONG_S = 200.0
"""Longer than the audio a job lets wait, so that its decoder is held back in the middle."""
IN_PARTS = {"language": "en", "clip": "10-50; 60-190"}


@pytest.mark.parametrize("options", [{}, {"channels": "split", "language": "en"}, IN_PARTS], ids=str)
def test_a_killed_decoder_is_replaced(
    make_daemon: MakeDaemon, toy: Toy, steps: Steps, tmp_path: Path, options: dict[str, Any]
) -> None:
    sound = write_silence(tmp_path / "silence.wav", LONG_S, channels=2 if "channels" in options else 1)
    expected = uninterrupted(make_daemon, toy, sound, **options)
    daemon = make_daemon()
    daemon.settings("[jobs]\nkeep_transcripts = false\n" + SETTINGS)
    with daemon.start().connect() as client:
        client.request("events.subscribe", topics=["jobs"])
        job = client.submit(sound, model=steps.model, vad=False, **options)
        steps.allow(5)
        until(lambda: runtime_with(client, steps.model)["waiting"] >= 15)
        kill_decoders(daemon, signal.SIGKILL)
        steps.allow_all()
        result = client.jobs.wait(job)
        events = received_events(client)
    assert without_runtime(result) == without_runtime(expected)
    told = [event["type"] for event in events]
    assert told.count("job.started") == told.count("transcription.completed") == 1
    assert told.count("transcription.segment") == len(expected["segments"])
    done = [event["done"] for event in events if event["type"] == "transcription.progress"]
    assert done == sorted(done)
    assert windows_computed(steps.model) == windows_computed(toy("plain")), "a window was computed twice"


def test_a_crashed_decoder_is_not_replaced(small: RunningDaemon, steps: Steps, tmp_path: Path) -> None:
    sound = write_silence(tmp_path / "silence.wav", LONG_S)
    with small.connect() as client:
        job = client.submit(sound, model=steps.model, vad=False, language="en")
        until(lambda: runtime_with(client, steps.model)["waiting"] >= 15)
        kill_decoders(small, signal.SIGSEGV)
        steps.allow_all()
        with pytest.raises(WhisperdError, match="SIGSEGV") as raised:
            client.jobs.wait(job)
    assert raised.value.code == "decoder.crashed"


def kill_decoders(daemon: RunningDaemon, number: signal.Signals) -> None:
    """Signal the decoders that run and those on standby."""
    for child in daemon.children():
        if "whisperd.audio.decoder" in child.cmdline():
            child.send_signal(number)


@pytest.mark.parametrize("options", [{"language": "en"}, {}, {"channels": "split"}], ids=str)
def test_jobs_of_a_killed_daemon_resume_after_the_last_finished_window(
    make_daemon: MakeDaemon, toy: Toy, steps: Steps, tmp_path: Path, options: dict[str, Any]
) -> None:
    sound = write_silence(tmp_path / "silence.wav", SECONDS, channels=2 if "channels" in options else 1)
    expected = uninterrupted(make_daemon, toy, sound, **options)
    daemon = make_daemon()
    daemon.settings(SETTINGS)
    with daemon.start().connect() as client:
        job = client.submit(sound, detach=True, model=steps.model, vad=False, **options)
        steps.allow(2)
        until(lambda: windows_saved(daemon, job) == 2)
    daemon.kill()
    with daemon.start().connect() as client:  # resumes, and is killed once more
        steps.allow(2)
        until(lambda: windows_saved(daemon, job) == 4)
    daemon.kill()
    steps.allow_all()
    with daemon.start().connect() as client:
        result = client.jobs.wait(job)
        shown = client.jobs.show(job)
        events = list(client.follow(job))
    assert without_runtime(result) == without_runtime(expected)
    assert shown["status"] == "completed" and shown["detached"]
    told = [one["text"] for one in events if one is not None and one["type"] == "transcription.segment"]
    assert told == [one["text"].strip() for one in expected["segments"]], "every segment is published again"
    assert interruptions(daemon, job) == 2
    assert saved_record(daemon, job)["finished_at_begin"] == 4
    # Only windows in flight when the daemon was killed are computed again.
    total = len(expected["segments"])
    assert total <= windows_computed(steps.model) <= total + 2
    until(lambda: windows_saved(daemon, job) == 0, "the transcript to replace the windows")


def test_an_acknowledged_job_is_never_lost(make_daemon: MakeDaemon, toy: Toy, sound: Path) -> None:
    daemon = make_daemon()
    model = toy("slow", load_s=600)
    with daemon.start().connect() as client:
        jobs = [client.submit(sound, detach=True, model=model, vad=False, prompt=str(n)) for n in range(20)]
        daemon.kill()
    with daemon.start().connect() as client:
        listed = client.jobs.list()
        assert [one["id"] for one in listed] == jobs
        assert {one["status"] for one in listed} == {"queued"}
        for job in jobs:
            client.jobs.cancel(job)
        until(lambda: are_over(daemon, *jobs))
    daemon.kill()
    with daemon.start().connect() as client:
        assert {one["status"] for one in client.jobs.list()} == {"cancelled"}


def test_an_attached_job_does_not_survive_its_daemon(
    daemon: RunningDaemon, steps: Steps, sound: Path
) -> None:
    with daemon.connect() as client:
        job = client.submit(sound, model=steps.model, vad=False)
        until(lambda: batches(steps.model))
        daemon.kill()
    with daemon.start().connect() as client:
        shown = client.jobs.show(job)
        assert (shown["status"], shown["error"]["code"]) == ("cancelled", "daemon.ended")
        assert [event["type"] for event in client.follow(job) if event] == ["transcription.cancelled"]
        until(lambda: are_over(daemon, job))
    daemon.kill()
    with daemon.start().connect() as client:
        told = [event["type"] for event in client.follow(job) if event]
        assert told == ["events.missed"], "a follower would wait forever"


def test_stopping_leaves_detached_jobs_to_the_next_daemon(
    small: RunningDaemon, steps: Steps, sound: Path
) -> None:
    with small.connect() as client:
        job = client.submit(sound, detach=True, model=steps.model, vad=False, language="en")
        steps.allow(3)
        until(lambda: windows_saved(small, job) == 3)
        client.daemon.stop()
        with pytest.raises(WhisperdError) as told:
            client.jobs.wait(job)
        assert told.value.code in ("daemon.stopping", "daemon.connection_lost")
    assert small.wait() == 0
    before = windows_computed(steps.model)
    steps.allow_all()
    with small.start().connect() as client:
        result = client.jobs.wait(job)
    assert interruptions(small, job) == 0, "a regular stop is no interruption"
    assert windows_computed(steps.model) - before <= len(result["segments"]) - 3


def test_an_upload_of_a_detached_job_is_kept_until_its_job_ends(
    small: RunningDaemon, steps: Steps, sound: Path
) -> None:
    uploads = small.folder / "state" / "uploads"
    with small.connect() as client:
        job = client.submit(sound.read_bytes(), detach=True, model=steps.model, vad=False, language="en")
        steps.allow(2)
        until(lambda: windows_saved(small, job) == 2)
        attached = client.submit(sound.read_bytes(), model=steps.model, vad=False, language="en")
        small.kill()
    small.socket = small.env["WHISPERD_SOCKET"] = f"{small.socket}.another"
    steps.allow_all()
    with small.start().connect() as client:
        assert client.jobs.wait(job)["duration"] == pytest.approx(SECONDS)
        assert client.jobs.show(attached)["status"] == "cancelled"
        until(lambda: not list(uploads.iterdir()))


def test_an_upload_is_deleted_if_its_job_cannot_resume(
    small: RunningDaemon, steps: Steps, sound: Path
) -> None:
    with small.connect() as client:
        job = client.submit(sound.read_bytes(), detach=True, model=steps.model, vad=False)
        small.kill()
    shutil.rmtree(steps.model)
    with small.start().connect() as client:
        assert client.jobs.show(job)["status"] == "failed"
        until(lambda: not list((small.folder / "state" / "uploads").iterdir()))


def test_an_upload_is_kept_until_the_end_of_its_job_is_saved(
    small: RunningDaemon, steps: Steps, sound: Path
) -> None:
    with small.connect() as client:
        job = client.submit(sound.read_bytes(), detach=True, model=steps.model, vad=False, language="en")
        steps.allow(1)
        until(lambda: windows_saved(small, job) == 1)
        with closing(sqlite3.connect(small.folder / "state" / "whisperd.sqlite3")) as connection:
            connection.execute("BEGIN IMMEDIATE")  # so that nothing can be saved
            steps.allow_all()
            client.jobs.wait(job)
            small.kill()
    with small.start().connect() as client:
        assert client.jobs.wait(job)["duration"] == pytest.approx(SECONDS)


def test_an_upload_is_kept_if_the_end_of_its_job_cannot_be_saved(
    small: RunningDaemon, steps: Steps, sound: Path
) -> None:
    uploads = small.folder / "state" / "uploads"
    database = small.folder / "state" / "whisperd.sqlite3"
    with small.connect() as client:
        job = client.submit(sound.read_bytes(), detach=True, model=steps.model, vad=False, language="en")
        steps.allow(1)
        until(lambda: windows_saved(small, job) == 1)
        database.rename(database.with_name("elsewhere"))
        steps.allow_all()
        client.jobs.wait(job)
        with pytest.raises(WhisperdError, match="removed or replaced"):
            client.submit(sound.read_bytes(), detach=True, model=steps.model)  # queued after the unsaved end
        until(lambda: len(list(uploads.iterdir())) == 1)  # the refused upload is deleted
        database.with_name("elsewhere").rename(database)
        small.kill()
    with small.start().connect() as client:
        assert client.jobs.wait(job)["duration"] == pytest.approx(SECONDS)
        until(lambda: not list(uploads.iterdir()))


def test_a_changed_file_is_not_joined_with_its_old_windows(
    small: RunningDaemon, steps: Steps, sound: Path
) -> None:
    with small.connect() as client:
        job = client.submit(sound, detach=True, model=steps.model, vad=False, language="en")
        steps.allow(2)
        until(lambda: windows_saved(small, job) == 2)
    small.kill()
    write_silence(sound, 11.0)
    steps.allow_all()
    with small.start().connect() as client:
        with pytest.raises(WhisperdError) as raised:
            client.jobs.wait(job)
        assert raised.value.code == "job.input_changed"
        # A retry starts from scratch.
        assert client.jobs.retry(job)["status"] == "queued"
        assert client.jobs.wait(job)["duration"] == pytest.approx(11.0)


def appended(sound: Path) -> None:
    with sound.open("ab") as file:
        file.write(bytes(1000))


def overwritten(sound: Path) -> None:
    with sound.open("r+b") as file:
        file.seek(100)
        file.write(b"another")


@pytest.mark.parametrize(
    ("change", "is_changed"),
    [(appended, True), (overwritten, True), (os.utime, False), (Path.unlink, False)],
    ids=["appended", "overwritten", "touched", "deleted"],
)
def test_a_file_that_changes_while_it_is_read_gets_a_warning(
    small: RunningDaemon, steps: Steps, tmp_path: Path, change: Callable[[Path], None], is_changed: bool
) -> None:
    sound = write_silence(tmp_path / "silence.wav", LONG_S)

    def codes(told: dict[str, Any]) -> list[str]:
        return [warning["code"] for warning in told["warnings"]]

    expected = ["job.input_changed"] if is_changed else []
    with small.connect() as client:
        client.request("events.subscribe", topics=["jobs"])
        job = client.submit(sound, detach=True, model=steps.model, vad=False, language="en")
        steps.allow(1)
        until(lambda: windows_saved(small, job) == 1 and saved_record(small, job)["content_hash"])
        change(sound)
        steps.allow_all()
        assert codes({"warnings": [], **client.jobs.wait(job)}) == expected
        assert codes(received_events(client)[-1]) == codes(client.jobs.show(job)) == expected
        until(lambda: are_over(small, job))
    shown = small.ctl("jobs", "show", job).out
    assert (f"{sound} changed while it was being transcribed" in shown) == is_changed
    assert ("while it was being transcribed" in small.ctl("jobs", "follow", job).err) == is_changed
    small.kill()
    with small.start().connect() as client:
        assert codes(client.jobs.show(job)) == expected


def test_a_file_that_grows_after_it_was_read_gets_a_warning(
    small: RunningDaemon, steps: Steps, sound: Path
) -> None:
    with small.connect() as client:
        job = client.submit(sound, detach=True, model=steps.model, vad=False, language="en")
        steps.allow(3)
        until(lambda: windows_saved(small, job) == 3 and saved_record(small, job)["content_hash"])
        appended(sound)
        steps.allow_all()
        assert [one["code"] for one in client.jobs.wait(job)["warnings"]] == ["job.input_changed"]


def test_the_command_line_warns_of_a_file_that_changes_meanwhile(
    small: RunningDaemon, steps: Steps, tmp_path: Path
) -> None:
    sound = write_silence(tmp_path / "silence.wav", LONG_S)
    command = ("transcribe", str(sound), "--model", steps.model, "--no-vad", "--quiet")
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(small.ctl, *command)
        until(lambda: batches(steps.model))
        appended(sound)
        steps.allow_all()
    assert done.result().out.startswith("transcribe ")
    assert f"whisperctl: {sound} changed while it was being transcribed" in done.result().err


def test_retry_resumes_where_the_job_stopped(small: RunningDaemon, steps: Steps, sound: Path) -> None:
    with small.connect() as client:
        job = client.submit(sound, model=steps.model, vad=False, language="en")
        with pytest.raises(WhisperdError) as raised:
            client.jobs.retry(job)
        assert raised.value.code == "job.not_retryable"
        steps.allow(3)
        until(lambda: windows_saved(small, job) == 3)
        until(lambda: windows_computed(steps.model) == 4, "the next one to be begun")
        client.jobs.cancel(job)
        before = windows_computed(steps.model)
        steps.allow_all()
        assert client.jobs.retry(job)["detached"]
        result = client.jobs.wait(job)
    assert result["duration"] == pytest.approx(SECONDS)
    assert windows_computed(steps.model) - before <= len(result["segments"]) - 3


def test_a_changed_model_starts_from_scratch(small: RunningDaemon, steps: Steps, sound: Path) -> None:
    with small.connect() as client:
        job = client.submit(sound, detach=True, model=steps.model, vad=False, language="en")
        steps.allow(3)
        until(lambda: windows_saved(small, job) == 3)
    small.kill()
    (Path(steps.model) / "model.bin").write_text("{ }")
    before = windows_computed(steps.model)
    steps.allow_all()
    with small.start().connect() as client:
        result = client.jobs.wait(job)
    assert windows_computed(steps.model) - before == len(result["segments"])


def test_jobs_are_listed_by_status_runtime_and_time(daemon: RunningDaemon, toy: Toy, sound: Path) -> None:
    model, other = toy(), toy("other")
    with daemon.connect() as client:
        done = client.submit(sound, model=model, vad=False)
        client.jobs.wait(done)
        failed = client.submit(sound, model=other, vad=False, clip="100-")
        with pytest.raises(WhisperdError):
            client.jobs.wait(failed)
        created = client.jobs.show(failed)["created"]
        assert [one["id"] for one in client.jobs.list("failed")] == [failed]
        assert [one["id"] for one in client.jobs.list(runtime=model)] == [done]
        assert failed in [one["id"] for one in client.jobs.list(since=created)]
        assert client.jobs.list(since="2999-01-01T00:00:00Z") == []
        with pytest.raises(WhisperdError) as raised:
            client.jobs.list(since="yesterday")
        assert raised.value.code == "rpc.invalid_params"
    listed = daemon.ctl("jobs", "list", "--status", "completed", "--since", "1d", "--json").json
    assert [one["id"] for one in listed] == [done]
    assert daemon.ctl("jobs", "list", "--since", "never").status == 2
    assert daemon.ctl("jobs", "clear", failed, "--json").json == {"cleared": 1, "purged": None}
    assert daemon.ctl("jobs", "clear", "--older-than", "1h", "--json").json["cleared"] == 0
    until(lambda: are_over(daemon, done))
    daemon.kill()
    with daemon.start().connect() as client:
        assert [one["id"] for one in client.jobs.list()] == [done]
        assert client.jobs.result(done)["content"]


def test_jobs_are_kept_for_as_long_as_the_settings_say(
    make_daemon: MakeDaemon, toy: Toy, sound: Path
) -> None:
    daemon = make_daemon()
    daemon.settings("[jobs]\nkeep_count = 2\n")
    with daemon.start().connect() as client:
        model = toy()
        for _ in range(4):
            client.transcribe(sound, model=model, vad=False)
        kept = [one["id"] for one in client.jobs.list()]
        assert len(kept) == 2
        until(lambda: are_over(daemon, *kept))
    daemon.kill()
    daemon.settings("[jobs]\nkeep_count = 1\n")
    with daemon.start().connect() as client:
        assert [one["id"] for one in client.jobs.list()] == kept[-1:]
        assert client.jobs.cancel(kept[-1])["text"], "though it is too late"
        until(lambda: are_over(daemon, *kept[-1:]))
    daemon.kill()
    daemon.settings("[jobs]\nkeep_days = 0.0000001\n")
    with daemon.start().connect() as client:
        until(lambda: client.jobs.list() == [])


@contextmanager
def full_disk(daemon: RunningDaemon) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    process = psutil.Process(daemon.pid)
    if not hasattr(process, "rlimit"):
        pytest.skip("this system sets no limits from outside")
    soft_hard = process.rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (1024, soft_hard[1]))
    try:
        yield
    finally:
        process.rlimit(resource.RLIMIT_FSIZE, soft_hard)


def test_a_full_disk_refuses_detached_jobs(daemon: RunningDaemon, toy: Toy, sound: Path) -> None:
    model = toy()
    with daemon.connect() as client:
        client.transcribe(sound, model=model, vad=False)
        with full_disk(daemon):
            with pytest.raises(WhisperdError) as raised:
                client.submit(sound, detach=True, model=model, vad=False)
            assert raised.value.code in ("disk.full", "store.unreadable")
            assert client.transcribe(sound, model=model, vad=False, cache=False).text, (
                "attached jobs still run"
            )
        job = client.submit(sound, detach=True, model=model, vad=False)
        assert client.jobs.wait(job)["text"]


def test_cancelling_and_clearing_report_a_full_disk(daemon: RunningDaemon, steps: Steps, sound: Path) -> None:
    with daemon.connect() as client:
        over, running, attached = (
            client.submit(sound, detach=detach, model=steps.model, vad=False)
            for detach in (True, True, False)
        )
        client.jobs.cancel(over)
        with full_disk(daemon):
            for refused in (partial(client.jobs.cancel, running), partial(client.jobs.clear, [over])):
                with pytest.raises(WhisperdError) as raised:
                    refused()
                assert raised.value.code in ("disk.full", "store.unreadable")
            assert client.jobs.cancel(attached)["status"] == "cancelled", (
                "attached jobs do not outlive the daemon anyway"
            )
        assert client.jobs.cancel(running)["status"] == "cancelled"
        assert client.jobs.clear([over])["cleared"] == 1
    daemon.kill()
    with daemon.start().connect() as client:
        assert {one["id"]: one["status"] for one in client.jobs.list()} == {
            running: "cancelled",
            attached: "cancelled",
        }
