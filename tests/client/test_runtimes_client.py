"""`client.runtimes` and `client.profiles`: their requests, and the answers of a real daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import whisperd
from whisperd.client import aconnect, connect
from whisperd.client.inputs import hello_params
from whisperd.client.nouns import Jobs, Profiles, Runtimes
from whisperd_testing import RunningDaemon

Asked = tuple[str, dict[str, Any]]
TEXT = "transcribe 2.00 s"


def asked(method: str, **params: Any) -> Asked:
    """Answer a request with the request itself."""
    return method, params


RUNTIMES: Runtimes[Any, Any] = Runtimes(asked)
PROFILES: Profiles[Any, Any] = Profiles(asked)


def test_requests_about_runtimes() -> None:
    assert RUNTIMES.list() == ("runtimes.list", {})
    assert RUNTIMES.create("fast", "tiny.en") == ("runtimes.create", {"name": "fast", "model": "tiny.en"})
    assert RUNTIMES.create("fast", Path("tiny"), default=True, device="cuda", device_index=1) == (
        "runtimes.create",
        {
            "name": "fast",
            "model": str(Path("tiny").absolute()),
            "default": True,
            "device": "cuda",
            "device_index": [1],
        },
    )
    assert RUNTIMES.edit("fast", name="quick", device_index=(0, 1)) == (
        "runtimes.edit",
        {"name": "fast", "changes": {"name": "quick", "device_index": (0, 1)}},
    )
    assert RUNTIMES.edit("fast", version=3, keep_alive="15m") == (
        "runtimes.edit",
        {"name": "fast", "changes": {"keep_alive": "15m"}, "version": 3},
    )


@pytest.mark.parametrize(
    "verb", ["show", "delete", "prepare", "load", "cancel", "unload", "default", "enable", "disable"]
)
def test_requests_about_one_runtime(verb: str) -> None:
    assert getattr(RUNTIMES, verb)("fast") == (f"runtimes.{verb}", {"name": "fast"})


def test_requests_about_profiles() -> None:
    assert PROFILES.list() == ("profiles.list", {})
    assert PROFILES.create("talks") == ("profiles.create", {"name": "talks"})
    assert PROFILES.create("talks", "fast", {"language": None, "temperature": 0.2}) == (
        "profiles.create",
        {"name": "talks", "runtime": "fast", "options": {"temperature": [0.2]}},
    )
    assert PROFILES.edit("talks", version=2, name="speeches", runtime=None, options={"vad": False}) == (
        "profiles.edit",
        {
            "name": "talks",
            "changes": {"name": "speeches", "runtime": None, "options": {"vad": False}},
            "version": 2,
        },
    )
    assert PROFILES.show("talks") == ("profiles.show", {"name": "talks"})
    assert PROFILES.delete("talks") == ("profiles.delete", {"name": "talks"})


def test_the_greeting_identifies_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHISPERD_PROFILE", raising=False)
    hello = hello_params(None)
    assert hello == {"client": "whisperd-python", "version": whisperd.__version__, "protocol": 1}
    assert hello_params("talks") == {**hello, "profile": "talks"}
    monkeypatch.setenv("WHISPERD_PROFILE", "mine")
    assert hello_params(None) == {**hello, "profile": "mine"}
    assert hello_params("talks") == {**hello, "profile": "talks"}
    assert hello_params("") == hello


def test_a_job_can_have_its_own_profile() -> None:
    jobs: Jobs[Any, Any] = Jobs(asked)
    assert jobs.submit({"path": "/a"}, {})[1] == {"input": {"path": "/a"}, "options": {}, "detach": False}
    assert jobs.submit({"path": "/a"}, {}, profile="talks")[1]["profile"] == "talks"


@pytest.mark.real
def test_the_life_cycle_of_a_runtime(shared: RunningDaemon, tone: Path, toy: Callable[..., str]) -> None:
    with shared.connect() as client:
        assert client.server["version"] == whisperd.__version__
        created = client.runtimes.create("fast", Path(toy("fast")), batch_size=2, keep_alive="-1")
        assert (created["name"], created["status"], created["keep_alive"]) == ("fast", "unloaded", -1)
        assert client.transcribe(tone, runtime="fast", vad=False).text == TEXT
        assert client.runtimes.show("fast")["status"] == "loaded"
        edited = client.runtimes.edit("fast", name="quick", version=created["version"])
        assert edited["id"] == created["id"]
        with pytest.raises(whisperd.WhisperdError) as caught:
            client.runtimes.edit("quick", workers=1, version=created["version"])
        assert caught.value.code == "runtime.stale"
        assert client.runtimes.unload("quick")["status"] == "unloaded"
        assert client.runtimes.load("quick")["status"] == "loaded"
        assert client.runtimes.disable("quick")["enabled"] is False
        assert client.runtimes.enable("quick")["enabled"] is True
        assert "quick" in [one["name"] for one in client.runtimes.list()]
        assert client.runtimes.delete("quick") == {"id": created["id"], "name": "quick"}


@pytest.mark.real
def test_runtime_events_arrive_without_a_job(shared: RunningDaemon, toy: Callable[..., str]) -> None:
    with shared.connect() as client, shared.connect() as other:
        client.request("events.subscribe", topics=["runtimes"])
        id = other.runtimes.create("told", toy("told"))["id"]
        other.runtimes.load("told")
        seen: list[str] = []
        while "loaded" not in seen:
            event = client.next_event()
            assert event is not None
            seen += [event["status"]] if event["id"] == id else []
        assert "loading" in seen
        other.runtimes.delete("told")


@pytest.mark.real
@pytest.mark.anyio
async def test_both_clients_support_profiles(
    shared: RunningDaemon, tone: Path, toy: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with shared.connect() as client:
        client.runtimes.create("fast", toy("fast"))
        profile = client.profiles.create("talks", "fast", {"language": "de", "vad": False})
        assert (profile["runtime"], profile["options"]) == ("fast", {"language": "de", "vad": False})
    with connect(shared.socket, start=False, profile="talks") as client:
        assert client.transcribe(tone).language == "de"
    monkeypatch.setenv("WHISPERD_PROFILE", "talks")
    async with aconnect(shared.socket, start=False) as both:
        assert (await both.transcribe(tone)).language == "de"
        assert (await both.runtimes.show("fast"))["status"] == "loaded"
        await both.profiles.delete("talks")
    with pytest.raises(whisperd.WhisperdError) as caught:
        connect(shared.socket, start=False)
    assert caught.value.code == "profile.unknown"
    with pytest.raises(whisperd.WhisperdError) as caught:
        async with aconnect(shared.socket, start=False):
            raise AssertionError("there is no such profile")
    assert caught.value.code == "profile.unknown"
    with connect(shared.socket, start=False, profile="") as client:
        client.runtimes.delete("fast")
