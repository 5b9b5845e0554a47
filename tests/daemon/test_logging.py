"""The log is readable only by its owner, bounded in size, and free of any transcribed text."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from raw_client import RawClient

from whisperd.daemon.logfile import LOGGERS, LogFile, _PrivateFile
from whisperd.rpc.errors import WhisperdError
from whisperd.settings import LogSettings
from whisperd_testing import AUDIO, RunningDaemon, run_python, write_tone

MakeDaemon = Callable[..., RunningDaemon]


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Restore the loggers of this process after the test."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(one, one.level, list(one.handlers), list(one.filters)) for one in loggers]
    yield
    for one, level, handlers, filters in before:
        for handler in set(one.handlers) - set(handlers):
            handler.close()
        one.setLevel(level)
        one.handlers, one.filters = handlers, filters


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("restored_logging")
def test_the_log_is_private_from_creation_and_after_each_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, int]] = []
    open_file = os.open

    def note(path: str, flags: int, bits: int = 0o777) -> int:
        descriptor = open_file(path, flags, bits)
        opened.append((Path(path).name, stat.S_IMODE(os.fstat(descriptor).st_mode)))
        return descriptor

    monkeypatch.setattr(os, "open", note)
    previous = os.umask(0)
    try:
        LogFile(
            tmp_path / "state" / "daemon.log",
            LogSettings(max_bytes=10_000, files=2),
            level=None,
            to_terminal=False,
        )
        for number in range(1000):
            logging.getLogger("whisperd").info("line %d of a log that is to be rotated", number)
    finally:
        os.umask(previous)
    assert mode(tmp_path / "state") == 0o700
    files = sorted((tmp_path / "state").iterdir())
    assert [file.name for file in files] == ["daemon.log", "daemon.log.1", "daemon.log.2"]
    assert all(file.stat().st_size <= 10_000 for file in files)
    assert {mode(file) for file in files} == {0o600}
    assert len(opened) > 3 and set(opened) == {("daemon.log", 0o600)}
    assert "line 999" in files[0].read_text()


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_a_crash_of_native_code_leaves_a_traceback(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.has_a_bug = True
    daemon.settings("[log]\nlevel = 'debug'\nmax_bytes = 10000")
    daemon.start()
    log = daemon.folder / "state" / "daemon.log"
    with daemon.connect() as client:
        while not log.with_suffix(".log.1").exists():
            client.daemon.reload()
    daemon.signal(signal.SIGSEGV)
    assert daemon.wait() == -signal.SIGSEGV
    assert "\nFatal Python error: Segmentation fault\n" in daemon.log()
    daemon.start()
    crashes = [
        one for one in json.loads(daemon.ctl("doctor", "--json").out)["checks"] if one["name"] == "crashes"
    ]
    assert "(Segmentation fault)" in crashes[0]["message"]


@pytest.mark.usefixtures("restored_logging")
def test_a_full_disk_only_costs_lines_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: logging.Handler) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    LogFile(tmp_path / "daemon.log", LogSettings(), level=None, to_terminal=True)
    with monkeypatch.context() as patched:
        patched.setattr(_PrivateFile, "flush", refuse)
        logging.getLogger("whisperd").info("one line")
    logging.getLogger("whisperd").info("another")
    said = capsys.readouterr().err.splitlines()
    assert [line.rpartition(": ")[2] for line in said] == ["one line", "another"]
    assert "another" in (tmp_path / "daemon.log").read_text()


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize("step", ["close", "rename"])
def test_a_log_that_cannot_be_rotated_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    LogFile(tmp_path / "daemon.log", LogSettings(max_bytes=10_000), level=None, to_terminal=False)
    (handler,) = (one for one in logging.getLogger("whisperd").handlers if isinstance(one, _PrivateFile))
    lines = ["x" * 9_000, "y" * 9_000, "last"]

    def refuse(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    if step == "rename":
        monkeypatch.setattr(os, "rename", refuse)
    else:

        class Buffered(io.BytesIO):
            def close(self) -> None:
                super().close()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        handler.stream.close()
        handler.stream = io.TextIOWrapper(Buffered(b" " * 9_000))
        handler.stream.seek(0, os.SEEK_END)
        lines = lines[1:]
    for line in lines:
        logging.getLogger("whisperd").info(line)
    text = (tmp_path / "daemon.log").read_text()
    assert [line.rpartition(": ")[2] for line in text.splitlines()] == lines


@pytest.mark.usefixtures("restored_logging")
def test_an_existing_readable_log_becomes_private(tmp_path: Path) -> None:
    old = tmp_path / "daemon.log"
    old.write_text("from an earlier time\n")
    old.chmod(0o644)
    LogFile(tmp_path / "daemon.log", LogSettings(), level=None, to_terminal=False)
    assert mode(old) == 0o600
    assert old.read_text() == "from an earlier time\n"


def test_a_file_name_that_is_not_utf8_can_be_logged(tmp_path: Path) -> None:
    run_python(
        "import logging, os, sys; from pathlib import Path\n"
        "from whisperd.daemon.logfile import LogFile; from whisperd.settings import LogSettings\n"
        "LogFile(Path(sys.argv[1], 'daemon.log'), LogSettings(), level=None, to_terminal=False)\n"
        "logging.getLogger('whisperd').info('a file called %s', os.fsdecode(b'\\xff.wav'))",
        str(tmp_path),
        env=os.environ,
    )
    assert r"a file called \udcff.wav" in (tmp_path / "daemon.log").read_text()


def test_a_log_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WhisperdError) as caught:
        LogFile(tmp_path / "file" / "daemon.log", LogSettings(), level=None, to_terminal=False)
    assert caught.value.code == "log.not_writable"
    assert "WHISPERD_STATE_DIR" in caught.value.fix


@pytest.mark.real
def test_the_debug_log_contains_no_transcribed_text(
    make_daemon: MakeDaemon, toy: Callable[..., str], tmp_path: Path
) -> None:
    daemon = make_daemon()
    daemon.settings("[log]\nlevel = 'debug'\n")
    daemon.start()
    sound = write_tone(tmp_path / "secret meeting.wav", 3.0)
    with daemon.connect() as client:
        said = client.transcribe(sound, model=toy(), vad=False, prompt="a secret prompt", hotwords="Zanzibar")
        client.transcribe(sound.read_bytes(), model=toy(), vad=False)
        with pytest.raises(WhisperdError):
            client.transcribe(sound, model=toy("broken", error="the engine quotes the speaker"), vad=False)
        with RawClient(daemon) as raw, pytest.raises(WhisperdError):
            raw.request("jobs.submit", {"input": {"path": str(sound)}, "options": {"prompt": ["Zanzibar"]}})
    daemon.signal(signal.SIGTERM)
    daemon.wait()
    log = daemon.log()
    assert "completed" in log
    for secret in (said.text, "transcribe", "3.00 s", "secret", "Zanzibar", "quotes the speaker", "meeting"):
        assert secret not in log, secret


@pytest.mark.real
def test_the_debug_log_of_a_real_engine_contains_no_transcribed_text(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(toy=False)
    daemon.settings("[log]\nlevel = 'debug'\n")
    daemon.start()
    with daemon.connect() as client:
        text = client.transcribe(AUDIO / "jfk.flac", model="tiny.en").text
    daemon.signal(signal.SIGTERM)
    daemon.wait()
    log = daemon.log().lower()
    assert "completed" in log
    for word in {word.strip(".,").lower() for word in text.split() if len(word) > 5}:
        assert word not in log, word


FAILING = """
from whisperd.daemon import main
from whisperd.rpc.errors import WhisperdError

async def fail(*_):
    raise WhisperdError("some.problem", "It broke.", "Mend it.")

main.feed_watchdog = fail
if __name__ == "__main__":
    main.main()
"""


def test_a_fatal_error_of_a_running_daemon_is_logged(
    make_daemon: Callable[..., RunningDaemon], tmp_path: Path
) -> None:
    (tmp_path / "failing_daemon.py").write_text(FAILING)
    daemon = make_daemon(program=("failing_daemon",), env={"PYTHONPATH": str(tmp_path)}).start()
    daemon.has_a_bug = True
    assert daemon.wait() == 1
    assert "an internal error" in daemon.log() and "It broke." in daemon.log()
