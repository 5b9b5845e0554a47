"""Engines that fail, crash or hang, as users see them: the whole program with the toy engine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from whisperd.client import Transcript
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import LIMIT_S, RunningDaemon, batches, loads, until, write_tone

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.name != "posix", reason="signals")]


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    folder = tmp_path_factory.mktemp("tones")
    return {seconds: write_tone(folder / f"{seconds}.wav", seconds) for seconds in (3.0, 4.0, 50.0)}


@pytest.fixture
def together() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def transcribe(daemon: RunningDaemon, sound: Path, model: str, **options: Any) -> Transcript:
    with daemon.connect() as client:
        return client.transcribe(sound, model=model, vad=False, language="en", **options)


def failure(daemon: RunningDaemon, sound: Path, model: str) -> WhisperdError:
    with pytest.raises(WhisperdError) as raised:
        transcribe(daemon, sound, model)
    return raised.value


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_job_survives_a_crash_of_its_engine(
    daemon: RunningDaemon, toy: Callable[..., str], tones: dict[float, Path], name: str
) -> None:
    model = toy()
    (Path(model) / "crash").write_text(f"once {name}")
    transcript = transcribe(daemon, tones[50.0], model)
    assert len(transcript.segments) >= 2
    assert transcript.segments[-1].end == pytest.approx(50.0, abs=0.1)
    assert len(loads(model)) == 2
    assert f"signal {name}" in daemon.log()


def test_only_the_job_at_fault_fails(
    shared: RunningDaemon, toy: Callable[..., str], tones: dict[float, Path], together: ThreadPoolExecutor
) -> None:
    model = toy(poison_s=3.0, poison="SIGSEGV")
    (Path(model) / "hold").touch()
    good = [together.submit(transcribe, shared, tones[4.0], model) for _ in range(2)]
    bad = together.submit(failure, shared, tones[3.0], model)
    until(lambda: batches(model))
    (Path(model) / "hold").unlink()
    assert [one.result(LIMIT_S).text for one in good] == ["transcribe 4.00 s"] * 2
    error = bad.result(LIMIT_S)
    assert error.code == "worker.died"
    assert "SIGSEGV" in error.message
    assert transcribe(shared, tones[4.0], model).text == "transcribe 4.00 s"


def test_an_engine_killed_while_idle_is_restarted_for_the_next_job(
    daemon: RunningDaemon, toy: Callable[..., str], tones: dict[float, Path]
) -> None:
    model = toy()
    transcribe(daemon, tones[3.0], model)
    (worker,) = daemon.workers()
    worker.kill()
    assert transcribe(daemon, tones[3.0], model, cache=False).text == "transcribe 3.00 s"
    assert len(loads(model)) == 2


def test_an_engine_that_keeps_crashing_is_not_restarted_forever(
    daemon: RunningDaemon, toy: Callable[..., str], tones: dict[float, Path]
) -> None:
    model = toy(load_signal="SIGSEGV")
    error = failure(daemon, tones[3.0], model)
    assert error.code == "worker.died"
    assert "SIGSEGV" in error.message
    assert len(loads(model)) == 3
    assert not daemon.workers()
    (Path(model) / "config.json").write_text("{}")
    assert transcribe(daemon, tones[3.0], model).text == "transcribe 3.00 s", "the next request tries again"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that holds the GIL survives")
@pytest.mark.parametrize("stuck", ["loop", "sleep"])
def test_no_worker_outlives_the_daemon(
    daemon: RunningDaemon, toy: Callable[..., str], tones: dict[float, Path], stuck: str
) -> None:
    model = toy(stuck=stuck)
    with daemon.connect() as client:
        client.submit(tones[3.0], model=model, vad=False)
        until(lambda: batches(model))
        children = daemon.children()
        assert daemon.workers()
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    _, alive = psutil.wait_procs(children, timeout=LIMIT_S)
    assert not alive


@pytest.mark.parametrize("stuck", ["loop", "sleep"])
def test_a_hung_engine_delays_neither_cancelling_nor_shutdown(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], tones: dict[float, Path], stuck: str
) -> None:
    daemon = make_daemon()
    daemon.settings("[daemon]\ngrace_period_s = 0\n")
    daemon.start()
    model = toy(stuck=stuck)
    with daemon.connect() as client:
        job = client.submit(tones[50.0], model=model, vad=False)
        until(lambda: batches(model))
        assert client.jobs.cancel(job)["status"] == "cancelled"
        client.submit(tones[3.0], model=model, vad=False)
        children = daemon.children()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert not any(child.is_running() for child in children)


def test_an_engines_output_is_not_taken_for_a_message(
    shared: RunningDaemon, toy: Callable[..., str], tones: dict[float, Path]
) -> None:
    assert transcribe(shared, tones[3.0], toy(chatter=True)).text == "transcribe 3.00 s"


def test_very_long_texts_arrive_complete(
    shared: RunningDaemon, toy: Callable[..., str], tones: dict[float, Path]
) -> None:
    transcript = transcribe(shared, tones[50.0], toy(segments=3000, characters=500))
    assert len(transcript.segments) >= 6000
    assert len(transcript.text) > 3_000_000


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ({"error": "no mood"}, "toy.error"),
        ({"exception": "a mistake"}, "process.failed"),
        ({"odd_answer": "too_few"}, "worker.bad_answer"),
        ({"odd_answer": "no_result"}, "worker.bad_answer"),
        ({"odd_answer": "not_utf8"}, "worker.bad_answer"),
        ({"load_error": "bad magic"}, "model.load_failed"),
    ],
)
def test_an_engine_that_fails_fails_its_job(
    shared: RunningDaemon, toy: Callable[..., str], tones: dict[float, Path], behaviour: Any, code: str
) -> None:
    error = failure(shared, tones[3.0], toy("bad", **behaviour))
    assert error.code == code
    assert error.message and error.fix
    assert transcribe(shared, tones[3.0], toy("good")).text == "transcribe 3.00 s"


def test_a_library_that_cannot_be_imported(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], tones: dict[float, Path]
) -> None:
    daemon = make_daemon(env={"TOY_ENGINE": "no_such_library:load"}).start()
    error = failure(daemon, tones[3.0], toy())
    assert error.code == "native.broken"
    assert "no_such_library" in error.message
