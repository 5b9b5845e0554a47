"""`whisperctl jobs`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from whisperd.cli.commands.jobs import row
from whisperd.cli.output import local_time
from whisperd_testing import RunningDaemon, batches, until

pytestmark = pytest.mark.real

TEXT = "transcribe 2.00 s\n"


@pytest.fixture
def done_job(shared: RunningDaemon, tone: str) -> str:
    """A completed job."""
    with shared.connect() as client:
        job = client.submit(tone, detach=True, vad=False)
        client.jobs.wait(job)
    return job


@pytest.fixture
def held_job(shared: RunningDaemon, held: Path, tone: str) -> str:
    """A job that runs until it is released."""
    with shared.connect() as client:
        job = client.submit(tone, detach=True, model=held, vad=False)
    until(lambda: batches(held))
    return job


@pytest.fixture
def failed_job(shared: RunningDaemon, tmp_path: Path) -> str:
    """A failed job."""
    (tmp_path / "text.wav").write_text("no audio at all")
    with shared.connect() as client:
        job = client.submit(tmp_path / "text.wav", detach=True)
        until(lambda: client.jobs.show(job)["status"] == "failed")
    return job


def test_list(shared: RunningDaemon, done_job: str, failed_job: str, tone: str) -> None:
    jobs = {job["id"]: job for job in shared.ctl("jobs", "list", "--json").json}
    assert (jobs[done_job]["status"], jobs[failed_job]["status"]) == ("completed", "failed")
    assert jobs[done_job]["text"] is None
    rows = [line.split() for line in shared.ctl("jobs", "list", "--status", "failed").out.splitlines()]
    assert rows[0] == ["ID", "STATUS", "CREATED", "DONE", "TOOK", "SPEED", "RUNTIME", "INPUT"]
    assert failed_job in [row[0] for row in rows]
    assert {row[1] for row in rows[1:]} == {"failed"}


def test_a_list_shows_when_a_job_was_created_and_how_long_it_took() -> None:
    now = datetime.fromisoformat("2026-03-01T12:00:00Z")
    job = {
        "id": "5c1f0a9be2", "status": "completed", "progress": 100.0, "speed": 2.5, "runtime": "best",
        "input": {"path": "/a.wav"}, "created": "2026-03-01T08:00:00.000Z",
        "started": "2026-03-01T08:00:01.000Z", "ended": "2026-03-01T09:02:04.400Z",
    }  # fmt: skip
    said = ("5c1f0a9be2", "completed", "4 h ago", "100 %", "1:02:03", "2.5 x", "best", "/a.wav")
    assert row(job, now) == said
    assert row({**job, "ended": None}, now)[4] is None
    assert row({**job, "ended": "2026-03-01T07:00:00.000Z"}, now)[4] == "0:00"


def test_show(shared: RunningDaemon, done_job: str, tone: str) -> None:
    job = shared.ctl("jobs", "show", done_job, "--json").json
    assert (job["id"], job["input"], job["text"]) == (done_job, {"path": tone}, TEXT.strip())
    shown = dict(line.split(":", 1) for line in shared.ctl("jobs", "show", done_job).out.splitlines())
    assert shown["status"].strip() == "completed"
    assert shown["input"].strip() == tone
    assert shown["cached"].strip() in ("yes", "no")
    assert shown["ended"].strip() == local_time(job["ended"])
    assert (shown["progress"].strip(), shown["speed"].strip()) == ("100 %", f"{job['speed']:.1f} x")


def test_show_of_a_failed_job_is_readable(shared: RunningDaemon, failed_job: str) -> None:
    error = shared.ctl("jobs", "show", failed_job, "--json").json["error"]
    shown = shared.ctl("jobs", "show", failed_job).out
    indent = f"\n{'':10}"
    assert f"error:    {error['message']}{indent}{error['fix']}{indent}(audio.unsupported)\n" in shown
    assert "{" not in shown


@pytest.mark.parametrize("verb", ["follow", "result"])
def test_the_text_of_a_job(shared: RunningDaemon, done_job: str, verb: str) -> None:
    done = shared.ctl("jobs", verb, done_job)
    assert (done.status, done.out, done.err) == (0, TEXT, "")
    assert shared.ctl("jobs", verb, done_job, "--json").json["segments"][0]["end"] == 2.0


def test_result_in_a_format(shared: RunningDaemon, done_job: str) -> None:
    assert shared.ctl("jobs", "result", done_job, "--format", "json").json == {"text": TEXT.strip()}


def test_json_excludes_other_formats(shared: RunningDaemon, done_job: str) -> None:
    done = shared.ctl("jobs", "result", done_job, "--json", "--format", "srt")
    assert (done.status, done.json["error"]["code"]) == (2, "usage.invalid")
    assert "segments" in shared.ctl("jobs", "result", done_job, "--json", "--format", "json").json


def test_result_of_a_running_job_is_refused(shared: RunningDaemon, held_job: str) -> None:
    done = shared.ctl("jobs", "result", held_job)
    assert (done.status, done.out) == (1, "")
    assert f"`whisperctl jobs wait {held_job}`" in done.err


def test_wait(shared: RunningDaemon, done_job: str, failed_job: str) -> None:
    done = shared.ctl("jobs", "wait", done_job)
    assert (done.status, done.out, done.err) == (0, "", "")
    assert shared.ctl("jobs", "wait", done_job, "--json").json["text"] == TEXT.strip()
    failed = shared.ctl("jobs", "wait", failed_job, "--json")
    assert (failed.status, failed.json["error"]["code"]) == (1, "audio.unsupported")
    both = shared.ctl("jobs", "wait", failed_job, done_job, "--json")
    assert both.status == 1
    assert both.json[0]["id"] == failed_job
    assert both.json[1]["text"] == TEXT.strip()


def test_following_a_failed_job_shows_its_error(shared: RunningDaemon, failed_job: str) -> None:
    done = shared.ctl("jobs", "follow", failed_job)
    assert (done.status, done.out) == (1, "")
    assert "is a text file, not audio" in done.err


def test_cancel(shared: RunningDaemon, held_job: str, done_job: str) -> None:
    done = shared.ctl("jobs", "cancel", held_job, done_job)
    assert (done.status, done.out) == (0, f"{held_job} is cancelled\n{done_job} is completed\n")
    waited = shared.ctl("jobs", "wait", held_job, "--json")
    assert (waited.status, waited.json["error"]["code"]) == (1, "job.cancelled")
    assert f"`whisperctl jobs retry {held_job}`" in waited.json["error"]["fix"]


def test_cancel_several_at_once(shared: RunningDaemon, held: Path, done_job: str, tone: str) -> None:
    with shared.connect() as client:
        first, second, third = (
            client.submit(tone, detach=True, model=str(held), vad=False, prompt=prompt) for prompt in "abc"
        )
    done = shared.ctl("jobs", "cancel", first, "nobody", done_job, first)
    assert done.status == 1
    assert done.out == f"{first} is cancelled\n{done_job} is completed\n"
    assert done.err.splitlines()[0] == "whisperctl: nobody: There is no job 'nobody'."
    answers = shared.ctl("jobs", "cancel", first, "nobody", "--json").json
    assert [(one["id"], one["error"]["code"]) for one in answers] == [
        (first, "job.cancelled"),
        ("nobody", "job.unknown"),
    ]
    assert shared.ctl("jobs", "cancel", "--all", "--runtime", "base", "--json").json == []
    assert shared.ctl("jobs", "cancel", "--all", "--since", "2999-01-01").out == ""
    cancelled = shared.ctl("jobs", "cancel", "--all", "--runtime", str(held), "--json").json
    assert [(one["id"], one["status"]) for one in cancelled] == [
        (second, "cancelled"),
        (third, "cancelled"),
    ]
    assert shared.ctl("jobs", "cancel", "--all").out == ""


@pytest.mark.parametrize("arguments", [(), ("--all", "a"), ("a", "--status", "queued")])
def test_cancel_needs_unambiguous_arguments(shared: RunningDaemon, arguments: tuple[str, ...]) -> None:
    assert shared.ctl("jobs", "cancel", *arguments).status == 2


def test_clear(shared: RunningDaemon, done_job: str, held_job: str) -> None:
    assert shared.ctl("jobs", "clear", "--json").json["cleared"] >= 1
    assert [job["id"] for job in shared.ctl("jobs", "list", "--json").json] == [held_job]
    assert shared.ctl("jobs", "clear").out == "0 jobs forgotten\n"
    assert shared.ctl("jobs", "clear", "--quiet").out == ""


@pytest.mark.parametrize("verb", ["show", "follow", "wait", "result", "cancel"])
def test_an_unknown_job_is_not_found(shared: RunningDaemon, verb: str) -> None:
    done = shared.ctl("jobs", verb, "nobody")
    assert (done.status, done.out) == (4, "")
    assert done.err.splitlines() == [
        "whisperctl: There is no job 'nobody'.",
        "  List the known jobs with `whisperctl jobs list`.",
    ]
    assert shared.ctl("jobs", verb, "nobody", "--json").json["error"]["code"] == "job.unknown"
