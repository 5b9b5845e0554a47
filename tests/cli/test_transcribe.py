"""`whisperctl transcribe` through a real daemon, with the toy engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whisperd.cli.files import EXTENSIONS
from whisperd.outputs import FORMATS
from whisperd.rpc.errors import sendable
from whisperd_testing import LIMIT_S, RunningDaemon, until, write_tone

pytestmark = pytest.mark.real

TEXT = "transcribe 2.00 s\n"
posix = pytest.mark.skipif(os.name != "posix", reason="pipes and names as on POSIX")


def transcribe(daemon: RunningDaemon, *arguments: str, **options: Any) -> Any:
    return daemon.ctl("transcribe", "--no-vad", *arguments, **options)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_file_prints_only_its_text(shared: RunningDaemon, tone: str) -> None:
    done = transcribe(shared, tone)
    assert (done.status, done.out, done.err) == (0, TEXT, "")


def test_a_model_that_hears_nothing_prints_no_text(
    shared: RunningDaemon, tone: str, toy: Callable[..., str]
) -> None:
    done = transcribe(shared, "--model", toy("deaf", says=""), tone)
    assert (done.status, done.out, done.err) == (0, "", f"{tone}: no speech was found\n")


def test_several_files_have_headings(shared: RunningDaemon, tone: str) -> None:
    done = transcribe(shared, tone, tone)
    assert (done.status, done.err) == (0, "")
    assert done.out == f"==> {tone} <==\n{TEXT}" * 2


def test_a_failure_does_not_stop_the_others(shared: RunningDaemon, tone: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.wav")
    done = transcribe(shared, missing, tone)
    assert (done.status, done.out) == (1, f"==> {tone} <==\n{TEXT}")
    message, fix = done.err.splitlines()
    assert message.startswith(f"whisperctl: {missing}: ")
    assert fix.startswith("  ")


def test_more_files_than_subscriptions_are_allowed(shared: RunningDaemon, tone: str, tmp_path: Path) -> None:
    """Seventy files: more than a connection may have subscriptions."""
    files = [str(tmp_path / f"{index:02}.wav") for index in range(70)]
    for name in files:
        Path(name).symlink_to(tone)
    done = transcribe(shared, "--format", "json", *files)
    assert (done.status, done.err) == (0, "")
    assert done.out.count("==>") == done.out.count('"transcribe 2.00 s"') == 70


def test_json_is_one_document(shared: RunningDaemon, tone: str) -> None:
    document = transcribe(shared, tone, "--json").json
    assert (document["input"], document["text"], document["duration"]) == (tone, TEXT.strip(), 2.0)
    assert document["segments"][0]["tokens"] == [1, 2, 3]
    assert shared.ctl("jobs", "show", document["job"], "--json").json["status"] == "completed"


def test_json_of_several_files_is_one_array(shared: RunningDaemon, tone: str) -> None:
    done = transcribe(shared, "--json", tone, "missing.wav")
    assert (done.status, done.err) == (1, "")
    assert [document["input"] for document in done.json] == [tone, "missing.wav"]
    assert done.json[0]["text"] == TEXT.strip()
    assert done.json[1]["error"]["code"] == "audio.not_found"


def test_json_of_a_failure_is_the_error(shared: RunningDaemon) -> None:
    done = transcribe(shared, "--json", "missing.wav")
    assert (done.status, done.err) == (4, "")
    assert list(done.json) == ["error"]
    assert list(done.json["error"]) == ["code", "message", "fix", "data"]


@pytest.mark.parametrize(
    "arguments", [("--json",), ("--json", "transcribe"), ("--json", "transcribe", "a", "--x")]
)
def test_json_of_invalid_usage_is_the_error(shared: RunningDaemon, arguments: tuple[str, ...]) -> None:
    done = shared.ctl(*arguments)
    assert (done.status, done.err) == (2, "")
    assert done.json["error"]["code"].startswith("usage.")


@pytest.mark.parametrize("format_name", ["text", "json", "verbose_json"])
def test_formats_on_standard_output(shared: RunningDaemon, tone: str, format_name: str) -> None:
    done = transcribe(shared, tone, "--format", format_name)
    assert done.status == 0
    if format_name == "text":
        assert done.out == TEXT
    else:
        assert done.json["text"] == TEXT.strip()
        assert ("segments" in done.json) == (format_name == "verbose_json")


@pytest.mark.parametrize("format_name", sorted(EXTENSIONS))
def test_the_extension_of_the_output_file_sets_the_format(
    shared: RunningDaemon, tone: str, tmp_path: Path, format_name: str
) -> None:
    target = tmp_path / f"text.{EXTENSIONS[format_name]}"
    assert transcribe(shared, tone, "-o", str(target)).status == 0
    assert TEXT.strip() in target.read_text()
    meant = "json" if format_name == "verbose_json" else format_name
    assert transcribe(shared, tone, "--format", meant).out == target.read_text()


def test_client_and_daemon_know_the_same_formats() -> None:
    assert {name: known.extension for name, known in FORMATS.items()} == EXTENSIONS


def test_stream_prints_each_event_as_a_json_line(shared: RunningDaemon, tone: str) -> None:
    done = transcribe(shared, "--stream", tone, "missing.wav", tone)
    events = lines(done.out)
    assert done.status == 1
    assert {event["input"] for event in events} == {tone, "missing.wav"}
    assert all(event["time"] and "seq" in event for event in events)
    ends = [
        (event["input"], event["type"]) for event in events if event["type"].endswith(("completed", "failed"))
    ]
    assert ends == [
        (tone, "transcription.completed"),
        ("missing.wav", "transcription.failed"),
        (tone, "transcription.completed"),
    ]
    first = [event["type"] for event in events if event["id"] == events[0]["id"]]
    assert first[:2] == ["job.queued", "job.started"]
    assert "transcription.segment" in first


def test_output_is_written_to_a_file(shared: RunningDaemon, tone: str, tmp_path: Path) -> None:
    target = tmp_path / "text.txt"
    done = transcribe(shared, tone, "-o", str(target))
    assert (done.status, done.out, done.err) == (0, "", "")
    assert target.read_text() == TEXT


def test_a_file_has_the_same_content_as_standard_output(shared: RunningDaemon, tmp_path: Path) -> None:
    long = str(write_tone(tmp_path / "long.wav", 50.0))
    target = tmp_path / "text.txt"
    printed = transcribe(shared, long)
    transcribe(shared, long, "-o", str(target))
    assert len(printed.out.splitlines()) > 1
    assert target.read_text() == printed.out


def test_output_dash_is_standard_output(shared: RunningDaemon, tone: str) -> None:
    assert transcribe(shared, tone, "-o", "-").out == TEXT


def test_json_may_be_combined_with_a_file(shared: RunningDaemon, tone: str, tmp_path: Path) -> None:
    target = tmp_path / "text.txt"
    done = transcribe(shared, tone, "--json", "-o", str(target))
    assert done.json["output"] == str(target)
    assert target.read_text() == TEXT


def test_output_dir_gets_a_file_for_each_input(shared: RunningDaemon, tone: str, tmp_path: Path) -> None:
    other = str(write_tone(tmp_path / "other.wav", 1.0))
    folder = tmp_path / "new" / "texts"
    done = transcribe(shared, tone, other, "--format", "verbose_json", "--output-dir", str(folder))
    assert (done.status, done.out) == (0, "")
    assert done.err.splitlines() == [f"wrote {folder / name}.json" for name in ("tone", "other")]
    assert sorted(path.name for path in folder.iterdir()) == ["other.json", "tone.json"]
    assert json.loads((folder / "other.json").read_text())["duration"] == 1.0


@pytest.mark.parametrize("formats", [("srt,vtt,text",), ("srt", "vtt", "text,srt")])
def test_several_formats_are_written_by_one_job(
    shared: RunningDaemon, tone: str, tmp_path: Path, formats: tuple[str, ...]
) -> None:
    given = [word for one in formats for word in ("--format", one)]
    done = transcribe(shared, tone, *given, "--output-dir", str(tmp_path), "--json")
    files = {"srt": "tone.srt", "vtt": "tone.vtt", "text": "tone.txt"}
    assert done.json["outputs"] == {one: str(tmp_path / name) for one, name in files.items()}
    for one, name in files.items():
        content = shared.ctl("jobs", "result", done.json["job"], "--format", one).out
        assert (tmp_path / name).read_text() == content


def test_an_existing_output_file_is_refused_before_the_job(
    shared: RunningDaemon, tone: str, tmp_path: Path
) -> None:
    (tmp_path / "tone.vtt").write_text("mine")
    jobs = len(shared.ctl("jobs", "list", "--json").json)
    done = transcribe(shared, tone, "--format", "srt,vtt", "--output-dir", str(tmp_path))
    assert done.status == 5
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".wav") == ["tone.vtt"]
    assert len(shared.ctl("jobs", "list", "--json").json) == jobs


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (("--format", "srt,vtt"), "--output-dir"),
        (("--format", "srt,vtt", "-o", "a.srt"), "--output-dir"),
        (("--format", "json,verbose_json", "--output-dir", "d"), "Omit one of the formats"),
        (("--json", "--format", "srt"), "Omit --json"),
        (("--json", "--format", "srt", "-o", "-"), "Omit --json"),
    ],
)
def test_a_format_without_a_destination_is_refused(
    shared: RunningDaemon, arguments: tuple[str, ...], fix: str
) -> None:
    done = transcribe(shared, "a", *arguments, "--json")
    error = done.json["error"]
    assert (done.status, error["code"]) == (2, "usage.invalid")
    assert fix in error["fix"]


def test_json_may_be_combined_with_json_formats_and_files(
    shared: RunningDaemon, tone: str, tmp_path: Path
) -> None:
    for one in ("json", "verbose_json"):
        assert transcribe(shared, tone, "--json", "--format", one).json["segments"]
    target = tmp_path / "film"
    assert transcribe(shared, tone, "--json", "--format", "srt", "-o", str(target)).json["segments"]
    assert target.read_text().startswith("1\n")


def test_an_existing_file_is_not_replaced(shared: RunningDaemon, tone: str, tmp_path: Path) -> None:
    (tmp_path / "tone.txt").write_text("my notes")
    done = transcribe(shared, tone, "--output-dir", str(tmp_path))
    assert done.status == 5
    assert "--overwrite" in done.err
    assert (tmp_path / "tone.txt").read_text() == "my notes"
    quiet = transcribe(shared, tone, "--output-dir", str(tmp_path), "--overwrite", "--quiet")
    assert (quiet.status, quiet.err) == (0, "")
    assert (tmp_path / "tone.txt").read_text() == TEXT


def test_a_recording_is_not_replaced_by_its_text(shared: RunningDaemon, tone: str) -> None:
    before = Path(tone).read_bytes()
    done = transcribe(shared, tone, "-o", tone, "--overwrite", "--format", "text")
    assert done.status == 5
    assert Path(tone).read_bytes() == before


def test_two_recordings_of_one_name_do_not_share_a_file(shared: RunningDaemon, tmp_path: Path) -> None:
    names = [str(tmp_path / folder / "a.wav") for folder in ("x", "y")]
    done = transcribe(shared, *names, "--output-dir", str(tmp_path / "out"))
    assert done.status == 2
    assert "would both be written to" in done.err
    assert not (tmp_path / "out").exists()


@posix
def test_a_file_created_meanwhile_is_not_replaced(shared: RunningDaemon, tone: str, tmp_path: Path) -> None:
    """Simulated by a link, which makes two names one, as a case-insensitive file system does."""
    other, folder = str(write_tone(tmp_path / "other.wav", 1.0)), tmp_path / "texts"
    folder.mkdir()
    (folder / "other.txt").symlink_to("tone.txt")
    done = transcribe(shared, tone, other, "--output-dir", str(folder))
    assert done.status == 1
    assert f"{folder / 'other.txt'} already exists" in done.err
    assert (folder / "tone.txt").read_text() == TEXT


@pytest.mark.parametrize(
    "arguments",
    [
        ("a", "b", "-o", "text.txt"),
        ("-", "-"),
        ("a", "-o", "t", "--output-dir", "d"),
        ("a", "-o", "t", "--stream"),
        ("a", "--stream", "--detach"),
        ("a", "--detach", "--timeout", "5"),
        ("a", "--stream", "--format", "srt"),
    ],
)
def test_conflicting_options_are_refused(shared: RunningDaemon, arguments: tuple[str, ...]) -> None:
    done = transcribe(shared, *arguments)
    assert (done.status, done.out) == (2, "")


def test_a_format_with_detach_is_refused_with_advice(shared: RunningDaemon) -> None:
    done = transcribe(shared, "a", "--detach", "--format", "srt")
    assert (done.status, done.out) == (2, "")
    assert "`whisperctl jobs result ID --format srt`" in done.err


def test_an_unknown_extension_needs_an_explicit_format(
    shared: RunningDaemon, tone: str, tmp_path: Path
) -> None:
    target = tmp_path / "text.docx"
    done = transcribe(shared, tone, "-o", str(target))
    assert (done.status, done.out) == (2, "")
    assert ".docx" in done.err and ".srt" in done.err
    assert not target.exists()
    assert transcribe(shared, tone, "-o", str(target), "--format", "text").status == 0
    assert target.read_text() == TEXT


def test_stream_and_json_exclude_each_other(shared: RunningDaemon) -> None:
    done = transcribe(shared, "a", "--stream", "--json")
    assert (done.status, done.json["error"]["code"]) == (2, "usage.invalid")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--language", "klingon"), "language.unknown"),
        (("--beam-size", "99"), "usage.invalid"),
        (("--temperature", "0,7"), "usage.invalid"),
        (("--prompt", "x" * 5000), "rpc.invalid_params"),
        (("--clip", "0:30-0:10"), "clips.invalid"),
        (("--clip", "1:00-"), "clips.beyond_end"),
    ],
)
def test_an_invalid_option_value_is_refused(
    shared: RunningDaemon, tone: str, arguments: tuple[str, ...], code: str
) -> None:
    done = transcribe(shared, "--json", tone, *arguments)
    assert done.status == 2
    assert done.json["error"]["code"] == code


@pytest.mark.parametrize("parts", [("0:00.5-0:01; 0:01.25-",), ("0:00.5-0:01", "0:01.25-")])
def test_only_the_clips_are_transcribed(shared: RunningDaemon, tone: str, parts: tuple[str, ...]) -> None:
    clips = [word for part in parts for word in ("--clip", part)]
    document = transcribe(shared, tone, *clips, "--json").json
    assert document["text"] == "transcribe 0.50 s transcribe 0.75 s"
    times = [(segment["start"], segment["end"]) for segment in document["segments"]]
    assert times == [(0.5, 1.0), (1.25, 2.0)]
    assert document["duration"] == 2.0


def test_channels_may_be_transcribed_separately(shared: RunningDaemon, tmp_path: Path) -> None:
    path = str(write_tone(tmp_path / "call.wav", 2.0, channels=2))
    assert transcribe(shared, path, "--channels", "split").out == f"Speaker 1: {TEXT}Speaker 2: {TEXT}"
    target = tmp_path / "call.vtt"
    assert transcribe(shared, path, "--channels", "split", "-o", str(target)).status == 0
    assert "<v Speaker 1>transcribe 2.00 s\n" in target.read_text()
    assert "<v Speaker 2>transcribe 2.00 s\n" in target.read_text()


def test_options_reach_the_engine(shared: RunningDaemon, tone: str) -> None:
    options = ["--task=translate", "--language=German", "--beam-size=3", "--temperature=0,0.5"]
    more = ["--priority", "bulk", "--prompt", "p", "--hotwords", "h"]
    document = transcribe(shared, tone, "--json", *options, *more).json
    assert document["text"] == "translate 2.00 s"
    assert document["language"] == "de"
    job = shared.ctl("jobs", "show", document["job"], "--json").json
    assert job["options"] == {
        "runtime": None,
        "model": None,
        "language": "de",
        "task": "translate",
        "beam_size": 3,
        "temperature": [0.0, 0.5],
        "prompt": "p",
        "hotwords": "h",
        "vad": False,
        "channels": "mix",
        "track": None,
        "timestamps": "segment",
        "clip": None,
        "priority": "bulk",
        "cache": True,
    }


def test_a_model_may_be_a_relative_folder(shared: RunningDaemon, tone: str, toy: Callable[..., str]) -> None:
    folder = Path(toy("mine"))
    done = subprocess.run(
        [sys.executable, "-m", "whisperd.cli.main", "transcribe", "--no-vad", "--model", "./mine", tone],
        cwd=folder.parent,
        env=shared.env,
        capture_output=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stdout.decode()) == (0, TEXT)


def test_standard_input(shared: RunningDaemon, tone: str) -> None:
    done = transcribe(shared, "-", input=Path(tone).read_bytes())
    assert (done.status, done.out, done.err) == (0, TEXT, "")


def test_standard_input_among_files(shared: RunningDaemon, tone: str) -> None:
    done = transcribe(shared, tone, "-", input=Path(tone).read_bytes())
    assert done.out == f"==> {tone} <==\n{TEXT}==> standard input <==\n{TEXT}"


def test_files_before_standard_input_do_not_wait_for_it(
    ctl_process: Callable[..., subprocess.Popen[bytes]], tone: str
) -> None:
    process = ctl_process("transcribe", "--no-vad", tone, "-", stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().decode() == f"==> {tone} <==\n"
    assert process.stdout.readline().decode() == TEXT
    out, _ = process.communicate(Path(tone).read_bytes(), timeout=LIMIT_S)
    assert (process.returncode, out.decode()) == (0, f"==> standard input <==\n{TEXT}")


def test_files_after_standard_input_are_submitted_without_waiting(
    shared: RunningDaemon, ctl_process: Callable[..., subprocess.Popen[bytes]], held: Path, tone: str
) -> None:
    with Path(tone).open("rb") as sound:
        ctl_process("transcribe", "--no-vad", "--model", str(held), "-", tone, tone, stdin=sound)
    with shared.connect() as client:
        until(lambda: sum(one["options"]["model"] == str(held) for one in client.jobs.list()) == 3)


def test_standard_input_is_sent_in_chunks(shared: RunningDaemon, tmp_path: Path) -> None:
    long = write_tone(tmp_path / "long.wav", 100.0)  # three chunks
    done = transcribe(shared, "-", "--json", input=long.read_bytes())
    assert (done.status, done.json["duration"]) == (0, 100.0)


def test_empty_standard_input_is_an_error(shared: RunningDaemon) -> None:
    done = transcribe(shared, "-", "--json", input=b"")
    assert (done.status, done.json["error"]["code"]) == (1, "audio.empty")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!doctype html><html>", "The recording that was sent is a web page, "),
        (bytes(4000), "The recording that was sent is not readable audio or video, "),
    ],
)
def test_standard_input_that_is_not_a_recording(shared: RunningDaemon, content: bytes, said: str) -> None:
    done = transcribe(shared, "-", input=content)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"whisperctl: {said}")


@posix
def test_closed_standard_input_is_refused(shared: RunningDaemon) -> None:
    command = f'"{sys.executable}" -m whisperd.cli.main transcribe - <&-'
    done = subprocess.run(
        ["sh", "-c", command], env=shared.env, capture_output=True, check=False, timeout=LIMIT_S
    )
    assert done.returncode == 2
    assert b"no standard input" in done.stderr


@posix
def test_a_named_pipe_is_read_by_the_client(shared: RunningDaemon, tone: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(Path(tone).read_bytes()))
    writer.start()
    done = transcribe(shared, str(pipe))
    writer.join()
    assert (done.status, done.out, done.err) == (0, TEXT, "")


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="needs /dev/stdin")
def test_dev_stdin_is_the_clients_own(shared: RunningDaemon, tone: str) -> None:
    command = f'"{sys.executable}" -m whisperd.cli.main transcribe --no-vad /dev/stdin < "{tone}"'
    done = subprocess.run(
        ["sh", "-c", command], env=shared.env, capture_output=True, check=False, timeout=LIMIT_S
    )
    assert (done.returncode, done.stdout.decode()) == (0, TEXT)


@posix
@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"two\nlines.wav", b"-dash.wav", b"\x1b[31mred.wav"])
def test_unusual_file_names(shared: RunningDaemon, tone: str, tmp_path: Path, name: bytes) -> None:
    file = tmp_path / os.fsdecode(name)
    try:
        file.symlink_to(tone)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    done = transcribe(shared, str(file), str(file))
    assert (done.status, done.err) == (0, "")
    assert done.out.count(TEXT) == 2
    assert len(done.out.splitlines()) == 4
    assert "\x1b" not in done.out
    assert transcribe(shared, str(file), "--json").json["input"] == sendable(str(file))
    assert shared.ctl("jobs", "list").status == 0


@posix
def test_a_missing_file_with_an_unusual_name(shared: RunningDaemon, tmp_path: Path) -> None:
    done = transcribe(shared, str(tmp_path / "caf\udce9\n.wav"))
    assert (done.status, done.out) == (4, "")
    assert len(done.err.splitlines()) == 2


def test_detach_prints_the_id_and_the_job_continues(shared: RunningDaemon, tone: str) -> None:
    detached = transcribe(shared, tone, "--detach")
    assert detached.status == 0
    job = detached.out.strip()
    assert shared.ctl("jobs", "wait", job).status == 0
    assert shared.ctl("jobs", "result", job).out == TEXT


def test_detach_continues_after_a_failure(shared: RunningDaemon, tone: str) -> None:
    done = transcribe(shared, "missing.wav", tone, "--detach")
    assert done.status == 1
    assert len(done.out.split()) == 1
    documents = transcribe(shared, "missing.wav", tone, "--detach", "--json").json
    assert [sorted(document) for document in documents] == [["error", "input"], ["input", "job"]]


def test_detach_of_standard_input(shared: RunningDaemon, tone: str) -> None:
    job = transcribe(shared, "-", "--detach", "--json", input=Path(tone).read_bytes()).json["job"]
    assert shared.ctl("jobs", "follow", job).out == TEXT


def test_verbose_prints_the_speed(shared: RunningDaemon, tone: str) -> None:
    done = transcribe(shared, tone, "--verbose")
    assert done.out == TEXT
    assert "x real time" in done.err
    assert transcribe(shared, tone, "--verbose", "--quiet").err == ""


def test_no_daemon_and_no_start(make_daemon: Callable[..., RunningDaemon], tone: str) -> None:
    done = make_daemon().ctl("transcribe", tone, "--no-start")
    assert (done.status, done.out) == (3, "")
    assert "whisperctl daemon start" in done.err


def test_the_socket_can_be_named(
    shared: RunningDaemon, make_daemon: Callable[..., RunningDaemon], tone: str
) -> None:
    other = make_daemon()
    assert other.ctl("--socket", shared.socket, "transcribe", "--no-vad", tone, "--no-start").out == TEXT


def test_a_daemon_is_started_on_demand(
    make_daemon: Callable[..., RunningDaemon], tone: str, toy: Callable[..., str]
) -> None:
    done = make_daemon().ctl("transcribe", "--no-vad", "--model", toy(), tone)
    assert (done.status, done.out, done.err) == (0, TEXT, "")


def test_invalid_settings_prevent_the_start(make_daemon: Callable[..., RunningDaemon], tone: str) -> None:
    daemon = make_daemon()
    daemon.settings("[daemon]\ngrace_periods = 1\n")
    done = daemon.ctl("transcribe", tone, "--json")
    assert (done.status, done.json["error"]["code"]) == (3, "config.invalid")
    assert "grace_period_s" in done.json["error"]["fix"]
