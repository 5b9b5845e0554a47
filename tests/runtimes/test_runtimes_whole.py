"""Loading and unloading as users meet it: the whole program with the toy engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from whisperd.client import Client
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import RunningDaemon, batches, loads, until, write_tone

pytestmark = pytest.mark.real

FOR_NOTHING = "[runtime]\nkeep_alive_s = 0\n"


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write_tone(tmp_path / "tone.wav", 3.0)


@contextmanager
def listening(daemon: RunningDaemon) -> Iterator[Callable[[str], list[str]]]:
    """Hear of runtimes on a connection of its own: gives the statuses so far, up to one of them."""
    with daemon.connect() as client:
        client.request("events.subscribe", topics=["runtimes"])

        def statuses_until(last: str) -> list[str]:
            heard: list[str] = []
            while not heard or heard[-1] != last:
                event = client._wire.next_event()
                assert event is not None and event["type"] == "runtime.status"
                if not heard or heard[-1] != event["status"]:
                    heard.append(event["status"])
            return heard

        yield statuses_until


def runtime(client: Client, model: str) -> dict[str, Any]:
    (found,) = (one for one in client.daemon.status()["runtimes"] if one["model"] == model)
    return dict(found)


def test_a_model_is_loaded_for_a_job_and_kept(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path
) -> None:
    model = toy()
    with listening(daemon) as statuses_until, daemon.connect() as client:
        client.transcribe(sound, model=model, vad=False)
        assert statuses_until("loaded") == ["downloading", "loading", "loaded"]
        shown = runtime(client, model)
        assert (shown["status"], shown["leases"], shown["compute_type"]) == ("loaded", 0, "int8")
        assert shown["memory"] > 2**20
        assert [shown["pid"]] == [worker.pid for worker in daemon.workers()]
        client.transcribe(sound, model=model, vad=False)
    assert len(loads(model)) == 1


def test_a_model_that_is_not_kept_gives_its_memory_back(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], sound: Path
) -> None:
    daemon = make_daemon()
    daemon.settings(FOR_NOTHING)
    daemon.start()
    model = toy()
    with listening(daemon) as statuses_until, daemon.connect() as client:
        client.transcribe(sound, model=model, vad=False)
        assert statuses_until("unloaded") == ["downloading", "loading", "loaded", "unloaded"]
        assert not daemon.workers()
        shown = runtime(client, model)
        assert (shown["status"], shown["pid"], shown["memory"]) == ("unloaded", None, None)


def test_the_default_stays(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], sound: Path
) -> None:
    default, other = toy("default"), toy("other")
    daemon = make_daemon()
    daemon.settings(f"{FOR_NOTHING}[daemon]\ndefault_model = '{default}'\n")
    daemon.start()
    with listening(daemon) as statuses_until, daemon.connect() as client:
        client.transcribe(sound, vad=False)
        client.transcribe(sound, model=other, vad=False)
        statuses_until("unloaded")
        assert runtime(client, other)["status"] == "unloaded"
        assert runtime(client, default)["status"] == "loaded"
        daemon.settings(FOR_NOTHING)
        client.daemon.reload()
        statuses_until("unloaded")
        assert runtime(client, default)["status"] == "unloaded", "it is the default no more"


def test_many_first_requests_load_once(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], sound: Path
) -> None:
    daemon = make_daemon()
    daemon.settings(FOR_NOTHING)
    daemon.start()
    model = toy()
    with daemon.connect() as client:
        jobs = [client.submit(sound, model=model, vad=False, priority="interactive") for _ in range(24)]
        for job in jobs:
            assert client.jobs.wait(job)["text"] == "transcribe 3.00 s"
    assert len(loads(model)) == 1, "a queue keeps its model, though nobody else does"


def test_all_who_wait_for_a_model_learn_that_it_is_broken(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path
) -> None:
    model = toy(load_error="bad magic")
    (Path(model) / "hold_load").touch()
    with daemon.connect() as client:
        jobs = [client.submit(sound, model=model, priority="interactive") for _ in range(8)]
        until(lambda: loads(model))
        (Path(model) / "hold_load").unlink()
        for job in jobs:
            with pytest.raises(WhisperdError) as raised:
                client.jobs.wait(job)
            assert raised.value.code == "model.load_failed"
        assert runtime(client, model)["error"]["code"] == "model.load_failed"
        assert len(loads(model)) == 1
        (Path(model) / "config.json").write_text("{}")
        client.transcribe(sound, model=model, vad=False)
        assert runtime(client, model)["error"] is None


@pytest.mark.parametrize("stage", ["loading", "computing"])
def test_cancelling_leaves_nothing(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path, stage: str
) -> None:
    model = toy()
    marker = Path(model) / ("hold_load" if stage == "loading" else "hold")
    marker.touch()
    with daemon.connect() as client:
        job = client.submit(sound, model=model, vad=False)
        until(lambda: loads(model) if stage == "loading" else batches(model))
        assert client.jobs.cancel(job)["status"] == "cancelled"
        assert client.jobs.cancel(job)["status"] == "cancelled"
        ends = [event["type"] for event in client.follow(job)]
        assert ends[-1] == "transcription.cancelled" and ends.count("transcription.cancelled") == 1
        until(lambda: runtime(client, model)["status"] == ("cancelled" if stage == "loading" else "loaded"))
        assert runtime(client, model)["leases"] == 0
        assert len(daemon.workers()) == (0 if stage == "loading" else 1)
        marker.unlink()
        assert client.transcribe(sound, model=model, vad=False).text == "transcribe 3.00 s"


def test_a_model_in_use_is_not_removed(daemon: RunningDaemon, toy: Callable[..., str], sound: Path) -> None:
    model = toy()
    with daemon.connect() as client:
        client.transcribe(sound, model=model, vad=False)
        with pytest.raises(WhisperdError) as raised:
            client.models.remove(model)
        assert raised.value.code == "model.in_use"
