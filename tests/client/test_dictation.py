"""Dictating to the daemon from Python: with threads, with tasks, and leaving early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread

import anyio
import pytest

import whisperd
from whisperd.rpc.errors import WhisperdError
from whisperd.speech import samples
from whisperd.tasks import open_task_group
from whisperd_testing import LIMIT_S, RunningDaemon, until

pytestmark = pytest.mark.real

SPEECH = samples()[0].pcm
END = "transcription.completed"


def test_one_thread_pushes_audio_while_another_receives_events(
    daemon: RunningDaemon, toy: Callable[..., str]
) -> None:
    heard: list[str] = []
    with daemon.connect() as client, client.dictate(model=toy()) as dictation:

        def listen() -> None:
            heard.extend(event["type"] for event in dictation)

        thread = Thread(target=listen)
        thread.start()
        dictation.push(SPEECH)
        dictation.push(memoryview(SPEECH))
        assert client.jobs.show(dictation.id)["input"] == {"stream": True}, (
            "the client must stay usable meanwhile"
        )
        dictation.finish()
        thread.join()
        assert dictation.result().duration == pytest.approx(len(SPEECH) / 16_000)
    assert heard[-1] == END and "transcription.segment" in heard


def test_leaving_early_cancels_the_job_and_unblocks_every_thread(daemon: RunningDaemon, held: Path) -> None:
    (held / "hold_load").touch()
    pushed, errors, heard = [], [], []
    with daemon.connect() as client:
        with client.dictate(model=held) as dictation:

            def push() -> None:
                with pytest.raises(WhisperdError) as caught:
                    while True:
                        dictation.push(bytes(32_000))
                        pushed.append(1)
                errors.append(caught.value.code)

            def listen() -> None:
                heard.extend(event["type"] for event in dictation)

            threads = [Thread(target=push), Thread(target=listen)]
            for thread in threads:
                thread.start()
            until(lambda: len(pushed) == 30 and heard)
        for thread in threads:
            thread.join(LIMIT_S)
        assert client.jobs.show(dictation.id)["status"] == "cancelled"
    (held / "hold_load").unlink()
    assert errors in (["job.cancelled"], ["client.closed"])
    assert heard in (["job.queued"], ["job.queued", "transcription.cancelled"])


def test_an_error_reaches_events_and_requests(daemon: RunningDaemon, toy: Callable[..., str]) -> None:
    with daemon.connect() as client, client.dictate(model=toy(load_error="It is broken.")) as dictation:
        *_, last = dictation
        assert last["type"] == "transcription.failed"
        for ask in (dictation.result, lambda: dictation.push(b"\0\0")):
            with pytest.raises(WhisperdError) as caught:
                ask()
            assert caught.value.code == "model.load_failed"


def test_invalid_options_are_refused_at_once(daemon: RunningDaemon) -> None:
    with daemon.connect() as client:
        with pytest.raises(WhisperdError) as caught, client.dictate(language="xx"):
            pass
        assert caught.value.code == "language.unknown"
        until(lambda: client.daemon.status()["clients"] == 1, "its connections to close")


@pytest.mark.anyio
async def test_one_task_pushes_audio_while_another_receives_events(
    daemon: RunningDaemon, toy: Callable[..., str]
) -> None:
    heard: list[str] = []
    connection = whisperd.aconnect(daemon.socket, start=False)
    async with connection as client, client.dictate(model=toy()) as dictation:

        async def listen() -> None:
            async for event in dictation:
                heard.append(event["type"])

        with anyio.fail_after(LIMIT_S):
            async with open_task_group() as tasks:
                tasks.start_soon(listen)
                await dictation.push(SPEECH)
                await dictation.finish()
            transcript = await dictation.result()
    assert transcript.text.startswith("transcribe")
    assert heard[-1] == END and "transcription.segment" in heard


@pytest.mark.anyio
async def test_leaving_a_task_early_cancels_the_job(daemon: RunningDaemon, toy: Callable[..., str]) -> None:
    async with whisperd.aconnect(daemon.socket, start=False) as client:
        with anyio.CancelScope() as scope:
            async with client.dictate(model=toy()) as dictation:
                await dictation.push(SPEECH)
                scope.cancel()
                await dictation.push(SPEECH)
        assert (await client.jobs.show(dictation.id))["status"] == "cancelled"
