"""`daemon.metrics` reports in Prometheus's format what actually happened."""

from __future__ import annotations

import datetime
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from whisperd import __version__
from whisperd.child import python_command
from whisperd.daemon.exposition import Family, Histogram, Sample, render
from whisperd.daemon.methods.daemon import _role
from whisperd.daemon.metrics import MOST_RUNTIMES, OTHER_RUNTIMES, Metrics
from whisperd.rpc.events import JobQueued, JobStarted, RuntimeStatus, TranscriptionCompleted
from whisperd.rpc.events import TranscriptionCancelled as Cancelled
from whisperd.rpc.events import TranscriptionFailed as Failed
from whisperd_testing import TESTS, RunningDaemon, batches, until, write_tone


def read(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    (found,) = (
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )
    return float(found)


def completed(id: str, *, cached: bool = False) -> TranscriptionCompleted:
    return TranscriptionCompleted(
        id=id, text="secret words", language="en", duration=90.0, total=60.0, elapsed=5.0, speed=12.0,
        segments=1, runtime="base", cached=cached,
    )  # fmt: skip


def test_events_are_counted() -> None:
    metrics = Metrics()
    for job in "abcd":
        metrics.take(JobQueued(id=job, position=0), 10.0)
    for job in "abc":
        metrics.take(JobStarted(id=job, runtime="base", language=None, duration=None), 10.2)
    metrics.take(completed("a"), 15.2)
    metrics.take(completed("b", cached=True), 15.2)
    metrics.take(Failed(id="c", error={}), 16.0)
    metrics.take(Cancelled(id="d", error={}), 17.0)
    metrics.take(RuntimeStatus(id="1", name="base", status="loaded"), 9.0)
    for outcome, settled_for_s in (("done", 5.0), ("done", None), ("failed", None)):
        metrics.watched(outcome, settled_for_s)
    text = render(metrics.families())
    families = read(text)
    for status, count in (("completed", 2), ("failed", 1), ("cancelled", 1)):
        assert value(families, "whisperd_jobs_total", status=status) == count
    assert value(families, "whisperd_jobs_cached_total") == 1
    assert value(families, "whisperd_audio_seconds_total") == 60
    assert value(families, "whisperd_transcribing_seconds_total") == 5
    assert value(families, "whisperd_job_wait_seconds_count") == 3
    assert value(families, "whisperd_job_wait_seconds_bucket", le="0.1") == 0
    assert value(families, "whisperd_job_wait_seconds_bucket", le="0.3") == 3
    assert value(families, "whisperd_job_duration_seconds_sum") == 5
    assert value(families, "whisperd_job_duration_seconds_bucket", le="3") == 0
    assert value(families, "whisperd_job_duration_seconds_bucket", le="+Inf") == 1
    assert value(families, "whisperd_runtime_loads_total", runtime="base") == 1
    for outcome, count in (("done", 2), ("failed", 1), ("retried", 0)):
        assert value(families, "whisperd_watch_files_total", outcome=outcome) == count
    assert value(families, "whisperd_watch_file_duration_seconds_bucket", le="3") == 0
    assert value(families, "whisperd_watch_file_duration_seconds_sum") == 5
    assert "secret" not in text


def test_runtimes_beyond_the_limit_share_one_label() -> None:
    metrics = Metrics()
    for number in range(MOST_RUNTIMES + 5):
        for status in ("loaded", "failed"):
            metrics.take(RuntimeStatus(id="1", name=f"r{number}", status=status), 1.0)
    metrics.take(RuntimeStatus(id="1", name="r0", status="loaded"), 1.0)
    families = read(render(metrics.families()))
    for name in ("whisperd_runtime_loads_total", "whisperd_runtime_failures_total"):
        assert value(families, name, runtime=OTHER_RUNTIMES) == 5
    assert value(families, "whisperd_runtime_loads_total", runtime="r0") == 2


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))


@given(TEXT, TEXT, st.floats(allow_nan=False))
def test_metrics_survive_a_round_trip(label: str, help: str, number: float) -> None:
    text = render([Family("one", "gauge", help.strip() or "x", [Sample(number, {"label": label})])])
    (family,) = text_string_to_metric_families(text)
    (sample,) = family.samples
    assert sample.labels == {"label": label}
    assert sample.value == number


@given(st.lists(st.floats(0, 1e6)))
def test_a_histogram_counts_every_value(values: list[float]) -> None:
    histogram = Histogram((1, 10, 100))
    for one in values:
        histogram.observe(one)
    buckets = {
        one.labels["le"]: one.value for one in histogram.family("h", "x").samples if one.suffix == "_bucket"
    }
    assert buckets == {le: sum(one <= float(le) for one in values) for le in ("1", "10", "100", "+Inf")}


NAMES = """
    audio_seconds_total build_info bulk_held clients job_audio_seconds job_duration_seconds job_wait_seconds
    jobs_active jobs_cached_total jobs_remembered jobs_total memory_relief_total on_battery
    process_resident_memory_bytes runtime_failures_total runtime_loads_total runtime_memory_bytes
    runtime_status start_time_seconds suspended_seconds_total suspensions_total transcribing_seconds_total
    watch_file_duration_seconds watch_files_total watch_folders windows_waiting
"""


def check_names(text: str) -> None:
    """Check that the names follow the conventions and that each occurs once."""
    names = re.findall(r"^# TYPE whisperd_(\S+)", text, re.MULTILINE)
    assert sorted(names) == NAMES.split()
    for name, family in zip(names, text_string_to_metric_families(text), strict=True):
        assert family.documentation.endswith(".")
        assert name.endswith("_total") == (family.type == "counter")
        if family.type == "histogram":
            assert name.endswith("_seconds")


def test_metrics_of_finished_jobs(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], tmp_path: Path
) -> None:
    # Work is counted by day; a time zone in which it is noon keeps the test from passing midnight.
    daemon = make_daemon(env={"TZ": f"NOON{time.gmtime().tm_hour - 12:+d}"}).start()
    tone = write_tone(tmp_path / "tone.wav", 2.0)
    model = toy()
    for _ in range(2):  # the second time a stored transcript answers
        assert daemon.ctl("transcribe", "--no-vad", "--model", model, str(tone)).status == 0
    (tmp_path / "words.txt").write_text("nothing to hear")
    failed = daemon.ctl("transcribe", "--model", model, str(tmp_path / "words.txt"), "--detach").out.strip()
    assert daemon.ctl("jobs", "wait", failed).status == 1
    assert daemon.ctl("jobs", "retry", failed).status == 0
    assert daemon.ctl("jobs", "wait", failed).status == 1
    done = daemon.ctl("daemon", "metrics")
    assert (done.status, done.err) == (0, "")
    families = read(done.out)
    assert value(families, "whisperd_jobs_total", status="completed") == 2
    assert value(families, "whisperd_jobs_cached_total") == 1
    assert value(families, "whisperd_jobs_total", status="failed") == 2  # one job that failed twice
    assert value(families, "whisperd_jobs_remembered", status="failed") == 1
    assert value(families, "whisperd_audio_seconds_total") == 2.0
    assert value(families, "whisperd_process_resident_memory_bytes", process="daemon") > 10_000_000
    check_names(done.out)
    with daemon.connect() as client:
        assert client.daemon.metrics()["content_type"].startswith("text/plain; version=0.0.4")

    status = daemon.ctl("daemon", "status", "--json").json
    assert status["jobs"]["failed"] == 1
    assert (status["audio_seconds"], status["today"]["jobs"]) == (2.0, 1)
    assert status["today"]["audio_seconds"] == 2.0
    assert status["speed"] == status["today"]["speed"] > 0
    assert "today    0:02 of audio in 1 job\n" in daemon.ctl("daemon", "status").out
    daemon.ctl("daemon", "stop")
    daemon.wait()
    daemon.start()
    again = daemon.ctl("daemon", "status", "--json").json
    assert (again["audio_seconds"], again["today"]) == (2.0, status["today"])  # counted across restarts


def test_metrics_of_the_current_state(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], tmp_path: Path
) -> None:
    daemon = make_daemon().start()
    model = toy()
    (Path(model) / "hold").touch()
    one_by_one = ("--workers", "1", "--batch-size", "1")
    assert daemon.ctl("runtimes", "create", "held", "--model", model, *one_by_one).status == 0
    tone = write_tone(tmp_path / "tone.wav", 100.0)
    options = ("--no-vad", "--language", "en", "--runtime", "held", "--detach")
    assert daemon.ctl("transcribe", *options, str(tone)).status == 0
    with daemon.connect() as client:
        until(lambda: batches(model) and client.daemon.status()["windows_waiting"] > 1)
        text, status = client.daemon.metrics()["content"], client.daemon.status()
    families = read(text)
    assert value(families, "whisperd_build_info", version=__version__) == 1
    assert time.time() - 600 < value(families, "whisperd_start_time_seconds") < time.time()
    assert value(families, "whisperd_clients") >= 1
    assert value(families, "whisperd_jobs_active", status="queued") == 0
    assert value(families, "whisperd_jobs_active", status="running") == 1
    assert value(families, "whisperd_windows_waiting", runtime="held") > 0
    assert value(families, "whisperd_runtime_status", runtime="held", status="loaded") == 1
    assert value(families, "whisperd_runtime_memory_bytes", runtime="held") > 10_000_000
    assert value(families, "whisperd_bulk_held") == status["bulk_held"]
    on_battery = math.nan if status["on_battery"] is None else status["on_battery"]
    assert value(families, "whisperd_on_battery") == pytest.approx(on_battery, nan_ok=True)


def test_processes_are_inspected_off_the_event_loop(make_daemon: Callable[..., RunningDaemon]) -> None:
    paths = os.pathsep.join([str(TESTS / "backends"), str(TESTS / "daemon")])
    daemon = make_daemon(program=("watchful_daemon",), env={"PYTHONPATH": paths}).start()
    with daemon.connect() as client:
        assert client.daemon.status()["memory"]["daemon"] > 10_000_000
        assert 'memory_bytes{process="daemon"}' in client.daemon.metrics()["content"]


@pytest.mark.anyio
async def test_work_is_counted_by_day(tmp_path: Path) -> None:
    from whisperd.jobs.work_log import Work, WorkLog
    from whisperd.store import open_database, open_saver

    day = datetime.date(2026, 3, 1)
    async with open_database(tmp_path / "db.sqlite3") as database:
        async with open_saver(database) as saver:
            log = WorkLog(saver, lambda: day)
            await log.open()
            assert (log.today, log.total.speed) == (Work(), None)
            log.add(60.0, 6.0)
            log.add(30.0, 3.0)
            assert log.today == Work(2, 90.0, 9.0)
            day = datetime.date(2026, 3, 2)
            assert log.today == Work()
            log.add(10.0, 1.0)
        async with open_saver(database) as saver:
            log = WorkLog(saver, lambda: day)
            await log.open()
            assert log.today == Work(1, 10.0, 1.0)
            assert log.total == Work(3, 100.0, 10.0)
            assert log.total.speed == 10.0


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (python_command("whisperd.worker.main", "toy:load"), "worker"),
        (python_command("whisperd.child", "whisperd.models.convert", "{}"), "conversion"),
        (python_command("whisperd.child", "whisperd.models.fetch", "{}"), "download"),
        (python_command("whisperd.hardware.nvml"), "look"),
        (["notify-send", "done"], "child"),
    ],
)
def test_the_role_of_a_process(command: list[str], role: str) -> None:
    assert _role(command) == role
