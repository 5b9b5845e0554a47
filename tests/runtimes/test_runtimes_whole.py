"""Runtimes as users see them: the whole program with the toy engine, through the real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from whisperd.client import AsyncClient, Client, aconnect, connect
from whisperd.rpc.errors import WhisperdError
from whisperd.tasks import open_task_group
from whisperd_testing import RunningDaemon, batches, loads, runtime_with, until, write_tone

pytestmark = pytest.mark.real

NO_KEEP_ALIVE = "[runtime]\nkeep_alive_s = 0\n"
MIB = 2**20


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write_tone(tmp_path / "tone.wav", 3.0)


@contextmanager
def listening(daemon: RunningDaemon, model: str) -> Iterator[Callable[[str], list[str]]]:
    """Subscribe to the model's runtime on its own connection; yield a reader of statuses up to one."""
    with daemon.connect() as client:
        client.request("events.subscribe", topics=["runtimes"])

        def statuses_until(last: str) -> list[str]:
            heard: list[str] = []
            while not heard or heard[-1] != last:
                event = client.next_event()
                assert event is not None and event["type"] == "runtime.status"
                is_another = event["name"] != model and event["id"] != model
                if not is_another and (not heard or heard[-1] != event["status"]):
                    heard.append(event["status"])
            return heard

        yield statuses_until


def transcribe(client: Client, sound: Path, **options: Any) -> str:
    """Transcribe the sound, and return the name of the runtime that did it."""
    job = client.submit(sound, vad=False, **options)
    client.jobs.wait(job)
    return str(client.jobs.show(job)["runtime"])


def failure(action: Callable[..., object], *arguments: Any, **options: Any) -> WhisperdError:
    with pytest.raises(WhisperdError) as raised:
        action(*arguments, **options)
    return raised.value


def status_of(client: Client, name: str) -> str:
    return str(client.runtimes.show(name)["status"])


def tree_memory_bytes(daemon: RunningDaemon) -> int:
    """Return the resident memory of the daemon and all its descendants."""
    size_bytes = psutil.Process(daemon.pid).memory_info().rss
    for child in daemon.children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            size_bytes += child.memory_info().rss
    return int(size_bytes)


# Loading and unloading


def test_a_model_is_loaded_for_a_job_and_kept_loaded(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path
) -> None:
    model = toy()
    with listening(daemon, model) as statuses_until, daemon.connect() as client:
        client.transcribe(sound, model=model, vad=False)
        assert statuses_until("loaded") == ["downloading", "loading", "loaded"]
        until(lambda: runtime_with(client, model)["leases"] == 0)
        shown = runtime_with(client, model)
        assert (shown["status"], shown["saved"], shown["loaded"]["compute_type"]) == ("loaded", False, "int8")
        assert shown["memory"] > MIB
        assert [shown["pid"]] == [worker.pid for worker in daemon.workers()]
        client.transcribe(sound, model=model, vad=False)
    assert len(loads(model)) == 1


def test_a_jobs_runtime_is_reported_before_the_job_starts(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path
) -> None:
    model = toy()
    with daemon.connect() as client:
        client.runtimes.create("my own", model)
        client.request("events.subscribe", topics=["runtimes", "jobs"])
        job = client.submit(sound, runtime="my own", vad=False)
        told: list[str] = []
        while not told or told[-1] != "transcription.completed":
            event = client.next_event()
            assert event is not None
            what = str(event.get("status", event["type"]))
            if not told or told[-1] != what:
                told.append(what)
        assert told[:5] == ["job.queued", "downloading", "loading", "loaded", "job.started"]
        assert client.jobs.show(job)["runtime"] == "my own"


def test_a_runtime_without_keep_alive_frees_its_memory(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path
) -> None:
    small, large = toy("small"), toy("large", load_memory=200 * MIB)
    with daemon.connect() as client:
        client.runtimes.create("small", small, keep_alive=0)
        client.runtimes.create("large", large, keep_alive=0)
        # The first use includes the daemon's one-time work.
        transcribe(client, sound, runtime="small")
        until(lambda: not daemon.children())
        before_bytes = tree_memory_bytes(daemon)
        client.runtimes.load("large")
        shown = client.runtimes.show("large")
        assert shown["memory"] > 200 * MIB
        assert tree_memory_bytes(daemon) > before_bytes + 200 * MIB
        transcribe(client, sound, runtime="large")
        until(lambda: status_of(client, "large") == "unloaded")
        assert not psutil.pid_exists(shown["pid"])
        shown = client.runtimes.show("large")
        assert (shown["pid"], shown["memory"], shown["loaded"]) == (None, None, None)
        until(lambda: not daemon.children())
        assert tree_memory_bytes(daemon) < before_bytes + 20 * MIB


def test_a_hundred_first_requests_load_once(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path
) -> None:
    model = toy()
    (Path(model) / "hold_load").touch()
    with daemon.connect() as first:
        first.runtimes.create("toy", model, keep_alive=0)

    def ask(_: int) -> str:
        with daemon.connect() as client:
            return client.transcribe(sound, runtime="toy", vad=False).text

    with ThreadPoolExecutor(100) as threads, daemon.connect() as watcher:
        answers = threads.map(ask, range(100))
        until(lambda: watcher.runtimes.show("toy")["leases"] == 100)
        (Path(model) / "hold_load").unlink()
        assert list(answers) == ["transcribe 3.00 s"] * 100
        until(lambda: status_of(watcher, "toy") == "unloaded")
        assert watcher.runtimes.show("toy")["leases"] == 0
    assert len(loads(model)) == 1, "waiting jobs keep the model loaded, despite its keep-alive of 0"


def test_all_jobs_waiting_for_a_broken_model_get_the_error(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path
) -> None:
    model = toy(load_error="bad magic")
    (Path(model) / "hold_load").touch()
    with daemon.connect() as client:
        jobs = [client.submit(sound, model=model, priority="interactive") for _ in range(8)]
        until(lambda: loads(model))
        (Path(model) / "hold_load").unlink()
        for job in jobs:
            assert failure(client.jobs.wait, job).code == "model.load_failed"
        assert runtime_with(client, model)["error"]["code"] == "model.load_failed"
        assert len(loads(model)) == 1
        (Path(model) / "config.json").write_text("{}")
        client.transcribe(sound, model=model, vad=False)
        assert runtime_with(client, model)["error"] is None


@pytest.mark.parametrize("stage", ["loading", "computing"])
def test_cancelling_a_job_leaves_nothing_running(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path, stage: str
) -> None:
    model = toy()
    marker = Path(model) / ("hold_load" if stage == "loading" else "hold")
    marker.touch()
    with daemon.connect() as client:
        client.runtimes.create("toy", model)
        job = client.submit(sound, runtime="toy", vad=False)
        until(lambda: loads(model) if stage == "loading" else batches(model))
        assert client.jobs.cancel(job)["status"] == "cancelled"
        assert client.jobs.cancel(job)["status"] == "cancelled"
        ends = [event["type"] for event in client.follow(job)]
        assert ends[-1] == "transcription.cancelled" and ends.count("transcription.cancelled") == 1
        until(lambda: status_of(client, "toy") == ("cancelled" if stage == "loading" else "loaded"))
        until(lambda: client.runtimes.show("toy")["leases"] == 0)
        assert len(daemon.workers()) == (0 if stage == "loading" else 1)
        marker.unlink()
        assert client.transcribe(sound, runtime="toy", vad=False).text == "transcribe 3.00 s"


@pytest.mark.parametrize("stage", ["loading", "computing"])
def test_disconnected_clients_leave_no_lease(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path, stage: str
) -> None:
    model = toy()
    marker = Path(model) / ("hold_load" if stage == "loading" else "hold")
    marker.touch()
    with daemon.connect() as watcher:
        watcher.runtimes.create("toy", model, keep_alive=0)
        clients = [daemon.connect() for _ in range(5)]
        for client in clients:
            for _ in range(2):
                client.submit(sound, runtime="toy", vad=False)
        until(lambda: loads(model) if stage == "loading" else batches(model))
        assert watcher.runtimes.show("toy")["leases"] == 10
        for client in clients:
            client._wire._socket.close()
        until(lambda: watcher.runtimes.show("toy")["leases"] == 0)
        if stage == "computing":
            marker.unlink()
        until(lambda: status_of(watcher, "toy") == ("cancelled" if stage == "loading" else "unloaded"))
        until(lambda: not daemon.workers())


def test_a_load_is_given_up_when_its_only_client_disconnects(
    daemon: RunningDaemon, toy: Callable[..., str]
) -> None:
    model = toy()
    (Path(model) / "hold_load").touch()
    with daemon.connect() as watcher:
        watcher.runtimes.create("toy", model)
        with ThreadPoolExecutor(1) as threads, closing(daemon.connect()) as client:
            loading = threads.submit(failure, client.runtimes.load, "toy")
            until(lambda: loads(model))
            assert watcher.runtimes.cancel("toy")["status"] == "cancelled"
            assert loading.result().code == "runtime.cancelled"
        with closing(daemon.connect()) as client:
            client._wire.send("runtimes.load", {"name": "toy"})
            until(lambda: len(loads(model)) == 2)
        until(lambda: status_of(watcher, "toy") == "cancelled")
        assert not daemon.workers()


def test_a_model_in_use_is_not_removed(daemon: RunningDaemon, toy: Callable[..., str], sound: Path) -> None:
    model = toy()
    with daemon.connect() as client:
        client.transcribe(sound, model=model, vad=False)
        assert failure(client.models.remove, model).code == "model.in_use"


# The default


def test_the_default_stays_loaded(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], sound: Path
) -> None:
    default, other = toy("default"), toy("other")
    daemon = make_daemon()
    daemon.settings(NO_KEEP_ALIVE)
    daemon.start()
    daemon.make_default(default)
    with listening(daemon, other) as statuses_until, daemon.connect() as client:
        transcribe(client, sound)
        transcribe(client, sound, model=other)
        statuses_until("unloaded")
        assert runtime_with(client, default)["status"] == "loaded"
        client.runtimes.create("new", toy("new"))
        client.runtimes.default("new")
        until(lambda: runtime_with(client, default)["status"] == "unloaded")
        assert client.daemon.status()["default_runtime"] == "new"


def test_requests_are_answered_while_the_default_changes(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path
) -> None:
    old, new = toy("old"), toy("new")
    daemon.make_default(old)
    (Path(new) / "hold_load").touch()
    with daemon.connect() as client:
        old_name = client.daemon.status()["default_runtime"]
        client.runtimes.create("new", new)
        assert transcribe(client, sound) == old_name
        shown = client.runtimes.default("new")
        assert shown["default"] and shown["status"] != "loaded"
        until(lambda: loads(new))
        for _ in range(3):
            assert transcribe(client, sound) == old_name, "the old default answers until the new one is ready"
        (Path(new) / "hold_load").unlink()
        until(lambda: status_of(client, "new") == "loaded")
        assert transcribe(client, sound) == "new"
        assert [one["name"] for one in client.runtimes.list() if one["default"]] == ["new"]


def test_a_default_that_cannot_be_loaded_reports_what_to_do(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path
) -> None:
    daemon.make_default(toy("old"))
    with daemon.connect() as client:
        transcribe(client, sound)
        client.runtimes.create("new", toy("new", load_error="bad magic"))
        client.runtimes.default("new")
        until(lambda: status_of(client, "new") == "failed")
        assert client.runtimes.show("new")["error"]["code"] == "model.load_failed"
        error = failure(transcribe, client, sound)
        assert error.code == "model.load_failed" and error.fix
        assert error.data["runtimes"] == ["base"], "the error names the other runtimes"


def test_the_default_is_loaded_at_startup(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str]
) -> None:
    model = toy()
    daemon = make_daemon().start()
    daemon.make_default(model)
    with daemon.connect() as client:
        until(lambda: runtime_with(client, model)["status"] == "loaded")
        client.natives.install("media")  # otherwise the default is not preloaded
        client.daemon.stop()
    daemon.wait()
    daemon.env["WHISPERD_PRELOAD"] = "1"
    daemon.start()
    with daemon.connect() as client:
        until(lambda: runtime_with(client, model)["status"] == "loaded")
        assert runtime_with(client, model)["default"]
    assert len(loads(model)) == 2


def test_the_history_survives_a_restart(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], tmp_path: Path
) -> None:
    daemon = make_daemon().start()
    tone = write_tone(tmp_path / "tone.wav", 1.0)
    with daemon.connect() as client:
        client.runtimes.create(name="used", model=toy())
        client.runtimes.create(name="unused", model=toy())
        client.transcribe(tone, runtime="used", vad=False)
        client.daemon.stop()
    daemon.wait()
    daemon.start()
    with daemon.connect() as client:
        history = [one["status"] for one in client.runtimes.show("used")["history"]]
        assert history == ["downloading", "loading", "loaded", "unloaded"]
        ended = client.jobs.list()[-1]["ended"]
        last_used = {one["name"]: one["last_used"] for one in client.runtimes.list()}
        assert (last_used["used"], last_used["unused"]) == (ended, None)


def test_nothing_is_downloaded_at_startup(make_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> None:
    environment = {"WHISPERD_PRELOAD": "1", "WHISPERD_MODELS_DIR": str(tmp_path / "none")}
    daemon = make_daemon(env=environment).start()
    with daemon.connect() as client:
        client.daemon.status()
        shown = client.runtimes.show(client.daemon.status()["default_runtime"])
        assert (shown["status"], shown["history"], shown["error"]) == ("unloaded", [], None)


def test_a_runtime_can_be_deleted_while_it_is_shown(daemon: RunningDaemon, toy: Callable[..., str]) -> None:
    model = toy()

    async def show(client: AsyncClient) -> None:
        try:
            assert (await client.runtimes.show("brief"))["name"] == "brief"
        except WhisperdError as error:
            assert error.code == "runtime.unknown", error

    async def all_at_once() -> None:
        async with aconnect(daemon.socket, start=False) as client:
            for _ in range(20):
                await client.runtimes.create("brief", model)
                async with open_task_group() as tasks:
                    for _ in range(5):
                        tasks.start_soon(show, client)
                    tasks.start_soon(client.runtimes.delete, "brief")

    anyio.run(all_at_once)


# The choice of a job's runtime


@pytest.fixture
def three(daemon: RunningDaemon, toy: Callable[..., str]) -> dict[str, str]:
    """The models of the default and of runtimes named `of profile` and `of request`."""
    models = {name: toy(name) for name in ("default", "of profile", "of request")}
    daemon.make_default(models["default"])
    with daemon.connect() as client:
        client.runtimes.edit(client.daemon.status()["default_runtime"], name="default")
        for name in ("of profile", "of request"):
            client.runtimes.create(name, models[name])
        client.profiles.create("talks", runtime="of profile", options={"language": "de", "task": "translate"})
    return models


def test_the_request_precedes_the_profile_and_the_profile_the_default(
    daemon: RunningDaemon, three: dict[str, str], sound: Path
) -> None:
    with daemon.connect() as client:
        assert transcribe(client, sound) == "default"
        assert transcribe(client, sound, runtime="of request") == "of request"
        id_ = client.runtimes.show("of request")["id"]
        assert transcribe(client, sound, runtime=id_) == "of request"
        assert transcribe(client, sound, model=three["of request"]) == "of request"
    with connect(daemon.socket, start=False, profile="talks") as client:
        assert transcribe(client, sound) == "of profile"
        assert transcribe(client, sound, runtime="of request") == "of request"
        assert transcribe(client, sound, model=three["default"]) == "default"


def test_a_job_may_name_a_profile(daemon: RunningDaemon, three: dict[str, str], sound: Path) -> None:
    with daemon.connect() as client:
        ask = {"input": {"path": str(sound)}, "options": {"vad": False}}
        job = client.request("jobs.submit", **ask, profile="talks")["id"]
        assert client.jobs.wait(job)["language"] == "de"
        assert client.jobs.show(job)["runtime"] == "of profile"
        error = failure(client.request, "jobs.submit", **ask, profile="talk")
        assert error.code == "profile.unknown" and "talks" in error.fix
    error = failure(connect, daemon.socket, start=False, profile="talk")
    assert error.code == "profile.unknown" and "talks" in error.fix


def test_options_of_the_request_precede_those_of_the_profile(
    daemon: RunningDaemon, three: dict[str, str], sound: Path
) -> None:
    with connect(daemon.socket, start=False, profile="talks") as client:
        # A client sends only the options that were given; the profile supplies the rest.
        ask = {"input": {"path": str(sound)}}
        for given, expected in [
            ({}, ("de", "translate 3.00 s")),
            ({"language": "fr"}, ("fr", "translate 3.00 s")),
            ({"task": "transcribe"}, ("de", "transcribe 3.00 s")),
        ]:
            job = client.request("jobs.submit", **ask, options={"vad": False, **given})["id"]
            done = client.jobs.wait(job)
            assert (done["language"], done["text"]) == expected
        client.profiles.edit("talks", options={})
        job = client.request("jobs.submit", **ask, options={"vad": False})["id"]
        assert client.jobs.wait(job)["language"] == "en", "the profile is read when the job is submitted"


def test_a_model_in_a_profile_selects_the_runtime(
    daemon: RunningDaemon, three: dict[str, str], sound: Path
) -> None:
    with daemon.connect() as client:
        client.profiles.create("by model", options={"model": three["of request"]})
        error = failure(client.profiles.edit, "by model", runtime="of profile")
        assert error.code == "profile.invalid" and error.data == {"field": "runtime"}
    with connect(daemon.socket, start=False, profile="by model") as client:
        assert transcribe(client, sound) == "of request"
        assert transcribe(client, sound, runtime="of profile") == "of profile"


def test_profiles_and_watch_folders_need_saved_runtimes(
    daemon: RunningDaemon, toy: Callable[..., str], sound: Path, tmp_path: Path
) -> None:
    with daemon.connect() as client:
        once = transcribe(client, sound, model=toy("once"))
        for error in (
            failure(client.profiles.create, "talks", runtime=once),
            failure(client.watch.add, tmp_path, runtime=once),
        ):
            assert error.code == "runtime.not_saved"
            assert "runtimes create" in error.fix


def test_an_unavailable_runtime_is_never_replaced_silently(
    daemon: RunningDaemon, three: dict[str, str], sound: Path
) -> None:
    with connect(daemon.socket, start=False, profile="talks") as client:
        error = failure(transcribe, client, sound, runtime="of requests")
        assert error.code == "runtime.unknown"
        assert "of request" in error.fix and "default" in error.fix, "the fix names the available runtimes"
        client.runtimes.disable("of profile")
        error = failure(transcribe, client, sound)
        assert error.code == "runtime.disabled"
        assert error.data["runtimes"] == ["default", "of request"]
        assert "of request" in error.fix
        client.runtimes.delete("of profile")
        error = failure(transcribe, client, sound)
        assert error.code == "runtime.unknown" and "the profile talks" in error.message
        assert "profiles edit talks" in error.fix and "of request" in error.fix, "the fix says what to do"
        (Path(three["of request"]) / "config.json").write_text('{"load_error": "bad magic"}')
        error = failure(transcribe, client, sound, runtime="of request")
        assert (error.code, error.data["runtimes"]) == ("model.load_failed", ["default"])
        assert error.fix.endswith("Or use another runtime: default.")
        options = {"runtime": "default", "model": three["default"]}
        assert failure(transcribe, client, sound, **options).code == "runtime.invalid"
        assert client.runtimes.list()[0]["leases"] == 0


# Editing under jobs


def test_a_runtime_can_be_renamed_and_edited_during_a_job(
    daemon: RunningDaemon, three: dict[str, str], toy: Callable[..., str], sound: Path
) -> None:
    held = Path(three["of request"])
    better = toy("better")
    (held / "hold").touch()
    with daemon.connect() as client:
        job = client.submit(sound, runtime="of request", vad=False)
        until(lambda: batches(held))
        client.runtimes.edit("of request", name="renamed")
        assert client.jobs.show(job)["runtime"] == "of request"
        shown = client.runtimes.edit("renamed", model=better)
        assert (shown["status"], shown["model"], shown["leases"]) == ("loaded", better, 1)
        assert failure(client.runtimes.edit, "renamed", version=1, batch_size=2).code == "runtime.stale"
        assert not loads(better)
        (held / "hold").unlink()
        assert client.jobs.wait(job)["text"] == "transcribe 3.00 s"
        assert transcribe(client, sound, runtime="renamed") == "renamed"
        assert (len(loads(held)), len(loads(better))) == (1, 1)
        assert len(daemon.workers()) == 2, "its worker and the default's"


def test_a_restart_changes_nothing(daemon: RunningDaemon, three: dict[str, str], sound: Path) -> None:
    fields = ("id", "name", "model", "enabled", "default", "version", "created", "changed")

    def saved(client: Client) -> list[dict[str, Any]]:
        return [{field: one[field] for field in fields} for one in client.runtimes.list()]

    with daemon.connect() as client:
        client.runtimes.default("of request")
        client.runtimes.disable("of profile")
        before, profiles = saved(client), client.profiles.list()
        client.daemon.stop()
    daemon.wait()
    daemon.start()
    with daemon.connect() as client:
        assert (saved(client), client.profiles.list()) == (before, profiles)
        assert transcribe(client, sound) == "of request"
