"""Input that cannot be transcribed: a clear error with a fix, and no effect on the next request."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from whisperd_testing import LIMIT_S, RunningDaemon, start_without_privileges, until

pytestmark = pytest.mark.real

posix = pytest.mark.skipif(os.name != "posix", reason="permissions, pipes and devices as on POSIX")


@pytest.fixture(autouse=True)
def daemon_unaffected(shared: RunningDaemon, tone: str) -> Iterator[None]:
    """Check after each test that the same daemon still works as before."""
    before = shared.ctl("daemon", "status", "--json").json
    yield
    assert shared.ctl("transcribe", "--no-vad", tone).out == "transcribe 2.00 s\n"
    after = shared.ctl("daemon", "status", "--json").json
    assert after["pid"] == before["pid"]
    assert after["jobs"]["running"] == after["jobs"]["queued"] == 0


def refused(daemon: RunningDaemon, *arguments: str) -> tuple[int, str]:
    """Return the exit status and the error code; check that text and JSON output agree."""
    done = daemon.ctl("transcribe", *arguments)
    assert done.out == ""
    message, fix = done.err.splitlines()
    as_json = daemon.ctl("transcribe", "--json", *arguments)
    assert (as_json.status, as_json.err) == (done.status, "")
    error: dict[str, Any] = as_json.json["error"]
    assert list(error) == ["code", "message", "fix", "data"]
    assert message.startswith("whisperctl: ") and message.endswith((".", ")."))
    assert fix.startswith("  ") and fix.endswith((".", "?"))
    if "\n" not in error["message"]:
        assert (message[12:], fix[2:]) == (error["message"], error["fix"])
    return done.status, error["code"]


def transcribed(daemon: RunningDaemon, *arguments: str) -> str:
    done = daemon.ctl("transcribe", *arguments)
    assert (done.status, done.err) == (0, "")
    return done.out


def test_a_missing_file_is_not_found(shared: RunningDaemon, tmp_path: Path) -> None:
    assert refused(shared, str(tmp_path / "missing.wav")) == (4, "audio.not_found")
    assert refused(shared, str(tmp_path / "new\nline.wav")) == (4, "audio.not_found")
    assert refused(shared, "") == (4, "audio.not_found")


def test_a_folder_is_refused(shared: RunningDaemon, tmp_path: Path) -> None:
    assert refused(shared, str(tmp_path)) == (1, "audio.is_directory")


def test_a_url_is_refused_with_advice(shared: RunningDaemon) -> None:
    done = shared.ctl("transcribe", "https://example.org/a.mp3")
    assert done.status == 4
    assert "https://example.org/a.mp3 is a URL" in done.err and "curl" in done.err


@posix
def test_a_name_that_is_too_long_is_refused(shared: RunningDaemon, tmp_path: Path) -> None:
    assert refused(shared, str(tmp_path / ("x" * 300))) == (1, "audio.not_readable")


@posix
def test_devices_are_refused(shared: RunningDaemon, tmp_path: Path) -> None:
    assert refused(shared, "/dev/zero") == (1, "audio.not_a_file")
    assert refused(shared, "/dev/null") == (1, "audio.not_a_file")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("empty.wav", "audio.empty"),
        ("text.wav", "audio.unsupported"),
        ("text.mp3", "audio.unsupported"),
        ("hollow.mp3", "audio.unsupported"),
        ("silent_film.mp4", "audio.no_audio_stream"),
        ("garbled.m4a", "audio.corrupt"),
        ("no_samples.wav", "audio.empty"),
    ],
)
def test_a_file_without_audio_is_refused(shared: RunningDaemon, media: Path, name: str, code: str) -> None:
    assert refused(shared, str(media / name)) == (1, code)


def test_a_text_file_is_recognised(shared: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Nothing to hear.")
    done = shared.ctl("transcribe", str(tmp_path / "notes.txt"))
    assert "notes.txt is a text file, not audio or video." in done.err
    assert "Choose an audio or video file." in done.err


@pytest.mark.parametrize("name", ["truncated.mp3", "boastful.wav", "impossible.wav", "surround.wav"])
def test_damaged_and_unusual_files_are_transcribed_as_far_as_possible(
    shared: RunningDaemon, media: Path, name: str
) -> None:
    """Truncated, a header claiming 2**31 samples, NaN samples, 96 kHz in 8 channels."""
    assert transcribed(shared, str(media / name)).startswith("transcribe ")


def test_a_damaged_recording_gets_a_warning_each_time(shared: RunningDaemon, media: Path) -> None:
    for _ in ("computed", "stored"):
        done = shared.ctl("transcribe", str(media / "scratched.mp3"))
        assert done.status == 0 and done.out.startswith("transcribe ")
        assert "scratched.mp3 is damaged: 2 packets cannot be decoded" in done.err


def test_a_very_short_file_gives_empty_text(shared: RunningDaemon, media: Path) -> None:
    done = shared.ctl("transcribe", str(media / "instant.wav"))
    assert (done.status, done.out) == (0, "")


@posix
def test_a_file_without_read_permission(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], tone: str, tmp_path: Path
) -> None:
    daemon = make_daemon()
    start_without_privileges(daemon)
    secret = tmp_path / "secret.wav"
    shutil.copy(tone, secret)
    secret.chmod(0)
    folder = tmp_path / "locked"
    folder.mkdir()
    shutil.copy(tone, folder / "a.wav")
    folder.chmod(0)
    try:
        assert refused(daemon, str(secret)) == (1, "audio.not_readable")
        assert refused(daemon, str(folder / "a.wav")) == (1, "audio.not_readable")
        assert transcribed(daemon, "--no-vad", "--model", toy(), tone) == "transcribe 2.00 s\n"
    finally:
        folder.chmod(0o700)


def test_a_file_that_vanishes_before_it_is_decoded(
    shared: RunningDaemon,
    ctl_process: Callable[..., subprocess.Popen[bytes]],
    toy: Callable[..., str],
    tone: str,
    tmp_path: Path,
) -> None:
    model = toy()
    (Path(model) / "hold_load").touch()  # decoding begins once the model is loaded
    copy = Path(shutil.copy(tone, tmp_path / "soon_gone.wav"))
    process = ctl_process("transcribe", "--model", model, str(copy))
    with shared.connect() as client:
        until(lambda: any(job["input"].get("path") == str(copy) for job in client.jobs.list()))
    copy.unlink()
    (Path(model) / "hold_load").unlink()
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (4, b"")
    assert str(copy).encode() in err
    with shared.connect() as client:  # wait for the load here, so that the next test need not
        until(lambda: client.daemon.status()["jobs"]["running"] == 0)


def test_an_unknown_model(shared: RunningDaemon, tone: str) -> None:
    assert refused(shared, tone, "--model", "larg-v3") == (4, "model.unknown")
    assert "Did you mean large-v3" in shared.ctl("transcribe", tone, "--model", "larg-v3").err
    assert refused(shared, tone, "--model", "./nothing") == (4, "model.unknown")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("models", "import", "./nowhere"), "model.unknown"),
        (("models", "path", "./nowhere.bin"), "model.unknown"),
        (("runtimes", "create", "other", "--model", "./nowhere"), "model.unknown"),
        (("watch", "add", "nowhere"), "watch.absent"),
        (("watch", "add", ".", "--model", "larg-v3"), "model.unknown"),
        (("jobs", "list", "--runtime", "nowhere"), "runtime.unknown"),
        (("jobs", "cancel", "--all", "--runtime", "nowhere"), "runtime.unknown"),
    ],
)
def test_unknown_names_exit_with_4(shared: RunningDaemon, command: tuple[str, ...], code: str) -> None:
    done = shared.ctl(*command, "--json")
    assert (done.status, done.json["error"]["code"]) == (4, code)
    assert done.json["error"]["fix"]


def test_a_file_cannot_be_watched(shared: RunningDaemon, tone: str) -> None:
    done = shared.ctl("watch", "add", tone, "--json")
    assert (done.status, done.json["error"]["code"]) == (2, "watch.not_a_folder")


def test_an_unknown_language(shared: RunningDaemon, tone: str) -> None:
    assert refused(shared, tone, "--language", "germn") == (2, "language.unknown")
    assert "Did you mean german" in shared.ctl("transcribe", tone, "--language", "germn").err


def test_requests_beyond_an_english_model_are_refused(
    shared: RunningDaemon, toy: Callable[..., str], tone: str
) -> None:
    model = toy("tiny.en", multilingual=False)
    assert refused(shared, tone, "--model", model, "--task", "translate") == (2, "task.not_in_model")
    assert refused(shared, tone, "--model", model, "--language", "de") == (2, "language.not_in_model")


def test_a_model_that_fails_to_load(shared: RunningDaemon, toy: Callable[..., str], tone: str) -> None:
    assert refused(shared, tone, "--model", toy("broken", load_error="bad weights")) == (
        1,
        "model.load_failed",
    )


def test_a_worker_that_keeps_dying(shared: RunningDaemon, toy: Callable[..., str], tone: str) -> None:
    model = Path(toy("deadly"))
    (model / "crash").write_text("SIGKILL" if os.name == "posix" else "SIGTERM")
    assert refused(shared, tone, "--no-vad", "--model", str(model)) == (1, "worker.died")


def test_twenty_bad_files_at_once(shared: RunningDaemon, media: Path, tone: str) -> None:
    bad = [str(media / name) for name in ("text.wav", "garbled.m4a", "empty.wav", "silent_film.mp4")] * 5
    done = shared.ctl("transcribe", "--no-vad", *bad, tone)
    assert done.status == 1
    assert done.out.endswith(f"==> {tone} <==\ntranscribe 2.00 s\n")
    assert len(done.err.splitlines()) == 2 * len(bad)
