"""`whisperctl dictate`, with audio on standard input and with fake recorders."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from whisperd.speech import samples
from whisperd_testing import LIMIT_S, RunningDaemon, batches, until

pytestmark = pytest.mark.real
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals and executable scripts")

SPEECH = b"".join(sample.pcm + bytes(32_000) for sample in samples()[:2])
TEXT = ["transcribe 3.12 s", "transcribe 5.23 s"]

RECORDER = """
import os, sys, time
from pathlib import Path
folder = Path(__file__).parent
sys.stdout.buffer.write((folder / "speech").read_bytes())
sys.stdout.flush()
(folder / "recording").write_text(" ".join(sys.argv[1:]))
if (folder / "fail").exists():
    sys.exit(3)
time.sleep(600)
"""

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def recorder(tmp_path: Path, shared: RunningDaemon, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an `arecord` that outputs `SPEECH`, and then nothing until it is stopped."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "speech").write_bytes(SPEECH)
    (folder / "arecord.py").write_text(RECORDER)
    (folder / "arecord").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$0.py" "$@"\n')
    (folder / "arecord").chmod(0o755)
    monkeypatch.setitem(shared.env, "PATH", str(folder))
    return folder


def test_text_is_printed_line_by_line(shared: RunningDaemon) -> None:
    done = shared.ctl("dictate", "--stdin", input=SPEECH)
    assert (done.status, done.out.splitlines(), done.err) == (0, TEXT, "")


def test_silence_prints_nothing(shared: RunningDaemon) -> None:
    for nothing in (b"", b"\0", bytes(64_000)):
        done = shared.ctl("dictate", "--stdin", input=nothing)
        assert (done.status, done.out, done.err) == (0, "", "")


def test_json_is_one_document(shared: RunningDaemon) -> None:
    done = shared.ctl("dictate", "--stdin", "--json", input=SPEECH)
    assert (done.status, done.err) == (0, "")
    assert done.json["text"] == " ".join(TEXT)
    assert [one["text"].strip() for one in done.json["segments"]] == TEXT


def test_json_names_the_file_that_was_written(shared: RunningDaemon, tmp_path: Path) -> None:
    target = str(tmp_path / "speech.srt")
    done = shared.ctl("dictate", "--stdin", "--json", "-o", target, input=SPEECH)
    assert (done.status, done.json["output"]) == (0, target)


def test_stream_prints_events_as_json_lines(shared: RunningDaemon) -> None:
    done = shared.ctl("dictate", "--stdin", "--stream", input=SPEECH)
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [one["text"] for one in events if one["type"] == "transcription.segment"] == TEXT
    assert events[-1]["type"] == "transcription.completed"


def test_an_output_file_gets_the_lines(shared: RunningDaemon, tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    done = shared.ctl("dictate", "--stdin", "-o", str(target), input=SPEECH)
    assert (done.status, done.out) == (0, "")
    assert target.read_text().splitlines() == TEXT
    refused = shared.ctl("dictate", "--stdin", "-o", str(target), input=SPEECH)
    assert refused.status == 5 and "--overwrite" in refused.err
    assert target.read_text().splitlines() == TEXT
    unknown = shared.ctl(
        "dictate", "--stdin", "-o", str(target), "--overwrite", "--runtime", "nobody", input=SPEECH
    )
    assert unknown.status == 4
    assert target.read_text().splitlines() == TEXT
    again = shared.ctl("dictate", "--stdin", "-o", str(target), "--overwrite", input=SPEECH[:200_000])
    assert again.status == 0
    assert target.read_text().splitlines() != TEXT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full of Linux")
def test_a_full_disk_is_reported_for_the_output_file(shared: RunningDaemon) -> None:
    done = shared.ctl("dictate", "--stdin", "--json", "-o", "/dev/full", input=SPEECH)
    assert (done.status, done.json["error"]["code"]) == (1, "output.not_writable")
    assert done.json["error"]["message"].startswith("/dev/full cannot be written")
    assert done.err == ""


def test_subtitles_are_written_at_the_end(shared: RunningDaemon, tmp_path: Path) -> None:
    target = tmp_path / "talk.srt"
    done = shared.ctl("dictate", "--stdin", "-o", str(target), input=SPEECH)
    assert (done.status, done.out, done.err) == (0, "", "")
    assert target.read_text().startswith("1\n00:00:0")
    assert all(line in target.read_text() for line in TEXT)


def test_a_file_created_meanwhile_is_not_replaced_and_the_text_is_not_lost(
    shared: RunningDaemon, ctl_process: Start, tmp_path: Path
) -> None:
    target = tmp_path / "talk.srt"
    process = ctl_process("dictate", "--stdin", "--stream", "-o", str(target), stdin=subprocess.PIPE)
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["type"] != "job.started":
        pass
    target.write_text("mine")
    _, err = process.communicate(SPEECH, timeout=LIMIT_S)
    assert (process.returncode, target.read_text()) == (5, "mine")
    (command,) = re.findall(r"`whisperctl (jobs result .*)`", err.decode())
    assert all(line in shared.ctl(*command.split()).out for line in TEXT)


def test_output_dash_is_standard_output(
    shared: RunningDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = shared.ctl("dictate", "--stdin", "-o", "-", input=SPEECH)
    assert (done.status, done.out.splitlines(), list(tmp_path.iterdir())) == (0, TEXT, [])


def test_an_encoded_file_is_not_raw_audio(shared: RunningDaemon) -> None:
    done = shared.ctl("dictate", "--stdin", "--json", input=b"fLaC" + SPEECH)
    assert (done.status, done.json["error"]["code"]) == (1, "audio.unsupported")


def test_options_reach_the_job(shared: RunningDaemon) -> None:
    options = ("--language", "German", "--task", "translate", "--beam-size", "3", "--prompt", "So.")
    done = shared.ctl("dictate", "--stdin", *options, input=SPEECH)
    assert done.out.splitlines() == [line.replace("transcribe", "translate") for line in TEXT]
    job = shared.ctl("jobs", "list", "--json").json[-1]
    assert job["input"] == {"stream": True}
    wanted = {"language": "de", "task": "translate", "beam_size": 3, "prompt": "So."}
    assert {name: job["options"][name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--stdin", "--language", "Klingon"), 2),
        (("--stdin", "--runtime", "nobody"), 4),
        (("--stdin", "--stream", "--json"), 2),
        (("--stdin", "--channels", "split"), 2),
        (("--stdin", "recording.wav"), 2),
        (("--stdin", "-o", "/no/such/folder/notes.txt"), 1),
    ],
)
def test_invalid_arguments_are_refused(
    shared: RunningDaemon, arguments: tuple[str, ...], status: int
) -> None:
    done = shared.ctl("dictate", *arguments, input=SPEECH)
    assert done.status == status
    assert done.err.startswith("whisperctl: ") or "--json" in arguments


@posix
def test_the_microphone_is_recorded_until_ctrl_c(
    shared: RunningDaemon, ctl_process: Start, recorder: Path
) -> None:
    process = ctl_process("dictate")
    assert process.stdout is not None
    assert process.stdout.readline().decode().strip() == TEXT[0]
    recording = recorder / "recording"
    until(lambda: recording.exists() and recording.read_text())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out.decode().splitlines(), err) == (0, TEXT[1:], b"")
    assert "-r 16000" in recording.read_text()


@posix
def test_a_muted_microphone_is_reported(shared: RunningDaemon, ctl_process: Start, recorder: Path) -> None:
    (recorder / "speech").write_bytes(bytes(48_000))
    process = ctl_process("dictate")
    until((recorder / "recording").exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (0, b"")
    assert err.startswith(b"The microphone delivered only silence")


@posix
def test_ctrl_c_ends_standard_input_too(shared: RunningDaemon, ctl_process: Start) -> None:
    process = ctl_process("dictate", "--stdin", stdin=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(SPEECH)
    process.stdin.flush()
    assert process.stdout.readline().decode().strip() == TEXT[0]
    assert process.stdout.readline().decode().strip() == TEXT[1]
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 0


def jobs_on(daemon: RunningDaemon, model: Path) -> list[str]:
    """Return the statuses of the jobs with a model."""
    with daemon.connect() as client:
        return [one["status"] for one in client.jobs.list() if one["options"]["model"] == str(model)]


@posix
def test_ctrl_c_before_recording_cancels_the_job(
    shared: RunningDaemon, ctl_process: Start, held: Path
) -> None:
    (held / "hold_load").touch()
    process = ctl_process("dictate", "--stdin", "--stream", "--model", str(held), stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["type"] == "job.queued"
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 130
    (held / "hold_load").unlink()
    until(lambda: jobs_on(shared, held) == ["cancelled"])


@posix
def test_ctrl_c_twice_cancels_the_job(shared: RunningDaemon, ctl_process: Start, held: Path) -> None:
    process = ctl_process("dictate", "--stdin", "--model", str(held), stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(SPEECH)
    process.stdin.flush()
    until(lambda: batches(held))
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)  # a third signal would kill a process that is about to exit
    assert process.returncode == 130
    until(lambda: jobs_on(shared, held) == ["cancelled"])


@posix
def test_a_failing_recorder_is_an_error_but_its_audio_is_kept(shared: RunningDaemon, recorder: Path) -> None:
    (recorder / "fail").touch()
    done = shared.ctl("dictate")
    assert (done.status, done.out.splitlines()) == (1, TEXT)
    assert "the recorder exited with status 3" in done.err


@posix
def test_a_recorder_that_cannot_run_is_an_audio_error(shared: RunningDaemon, recorder: Path) -> None:
    (recorder / "arecord").write_text("")
    done = shared.ctl("dictate", "--json")
    assert (done.status, done.json["error"]["code"]) == (1, "audio.not_readable")


@posix
def test_a_missing_recorder_is_reported(
    shared: RunningDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(shared.env, "PATH", str(tmp_path))
    done = shared.ctl("dictate")
    assert (done.status, done.out) == (1, "")
    assert "--stdin" in done.err
