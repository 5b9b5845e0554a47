"""Log messages in the journal, with the job and the runtime as fields, and no transcript text."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.service_manager.journal import (
    JournalHandler,
    PrefixedFormatter,
    encode_entry,
    fields_of,
    is_journal,
    priority,
)
from whisperd_testing import LIMIT_S, TESTS, RunningDaemon, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the journal is systemd's")


class Journal:
    """A fake journal: reads entries from datagrams, and from the files passed instead of large ones."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.settimeout(LIMIT_S)

    def next(self) -> dict[str, str]:
        data, descriptors, _, _ = socket.recv_fds(self._socket, 1_000_000, 1)
        for descriptor in descriptors:
            with os.fdopen(descriptor, "rb") as file:
                file.seek(0)
                data = file.read()
        return decode_entry(data)

    def close(self) -> None:
        self._socket.close()


def decode_entry(data: bytes) -> dict[str, str]:
    """Decode an entry as the journal does."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        fields[name.decode()] = value.decode()
        data = rest
    return fields


@pytest.fixture
def journal() -> Iterator[Journal]:
    with tempfile.TemporaryDirectory(prefix="whisperd-") as folder:
        made = Journal(f"{folder}/journal")
        yield made
        made.close()


def record(message: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("whisperd.jobs", level, "manager.py", 7, message, args, None, "submit")


def test_the_fields_of_an_entry(journal: Journal) -> None:
    handler = JournalHandler(journal.path)
    handler.handle(record("job %s failed: %s", "5c1f", "audio.not_found", level=logging.WARNING))
    handler.close()
    assert journal.next() == {
        "MESSAGE": "job 5c1f failed: audio.not_found",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "whisperd",
        "LOGGER": "whisperd.jobs",
        "CODE_FILE": "manager.py",
        "CODE_LINE": "7",
        "CODE_FUNC": "submit",
        "WHISPERD_JOB": "5c1f",
    }


def test_an_entry_includes_its_traceback(journal: Journal) -> None:
    handler = JournalHandler(journal.path)
    try:
        raise ValueError("a mistake")
    except ValueError:
        failed = logging.LogRecord("whisperd", logging.ERROR, "a.py", 1, "failed", (), sys.exc_info())
    handler.handle(failed)
    handler.close()
    said = journal.next()
    assert said["MESSAGE"].splitlines()[0] == "failed"
    assert said["MESSAGE"].splitlines()[-1] == "ValueError: a mistake"
    assert said["PRIORITY"] == "3"


def test_an_entry_too_long_for_a_datagram_arrives(journal: Journal) -> None:
    handler = JournalHandler(journal.path)
    handler.handle(record("x" * 2_000_000))
    handler.close()
    assert len(journal.next()["MESSAGE"]) == 2_000_000


@pytest.mark.parametrize(
    ("message", "args", "fields"),
    [
        ("job %s queued: %s, %s", ("a1", "base", "bulk"), {"WHISPERD_JOB": "a1"}),
        ("runtime %s is idle and will be unloaded", ("base",), {"WHISPERD_RUNTIME": "base"}),
        ("%.1f s: job %s on runtime %s", (0.5, "a1", "b"), {"WHISPERD_JOB": "a1", "WHISPERD_RUNTIME": "b"}),
        ("stopping: %d jobs have %.0f s to finish", (2, 10.0), {}),
        ("whisperd has ended", (), {}),
    ],
)
def test_job_and_runtime_become_fields(
    message: str, args: tuple[object, ...], fields: dict[str, str]
) -> None:
    assert fields_of(record(message, *args)) == fields


@given(st.dictionaries(st.from_regex(r"\A[A-Z]{1,8}\Z"), st.text()))
def test_entries_survive_a_round_trip(fields: dict[str, str]) -> None:
    assert decode_entry(encode_entry(fields)) == fields


def test_priorities() -> None:
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
    assert [priority(level) for level in levels] == [7, 6, 4, 3, 2]


def test_lines_are_prefixed_with_their_priority() -> None:
    assert PrefixedFormatter().format(record("one\ntwo")) == "<6>whisperd.jobs: one\n<6>two"


def test_is_journal_compares_the_stream(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        status = os.fstat(file.fileno())
        assert is_journal(f"{status.st_dev}:{status.st_ino}", file.fileno())
        assert not is_journal("8:1", file.fileno())
        assert not is_journal("", file.fileno())
    assert not is_journal("8:1", 999_999)


def run_in_journal(daemon: RunningDaemon, folder: Path, journal: str) -> Path:
    """Start a daemon whose standard error belongs to the journal, as a manager would. Return that file."""
    stderr = folder / "stderr"
    with stderr.open("wb") as file:
        status = os.fstat(file.fileno())
        daemon.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "journal_daemon"],
            env={
                **daemon.env,
                "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}",
                "TEST_JOURNAL": journal,
                "PYTHONPATH": os.pathsep.join([str(TESTS / "backends"), str(TESTS / "service_manager")]),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    return stderr


def test_messages_of_a_job_reach_the_journal(
    make_daemon: Callable[..., RunningDaemon], journal: Journal, tmp_path: Path, toy: Callable[..., str]
) -> None:
    daemon = make_daemon()
    stderr = run_in_journal(daemon, tmp_path, str(journal.path))
    until(lambda: Path(daemon.socket).exists(), "its socket")
    tone = tmp_path / "tone.raw"
    tone.write_bytes(b"nothing that can be decoded")
    done = daemon.ctl("transcribe", "--model", toy(), str(tone), "--json")
    assert done.status == 1
    job = daemon.ctl("jobs", "list", "--json").json[0]["id"]
    said: dict[str, str] = {}
    while said.get("WHISPERD_JOB") != job:
        said = journal.next()
    assert said["MESSAGE"].startswith(f"job {job} ")
    assert stderr.read_text() == ""
    assert f"job {job} " in daemon.log()  # in the log file as well


def test_without_the_journal_socket_lines_have_a_priority(
    make_daemon: Callable[..., RunningDaemon], tmp_path: Path
) -> None:
    daemon = make_daemon()
    stderr = run_in_journal(daemon, tmp_path, str(tmp_path / "nobody"))
    until(lambda: "listens on" in stderr.read_text(), "its first line")
    assert stderr.read_text().startswith("<6>whisperd: whisperd ")
