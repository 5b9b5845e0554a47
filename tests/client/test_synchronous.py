"""`whisperd.connect()` against a real daemon."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import whisperd
from whisperd.client import Client, connect
from whisperd_testing import RunningDaemon, batches, toy_model, until

pytestmark = pytest.mark.real

TEXT = "transcribe 2.00 s"


def status_of(daemon: RunningDaemon, job: str) -> str:
    with daemon.connect() as client:
        return str(client.jobs.show(job)["status"])


def only_job(daemon: RunningDaemon, model: Path) -> str:
    with daemon.connect() as client:
        (job,) = (one["id"] for one in client.jobs.list() if one["options"]["model"] == str(model))
    return str(job)


@pytest.mark.parametrize("kind", ["text", "path", "bytes", "bytearray", "file", "memory"])
def test_every_kind_of_source_is_accepted(shared: RunningDaemon, tone: Path, kind: str) -> None:
    content = tone.read_bytes()
    with shared.connect() as client, tone.open("rb") as file:
        source = {
            "text": str(tone),
            "path": tone,
            "bytes": content,
            "bytearray": bytearray(content),
            "file": file,
            "memory": io.BytesIO(content),
        }[kind]
        assert client.transcribe(source, vad=False).text == TEXT  # type: ignore[arg-type]


def test_refused_recordings_leave_no_uploads(shared: RunningDaemon) -> None:
    with shared.connect() as client:
        with pytest.raises(whisperd.WhisperdError) as caught:
            client.transcribe(b"")
        assert caught.value.code == "audio.empty"
        assert not list((shared.folder / "state" / "uploads").iterdir())


def test_the_fields_of_a_transcript(shared: RunningDaemon, tone: Path) -> None:
    with shared.connect() as client:
        transcript = client.transcribe(tone, vad=False, language="de")
    assert (transcript.text, transcript.language, transcript.duration) == (TEXT, "de", 2.0)
    assert transcript.segments == (whisperd.Segment(0, 0.0, 2.0, TEXT, language="de"),)
    assert transcript.verbose["task"] == "transcribe"


def test_segments_are_streamed(shared: RunningDaemon, long_tone: Path) -> None:
    with shared.connect() as client:
        segments = list(client.transcribe(long_tone, stream=True, vad=False))
        whole = client.transcribe(long_tone, vad=False)
    assert tuple(segments) == whole.segments
    assert len(segments) > 3
    assert [segment.id for segment in segments] == list(range(len(segments)))


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_of_the_daemon_is_raised(
    shared: RunningDaemon, tmp_path: Path, tone: Path, stream: bool
) -> None:
    (tmp_path / "text.wav").write_text("no audio at all")
    with shared.connect() as client:
        for source, code in ((tmp_path / "text.wav", "audio.unsupported"), (tmp_path, "audio.is_directory")):
            with pytest.raises(whisperd.WhisperdError) as caught:
                list(client.transcribe(source, stream=stream))  # type: ignore[call-overload]
            assert caught.value.code == code
            assert caught.value.fix
        assert client.transcribe(tone, vad=False).text == TEXT


def test_an_unknown_option_is_refused(shared: RunningDaemon, tone: Path) -> None:
    with shared.connect() as client, pytest.raises(whisperd.WhisperdError, match="langage") as caught:
        client.transcribe(tone, langage="de")  # type: ignore[call-overload]
    assert caught.value.code == "rpc.invalid_params"


def test_leaving_the_iteration_early_cancels_the_job(
    shared: RunningDaemon, toy: Callable[..., str], ten_minutes: Path
) -> None:
    model = Path(toy("slow", window_s=0.3))
    with shared.connect() as client:
        for segment in client.transcribe(ten_minutes, stream=True, model=model, vad=False):
            assert segment.id == 0
            break
        assert status_of(shared, only_job(shared, model)) == "cancelled"
        assert client.daemon.status()["jobs"]["running"] == 0


def test_closing_the_iterator_cancels_the_job(shared: RunningDaemon, held: Path, tone: Path) -> None:
    with shared.connect() as client:
        segments = client.transcribe(tone, stream=True, model=held, vad=False)
        with closing(segments):
            until(lambda: batches(held))
        # The iterator was never advanced, so it had nothing to clean up: the connection does it.
        assert status_of(shared, only_job(shared, held)) == "running"
    until(lambda: status_of(shared, only_job(shared, held)) == "cancelled")


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
@pytest.mark.parametrize("stream", [False, True])
def test_ctrl_c_cancels_the_job_and_the_client_stays_usable(
    shared: RunningDaemon, held: Path, tone: Path, stream: bool
) -> None:
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def interrupt() -> None:
        until(lambda: batches(held))
        signal.pthread_kill(main_thread, signal.SIGINT)

    with shared.connect() as client:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            list(client.transcribe(tone, stream=stream, model=held, vad=False))  # type: ignore[call-overload]
        thread.join()
        assert status_of(shared, only_job(shared, held)) == "cancelled"
        assert client.transcribe(tone, vad=False).text == TEXT


def test_disconnecting_cancels_attached_jobs_only(shared: RunningDaemon, held: Path, tone: Path) -> None:
    with shared.connect() as client:
        attached = client.submit(tone, model=held, vad=False)
        detached = client.submit(tone, model=held, vad=False, detach=True)
    until(lambda: status_of(shared, attached) == "cancelled")
    assert status_of(shared, detached) in ("queued", "running")
    (held / "hold").unlink()
    with shared.connect() as client:
        assert client.jobs.wait(detached)["text"] == TEXT


def test_following_leaves_no_subscription(shared: RunningDaemon, tone: Path) -> None:
    """A connection may have 64 subscriptions."""
    with shared.connect() as client:
        job = client.submit(tone, vad=False)
        for _ in range(70):
            assert list(client.follow(job))[-1]["type"] == "transcription.completed"
        for _ in range(70):
            next(client.follow(job)).keys()  # abandoned early


def test_a_stream_does_not_fetch_the_result_as_well(
    shared: RunningDaemon, long_tone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shared.connect() as client:
        send, asked = client._wire.send, list[str]()

        def note(method: str, params: dict[str, Any] | None = None) -> int:
            asked.append(method)
            return send(method, params)

        monkeypatch.setattr(client._wire, "send", note)
        assert list(client.transcribe(long_tone, stream=True, vad=False))
    assert asked == ["jobs.submit", "events.subscribe", "events.unsubscribe"]


def test_a_reader_that_missed_events_still_reaches_the_end(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], long_tone: Path
) -> None:
    daemon = make_daemon()
    daemon.settings("[limits]\nmax_unread_bytes = 4096\n")
    daemon.start()
    with daemon.connect() as client:
        segments = client.transcribe(long_tone, stream=True, vad=False, model=toy())
        texts = [segment.text for segment in segments]
        job = client.submit(long_tone, vad=False, model=toy())
        followed = client.follow(job)
        next(followed)
        with daemon.connect() as other:
            other.jobs.wait(job)
        assert texts and list(followed)[-1]["type"] == "transcription.completed"


def test_several_threads_each_with_its_own_client(shared: RunningDaemon, tone: Path) -> None:
    texts: list[str] = []

    def work() -> None:
        with connect(shared.socket, start=False) as client:
            texts.extend(client.transcribe(tone, vad=False).text for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [TEXT] * 15


def test_a_source_that_fails_during_its_upload(shared: RunningDaemon) -> None:
    class Failing(io.BytesIO):
        def read(self, _: int | None = -1, /) -> bytes:
            raise OSError("the tape is torn")

    uploads = shared.folder / "state" / "uploads"
    with shared.connect() as client:
        with pytest.raises(OSError, match="torn"):
            client.transcribe(Failing())
        assert not [path for path in uploads.rglob("*") if path.is_file()]
        assert client.daemon.status()["pid"] == shared.pid


def test_a_closed_client_raises_an_error(shared: RunningDaemon) -> None:
    client = shared.connect()
    client.close()
    with pytest.raises(whisperd.WhisperdError) as caught:
        client.daemon.status()
    assert caught.value.code == "client.closed"


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_a_killed_daemon_raises_an_error(
    make_daemon: Callable[..., RunningDaemon], held: Path, tone: Path
) -> None:
    daemon = make_daemon().start()
    with daemon.connect() as client:
        segments = client.transcribe(tone, stream=True, model=held, vad=False)
        until(lambda: batches(held))
        daemon.signal(signal.SIGKILL)
        with pytest.raises(whisperd.WhisperdError) as caught:
            list(segments)
    assert caught.value.code == "daemon.connection_lost"
    daemon.wait()


def test_connect_starts_a_daemon(
    make_daemon: Callable[..., RunningDaemon], tone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemon = make_daemon()
    for name, value in daemon.env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(whisperd.WhisperdError) as caught:
        whisperd.connect(start=False)
    assert caught.value.code == "daemon.unreachable"
    with whisperd.connect() as client:
        assert isinstance(client, Client)
        assert client.transcribe(tone, vad=False, model=toy_model(tmp_path / "toy")).text == TEXT


def test_the_methods_of_each_noun(shared: RunningDaemon, tone: Path, toy: Callable[..., str]) -> None:
    with shared.connect() as client:
        job = client.submit(tone, vad=False)
        assert client.jobs.wait(job)["text"] == TEXT
        assert client.jobs.result(job)["content"] == TEXT + "\n"
        assert job in [one["id"] for one in client.jobs.list("completed")]
        assert client.jobs.cancel(job)["status"] == "completed"
        assert client.jobs.clear()["cleared"] >= 1
        assert client.models.path(toy())["path"] == toy()
        assert "base" in [one["name"] for one in client.models.available()]
        assert "media" in [one["name"] for one in client.natives.list()]
        assert client.natives.verify("media")["ok"]
        assert client.daemon.config()["path"] == str(shared.config)
